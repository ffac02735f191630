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
from collections.abc import Sequence

from absl import flags

from delf_tf.checks import UsageError
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import retrieve
from delf_tf.pipelines.photos import Model, Photos
from delf_tf.pipelines.runtime import Runtime
from delf_tf.serving.live import LiveFolder
from delf_tf.serving.service import RetrievalService
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
command_line.define_config_flags(FLAGS)
for _name, _help in (
    ("index", "folder of retrieve, an index of build_index, or milvus://HOST:PORT/COLLECTION"),
    ("database_store", "feature store of the database"),
    ("images_dir", "folder of the database images"),
    ("token_file", "file with the token of who may add and delete images; mode 0600"),
):
    flags.DEFINE_string(_name, None, _help, flag_values=FLAGS)
flags.DEFINE_string("host", "127.0.0.1", "address to listen on", flag_values=FLAGS)
command_line.define_count(
    FLAGS, "port", 8000, "port to listen on; 0: any free port", least=0, most=65535
)
for _name, _help in (
    ("allowed_hosts", "further host names that requests may carry; * allows any"),
    ("rerank_methods", "methods of re-ranking to choose from, beside the config's"),
):
    flags.DEFINE_list(_name, [], _help, flag_values=FLAGS)
command_line.define_count(FLAGS, "num_threads", 2, "threads for verifying pairs")
command_line.define_count(FLAGS, "max_upload_mb", 20, "largest upload, 10^6 bytes")
command_line.define_count(
    FLAGS, "max_queries", 4, "concurrent queries; further ones are answered 429"
)
for _name, _help in (
    ("watch", "follow the images of retrieve, at the start and while serving"),
    ("follow", "the former name of --watch"),
    (
        "allow_mixed",
        "serve features of another backend or precision, if some images extracted again are near",
    ),
):
    flags.DEFINE_boolean(_name, False, _help, flag_values=FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    if flag_values.follow:
        raise UsageError("--follow must be given as --watch, which goes on while it serves.")
    try:
        from delf_tf.serving import access, app, server  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UsageError(f"serve needs: pip install 'delf_tf[serve]' ({error}).") from None
    token = access.read_token(flag_values.token_file) if flag_values.token_file else None
    service, folder, runtime, name = open_collection(flag_values)
    host = flag_values.host
    # Bound to all interfaces, valid host names are unknown.
    everyone = host in ("0.0.0.0", "::")
    own = ("*",) if everyone and not flag_values.allowed_hosts else (host,)
    made = app.create_app(
        service,
        name=name,
        allowed_hosts=(*own, *flag_values.allowed_hosts),
        max_upload_bytes=flag_values.max_upload_mb * 1_000_000,
        max_pixels=min(runtime.message.extraction.max_image_pixels, 50_000_000),
        max_queries=flag_values.max_queries,
        changes=folder,
        token=token,
    )
    with folder.watched() if flag_values.watch else contextlib.nullcontext():
        server.run(made, host, flag_values.port, on_ready=command_line.write_result)


def open_collection(
    flag_values: flags.FlagValues,
) -> tuple[RetrievalService, LiveFolder | None, Runtime, str]:
    """Opens what the flags name: what answers, what follows the folder, experiment and name.

    Raises:
      UsageError: flags that are missing, or given beside a folder that contains them.
      InputError: features made by another model, images that are not there.
    """
    (path,) = command_line.required(flag_values, "index")
    changes = flag_values.watch or flag_values.token_file
    methods, num_threads = flag_values.rerank_methods, flag_values.num_threads
    if retrieve.is_folder(path):
        given = [n for n in ("database_store", "images_dir", "config") if flag_values[n].value]
        if given:
            raise UsageError(f"--{given[0]} must be left out: the folder of retrieve contains it.")
        overrides, allowed = flag_values["set"].value, flag_values.allow_import
        message, store, images_dir = retrieve.read_folder(path, overrides, allow_imports=allowed)
        command_line.override_by_flags(flag_values, message.model, "weights")
        index = None
    elif changes:
        raise UsageError("--watch and --token_file need a folder of retrieve as --index.")
    else:
        store, images_dir = command_line.required(flag_values, "database_store", "images_dir")
        message, index = command_line.read_config(flag_values), path
    runtime = Runtime(message)
    if changes:
        options = {"methods": methods, "num_threads": num_threads}
        folder = Model(runtime).live_folder(images_dir, path, **options)
        return folder.service, folder, runtime, folder.images_dir.name
    options = {"num_threads": num_threads, "allow_mixed": flag_values.allow_mixed}
    photos = Photos(runtime, FeatureStore(store), images_dir, index=index, **options)
    return RetrievalService(photos.served(methods)), None, runtime, photos.images_dir.name


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
