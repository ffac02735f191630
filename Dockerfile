# Searches a folder of pictures; docs/serving.md tells how to build and run it.
FROM python:3.12-slim AS build
WORKDIR /build
COPY setup.py pyproject.toml README.md LICENSE ./
COPY configs configs
COPY delf_tf delf_tf
COPY protos protos
COPY tools tools
RUN python -m venv /opt/delf_tf
RUN /opt/delf_tf/bin/pip install --no-cache-dir ".[serve]"

FROM python:3.12-slim
COPY --from=build /opt/delf_tf /opt/delf_tf
# Whoever it runs as: compiled loops and exported networks are kept in /cache, pictures come to /data.
RUN install --directory --mode=1777 /cache /data
ENV HOME=/cache
ENV NUMBA_CACHE_DIR=/cache/numba
ENV PATH=/opt/delf_tf/bin:/usr/local/bin:/usr/bin:/bin
WORKDIR /data
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/api/collection?limit=1', timeout=9)"]
ENTRYPOINT ["delf_tf"]
CMD ["serve", "--index=found", "--host=0.0.0.0"]
