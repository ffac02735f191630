"""Images without features: failed_images.csv, and when there are too many of them."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable
from pathlib import Path

from absl import flags, logging

from delf_tf import artifacts
from delf_tf.features.store import FeatureStore
from delf_tf.tools import command_line

try:
    import resource
except ImportError:  # Windows has none.
    resource = None  # type: ignore[assignment]

FILE_NAME = "failed_images.csv"


def define_flag(flag_values: flags.FlagValues) -> None:
    """Adds --max_failed_fraction to a tool's flags."""
    flags.DEFINE_float(
        "max_failed_fraction",
        0.5,
        "exit with 1 if more of the images fail than this",
        lower_bound=0,
        upper_bound=1,
        flag_values=flag_values,
    )


def write(failures: Iterable[tuple[str, str]], output_dir: artifacts.StrPath) -> Path:
    """Writes (image, reason) pairs, also none, as CSV into `output_dir`; returns the path."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "reason"])
    writer.writerows(failures)
    return artifacts.write_text(Path(output_dir) / FILE_NAME, text.getvalue())


def log_summary(store: FeatureStore) -> None:
    """Logs the last lines of an extraction."""
    failed, size = len(store.failed()), store.bytes_per_image()
    logging.info(
        "%d images, %d failed, %.0f bytes an image (global %.0f, local %.0f).",
        len(store.ids()) + failed,
        failed,
        sum(size.values()),
        size["global"],
        size["local"],
    )
    if resource is not None:
        # Kilobytes, but on macOS bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        logging.info("This process took %.2f GB of memory at its peak.", peak / 1e9)


def exit_code(store: FeatureStore, max_failed_fraction: float) -> int:
    """Returns 1 if more than the fraction of the store's images failed, else 0."""
    failed, total = len(store.failed()), len(store)
    if failed <= max_failed_fraction * total:
        return command_line.DONE
    logging.error(
        "%d of %d images failed, more than --max_failed_fraction=%g; %s tells why.",
        failed,
        total,
        max_failed_fraction,
        FILE_NAME,
    )
    return command_line.FAILED
