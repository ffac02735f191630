"""Reads mutants of every format, each format in a process of its own; prints JSON, a line each.

python -m tests.hostile.attack FOLDER NUM_MUTANTS SEED [FORMAT…]
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from absl import logging

from delf_tf.checks import InputError
from tests.hostile.formats import FORMATS, Format
from tests.hostile.mutation import mutate

# Above what the process has when it starts; and of processor time, which a busy machine prolongs
# less than the clock's.
MAX_BYTES = 1 << 30
MAX_SECONDS = 5


def attack(one: Format, name: str, folder: Path, numbers: range, seed: int) -> dict[str, Any]:
    """Reads the sample and mutants; returns how they ended, and the first fault."""
    folder.mkdir(parents=True)
    paths = one.make(folder)
    whole = {path: path.read_bytes() for path in paths}
    one.read(folder)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MAX_BYTES, size + MAX_BYTES))
    ended = {"read": 0, "refused": 0}
    for number in numbers:
        rng = random.Random(f"{seed} {name} {number}")
        changed = rng.choice(paths)
        changed.write_bytes(mutate(whole[changed], rng))
        # What is left when the process is killed tells the mutant.
        (folder / "at").write_text(json.dumps({**ended, "number": number, "file": changed.name}))
        # The default action ends the process, wherever it hangs.
        signal.setitimer(signal.ITIMER_PROF, MAX_SECONDS)
        try:
            one.read(folder)
            ended["read"] += 1
        except InputError as error:
            ended["refused"] += 1
            if len(str(error)) > 3000 or "\n" in str(error):
                return {**ended, "fault": f"mutant {number}: message {str(error)[:300]!r}"}
        except Exception:  # What this is to find.
            fault = traceback.format_exc()[-900:]
            return {**ended, "fault": f"mutant {number} of {changed.name}: {fault}"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        changed.write_bytes(whole[changed])
    return ended


def apart(name: str, folder: Path, num: int, seed: int) -> dict[str, Any]:
    """Attacks a format in child processes; tells how one died, if it did."""
    one, ended, start = FORMATS[name], {"read": 0, "refused": 0, "stopped": 0}, 0
    while True:
        below = folder / f"{name}-{start}"
        told, status = _in_a_child(one, name, below, range(start, num), seed)
        if not told:
            told = {**json.loads((below / "at").read_text())}
            if not (one.is_the_librarys and os.WTERMSIG(status) == signal.SIGPROF):
                return {"fault": f"killed by signal {os.WTERMSIG(status)} at {told}"}
            ended["stopped"] += 1
        for count in ("read", "refused"):
            ended[count] += told.get(count, 0)
        if "number" not in told:
            return {**ended, **({"fault": told["fault"]} if "fault" in told else {})}
        start = told["number"] + 1


def _in_a_child(
    one: Format, name: str, folder: Path, numbers: range, seed: int
) -> tuple[dict[str, Any] | None, int]:
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            ended = attack(one, name, folder, numbers, seed)
        except BaseException:
            ended = {"fault": traceback.format_exc()[-1500:]}
        os.write(sending, json.dumps(ended).encode())
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as pipe:
        told = pipe.read()
    return (json.loads(told) if told else None), os.waitpid(child, 0)[1]


def main(arguments: list[str]) -> None:
    """Attacks all formats, or those that are named."""
    folder, num, seed, *names = arguments
    warnings.simplefilter("ignore")
    logging.set_verbosity(logging.FATAL)
    for name in names or FORMATS:
        ended = apart(name, Path(folder), int(num), int(seed))
        sys.stdout.write(json.dumps({"format": name, **ended}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
