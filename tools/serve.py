"""serve: a page where pictures are dropped and found again, by one stage and two; and a JSON API.

delf_tf serve --index=OUT                          (a folder that retrieve made)
delf_tf serve --index=OUT --watch --token_file=TOKEN
delf_tf serve --index=INDEX --database_store=STORE --images_dir=DIR --config=CONFIG [--weights=PATH]

The page is at http://127.0.0.1:8000 and answers this machine alone unless --host says otherwise.
What is uploaded to search with is forgotten. Nothing is written, unless --watch or --token_file
asks for it: then the folder's images are followed. The JSON API describes itself at /api and
/openapi.json. Needs 'delf_tf[serve]'.
"""

from __future__ import annotations

import contextlib
import sys

from delf_tf.checks import UsageError
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import retrieve
from delf_tf.pipelines.photos import served
from delf_tf.pipelines.photos.model import Model
from delf_tf.pipelines.photos.photos import Photos
from delf_tf.pipelines.runtime import Runtime
from delf_tf.serving.live import LiveFolder
from delf_tf.serving.service import RetrievalService
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_config()
FLAGS.add_text(
    "index", "folder of retrieve, an index of build_index, or milvus://HOST:PORT/COLLECTION"
)
FLAGS.add_text("database_store", "feature store of the database")
FLAGS.add_text("images_dir", "folder of the database images")
FLAGS.add_text("token_file", "file with the access token for adding and deleting images; mode 0600")
FLAGS.add_text("host", "address to listen on", "127.0.0.1")
FLAGS.add_count("port", "port to listen on; 0: any free port", 8000, least=0, most=65535)
FLAGS.add_list("allowed_hosts", "further host names that requests may carry; * allows any")
FLAGS.add_list("rerank_methods", "methods of re-ranking to choose from, beside the config's")
FLAGS.add_count("num_threads", "threads for verifying pairs", 2)
FLAGS.add_count("max_upload_mb", "largest upload, 10^6 bytes", 20)
FLAGS.add_count("max_queries", "concurrent queries; further ones are answered 429", 4)
FLAGS.add_switch("watch", "follow the images of retrieve, at the start and while serving")
FLAGS.add_switch(
    "allow_mixed",
    "serve features of another backend or precision, if some images extracted again are near",
)


def main(flags: command_line.Flags) -> None:
    """Runs the tool."""
    try:
        from delf_tf.serving import access, app, server  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UsageError(f"serve needs: pip install 'delf_tf[serve]' ({error}).") from None
    token = access.read_token(flags.token_file) if flags.token_file else None
    service, folder, runtime, name = open_collection(flags)
    host = flags.host
    # Bound to all interfaces, valid host names are unknown.
    everyone = host in ("0.0.0.0", "::")
    own = ("*",) if everyone and not flags.allowed_hosts else (host,)
    made = app.create_app(
        service,
        name=name,
        allowed_hosts=(*own, *flags.allowed_hosts),
        max_upload_bytes=flags.max_upload_mb * 1_000_000,
        max_pixels=min(runtime.message.extraction.max_image_pixels, 50_000_000),
        max_queries=flags.max_queries,
        changes=folder,
        token=token,
    )
    with folder.watched() if flags.watch else contextlib.nullcontext():
        server.run(made, host, flags.port, on_ready=command_line.write_result)


def open_collection(
    flags: command_line.Flags,
) -> tuple[RetrievalService, LiveFolder | None, Runtime, str]:
    """Opens what the flags name: what answers, what follows the folder, experiment and name.

    Raises:
      UsageError: flags that are missing, or given beside a folder that contains them.
      InputError: features made by another model, images that are not there.
    """
    (path,) = flags.require("index")
    changes = flags.watch or flags.token_file
    if retrieve.is_folder(path):
        given = [n for n in ("database_store", "images_dir", "config") if flags[n].value]
        if given:
            raise UsageError(f"--{given[0]} must be left out: the folder of retrieve contains it.")
        message, store, images_dir = retrieve.read_folder(
            path, flags.set, allow_imports=flags.allow_import
        )
        flags.override(message.model, "weights")
        index = None
    elif changes:
        raise UsageError("--watch and --token_file need a folder of retrieve as --index.")
    else:
        store, images_dir = flags.require("database_store", "images_dir")
        message, index = flags.read_config(), path
    runtime, methods = Runtime(message), flags.rerank_methods
    if changes:
        options = {"methods": methods, "num_threads": flags.num_threads}
        folder = served.live_folder(Model(runtime), images_dir, path, **options)
        return folder.service, folder, runtime, folder.images_dir.name
    options = flags.pick("num_threads", "allow_mixed")
    photos = Photos(runtime, FeatureStore(store), images_dir, index=index, **options)
    service = RetrievalService(served.collection(photos, methods))
    return service, None, runtime, photos.images_dir.name


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
