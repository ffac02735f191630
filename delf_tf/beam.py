"""Work in parts by an Apache Beam pipeline: several processes of one machine, or a cluster.

A part is done by one call on one worker, which leaves the result where every worker can write, such
as a network file system. Beam repeats the parts of a worker that is lost, and may do a part twice
at once: it must be written whole or not at all, and take no time once it is there.

Needs `pip install "delf_tf[beam]"`; nothing of the package imports this module unless asked to.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from delf_tf.checks import InputError, invalid, require

try:
    import apache_beam
    from apache_beam.options.pipeline_options import (
        DirectOptions,
        PipelineOptions,
        StandardOptions,
    )
except ImportError as error:
    raise invalid(
        "Apache Beam must be installed.", hint='Run: pip install "delf_tf[beam]".'
    ) from error

OpenWorker = Callable[[], Callable[[Any], object]]

_DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"
_AGAIN = "Run the same command again: what was done is kept."
# What a thread of a worker holds from one bundle of parts to the next.
_held = threading.local()


def run(
    open_worker: OpenWorker,
    parts: Sequence[Any],
    flags: Sequence[str],
    count_left: Callable[[], int],
) -> None:
    """Does all parts, and returns when they are done.

    Args:
      open_worker: gets a worker ready, which may take seconds, and returns what does one part; it
        travels to the workers, pickled, and is called once in each of their threads.
      parts: what each call is given; pickled too.
      flags: Beam's own, such as "--runner=FlinkRunner".
      count_left: tells afterwards how many parts are not done.

    Raises:
      InputError: a pipeline that cannot start or breaks off; parts that are left at its end.
    """
    options = PipelineOptions(_complete(flags)).view_as(DirectOptions)
    apart = options.direct_running_mode == "multi_processing"
    try:
        (_run_apart if apart else _run)(open_worker, parts, list(flags))
    except InputError:
        raise
    except Exception as error:  # Each runner has its own.
        lines = str(error).strip().splitlines()
        raise invalid(
            "A Beam pipeline must run to its end.",
            hint=_AGAIN,
            fault=f"{type(error).__name__}: {lines[-1] if lines else ''}",
        ) from error
    # To a runner whose cluster goes away this can look like a good end.
    num_left = count_left()
    require(
        num_left == 0,
        "A Beam pipeline must end with all its parts done; its cluster may have gone away.",
        hint=_AGAIN,
        num_left=num_left,
        num_parts=len(parts),
    )


class _Do(apache_beam.DoFn):
    """Does parts, one after the other."""

    def __init__(self, open_worker: OpenWorker):
        super().__init__()
        self._open_worker, self._key = open_worker, os.urandom(16)

    def setup(self) -> None:
        """Gets the worker ready, unless the thread did so for an earlier bundle, as Dask's are."""
        if getattr(_held, "key", None) != self._key:
            _held.do, _held.key = self._open_worker(), self._key
        self._do = _held.do

    def process(self, part: Any) -> None:
        """Does one part."""
        self._do(part)


def _run(open_worker: OpenWorker, parts: Sequence[Any], flags: Sequence[str]) -> None:
    pipeline = apache_beam.Pipeline(options=PipelineOptions(_complete(flags)))
    (
        pipeline
        | "Parts" >> apache_beam.Create(parts)
        # Without it all parts would go to the worker that made them.
        | "Spread" >> apache_beam.Reshuffle()
        | "Do" >> apache_beam.ParDo(_Do(open_worker))
    )
    result = pipeline.run()
    # Of Dask's alone, which else stays connected.
    client = getattr(result, "client", contextlib.nullcontext())
    with client:
        result.wait_until_finish()


def _complete(flags: Sequence[str]) -> list[str]:
    """Adds what Beam leaves out for Dask: its full name, and a task a part instead of one a 128."""
    if PipelineOptions(list(flags)).view_as(StandardOptions).runner not in ("DaskRunner", _DASK):
        return list(flags)
    sizes = ("--dask_npartitions", "--dask_partition_size")
    given = any(flag.startswith(sizes) for flag in flags)
    return [*([] if given else ["--dask_partition_size=1"]), *flags, f"--runner={_DASK}"]


def _run_apart(open_worker: OpenWorker, parts: Sequence[Any], flags: Sequence[str]) -> None:
    """Runs in a process of its own: Beam waits for ever for a local worker that was killed."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            pool.submit(_run_until_lost, open_worker, parts, flags).result()
        except concurrent.futures.process.BrokenProcessPool:
            raise invalid(
                "Every worker process must live to the end; one was killed (out of memory?).",
                hint=_AGAIN,
                flags=flags,
            ) from None


def _run_until_lost(open_worker: OpenWorker, parts: Sequence[Any], flags: Sequence[str]) -> None:
    threading.excepthook = _end_if_lost
    _run(open_worker, parts, flags)


def _end_if_lost(thrown: threading.ExceptHookArgs) -> None:
    # Raised by the thread that waits for a worker's process; the workers left end with this one.
    if thrown.thread is not None and thrown.thread.name == "run_worker":
        os._exit(1)
    threading.__excepthook__(thrown)
