"""A process that serves the painted collection; for tests of what happens on the wire."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from delf_tf.serving.app import create_app
from delf_tf.serving.server import run
from tests.serving import collection


def main(folder: str, options: str) -> None:
    """Serves until it is told to end; `options` is JSON: max_files, app, server."""
    chosen = json.loads(options)
    if "max_files" in chosen:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (chosen["max_files"], hard))
    app = create_app(collection.make(Path(folder)), **chosen.get("app", {}))
    run(app, "127.0.0.1", 0, on_ready=lambda at: print(at, flush=True), **chosen.get("server", {}))


if __name__ == "__main__":
    main(*sys.argv[1:])
