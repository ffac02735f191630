"""A process that runs tools in forks of itself, and kills them at a chosen step on the disk.

A step is a file made or opened to write, synced, renamed or removed below the watched folder. A
fork that is killed while it syncs loses half of what it had written, as when the power fails.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import stat
import sys

_STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Steps:
    """Counts steps below a folder; at one of them the process dies."""

    def __init__(self, folder, kill_at):
        self._folder, self._kill_at = os.path.realpath(folder), kill_at
        self.num = 0
        self._sync = os.fsync

    def start(self):
        """Begins to count."""
        sys.addaudithook(self._on_event)
        os.fsync = self._on_sync

    def _on_event(self, event, arguments):
        if event not in _STEPS or not isinstance(arguments[0], (str, bytes)):
            return
        path = os.fsdecode(arguments[0])
        reads = event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITES)
        if path.startswith(self._folder) and not reads:
            self._step()

    def _on_sync(self, file):
        descriptor = file if isinstance(file, int) else file.fileno()
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            self._step(descriptor)
        return self._sync(file)

    def _step(self, descriptor=None):
        self.num += 1
        if self.num == self._kill_at:
            if descriptor is not None:
                os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)


def _run(request, report):
    """What a fork does: runs a tool and tells its steps."""
    import tensorflow as tf

    from delf_tf.tools import main

    # Making graphs would take most of the time.
    tf.config.run_functions_eagerly(True)
    os.dup2(2, 1)
    steps = Steps(request["folder"], request["kill_at"])
    steps.start()
    code = main.main(["delf_tf", *request["argv"]])
    os.write(report, str(steps.num).encode())
    sys.stderr.flush()
    os._exit(code)


def serve(modules):
    """Answers requests, a JSON object a line: argv, folder and kill_at in, status and steps out."""
    for name in modules:
        importlib.import_module(name)
    print("ready", flush=True)
    for line in sys.stdin:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            _run(json.loads(line), write)
        os.close(write)
        _, status = os.waitpid(child, 0)
        with os.fdopen(read, "rb") as file:
            steps = int(file.read() or 0)
        print(json.dumps([os.waitstatus_to_exitcode(status), steps]), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1:])
