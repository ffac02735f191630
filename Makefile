# `make demo` and `make test` work on a bare machine with Python 3.10 to 3.13: each makes .venv first.
PYTHON ?= python3
VENV ?= .venv
DEMO_OUTPUT ?= demo_output
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo demo-train test lint protos clean

$(STAMP): setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	$(BIN)/python -m pip check
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/delf_tf demo --output_dir=$(DEMO_OUTPUT)

demo-train: $(STAMP)
	$(BIN)/delf_tf demo --config=compact_demo --output_dir=demo_train_output

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Needs grpcio-tools 1.62 (protoc 25), whose output runs on protobuf 4.25 and everything newer.
protos:
	$(PYTHON) -m grpc_tools.protoc --proto_path=delf_tf/protos=protos --python_out=. protos/*.proto
	mv delf_tf/protos/*_pb2.py protos/ && rmdir delf_tf/protos

clean:
	rm -rf $(VENV) build dist *.egg-info demo_output demo_train_output
