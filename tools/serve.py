"""serve: a page where a picture is dropped and found again, by one stage and two; and a JSON API.

delf_tf serve --index=OUT                          (a folder that retrieve made)
delf_tf serve --index=INDEX --database_store=STORE --images_dir=DIR --config=CONFIG [--weights=PATH]

The page is at http://127.0.0.1:8000 and answers this machine alone unless --host says otherwise.
What is uploaded is searched with and forgotten; nothing is written, but with --follow, before the
server starts. The JSON API describes itself at /api and /openapi.json. Needs 'delf_tf[serve]'.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from delf_tf import config
from delf_tf.checks import UsageError
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import photos, retrieve
from delf_tf.pipelines.runtime import Runtime
from delf_tf.tools import command_line

if TYPE_CHECKING:
    from fastapi import FastAPI

FLAGS = flags.FlagValues()
command_line.define_config_flags(FLAGS)
flags.DEFINE_string(
    "index",
    None,
    "output folder of retrieve, an index that build_index wrote, or milvus://HOST:PORT/COLLECTION",
    flag_values=FLAGS,
)
flags.DEFINE_string("database_store", None, "feature store of the database", flag_values=FLAGS)
flags.DEFINE_string("images_dir", None, "folder of the database images", flag_values=FLAGS)
flags.DEFINE_string("host", "127.0.0.1", "address to listen on", flag_values=FLAGS)
command_line.define_count(
    FLAGS, "port", 8000, "port to listen on; 0: any free port", least=0, most=65535
)
flags.DEFINE_list(
    "allowed_hosts",
    [],
    "further host names that requests may carry; * allows any",
    flag_values=FLAGS,
)
command_line.define_count(FLAGS, "num_threads", 2, "threads for verifying pairs")
command_line.define_count(FLAGS, "max_upload_mb", 20, "largest upload, 10^6 bytes")
command_line.define_count(
    FLAGS, "max_queries", 4, "concurrent queries; further ones are answered 429"
)

flags.DEFINE_boolean("follow", False, "first follow the images of retrieve", flag_values=FLAGS)
flags.DEFINE_boolean(
    "allow_mixed",
    False,
    "serve features of another backend or precision, if some images extracted again are near them",
    flag_values=FLAGS,
)

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    app = create_app(open_photos(flag_values), flag_values)
    from delf_tf.serving import server  # noqa: PLC0415 - an extra

    server.run(app, flag_values.host, flag_values.port, on_ready=command_line.write_result)


def open_photos(flag_values: flags.FlagValues) -> photos.Photos:
    """Opens what the flags name.

    Raises:
      UsageError: flags that are missing, or given beside a folder that contains them.
      InputError: features made by another model, images that are not there.
    """
    (path,) = command_line.required(flag_values, "index")
    num_threads = flag_values.num_threads
    if retrieve.is_folder(path):
        given = [n for n in ("database_store", "images_dir", "config") if flag_values[n].value]
        if given:
            raise UsageError(f"--{given[0]} must be left out: the folder of retrieve contains it.")
        message, store, images_dir = retrieve.read_folder(
            path, allow_imports=flag_values.allow_import
        )
        for override in flag_values["set"].value:
            config.apply_override(message, override)
        config.check_imports(message, flag_values.allow_import)
        command_line.override_by_flags(flag_values, message.model, "weights")
        if flag_values.follow:
            return photos.Model(Runtime(message)).extract(images_dir, path, num_threads=num_threads)
        path = None
    else:
        store, images_dir = command_line.required(flag_values, "database_store", "images_dir")
        message = command_line.read_config(flag_values)
    options = {"num_threads": num_threads, "allow_mixed": flag_values.allow_mixed}
    return photos.Photos(Runtime(message), FeatureStore(store), images_dir, index=path, **options)


def create_app(opened: photos.Photos, flag_values: flags.FlagValues) -> FastAPI:
    """Makes the application with the flags' limits.

    Raises:
      UsageError: the extra `serve` is not installed.
    """
    try:
        from delf_tf.serving import app  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UsageError(f"serve needs: pip install 'delf_tf[serve]' ({error}).") from None
    host = flag_values.host
    # Bound to all interfaces, valid host names are unknown.
    everyone = host in ("0.0.0.0", "::")
    own = ("*",) if everyone and not flag_values.allowed_hosts else (host,)
    return app.create_app(
        opened.service(),
        name=opened.images_dir.name,
        allowed_hosts=(*_LOOPBACK, *own, *flag_values.allowed_hosts),
        max_upload_bytes=flag_values.max_upload_mb * 1_000_000,
        max_pixels=min(opened.runtime.message.extraction.max_image_pixels, 50_000_000),
        max_queries=flag_values.max_queries,
    )


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
