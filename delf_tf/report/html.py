"""The report: one HTML file that opens from disk, needs no network and no script."""

from __future__ import annotations

import base64
import dataclasses
import importlib.resources
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.figure import Figure

import delf_tf
from delf_tf import artifacts
from delf_tf.datasets import images
from delf_tf.report.plots import figure_bytes
from delf_tf.report.tables import Table

THUMBNAIL_PX = 176


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image with words.

    Attributes:
      image: data URI.
      caption: below it.
      alt: alternative text.
      verdict: "good", "bad" or "" when there are no labels.
    """

    image: str
    caption: str
    alt: str
    verdict: str = ""


@dataclasses.dataclass(frozen=True)
class RankedRow:
    """The head of one ranking of a query."""

    title: str
    hits: Sequence[Picture]


@dataclasses.dataclass(frozen=True)
class QuerySection:
    """A query, its rankings, pictures of its matches, and what the network sees in it."""

    id: str
    image: str
    caption: str
    rankings: Sequence[RankedRow]
    matches: Sequence[Picture] = ()
    maps: Picture | None = None


def write_report(
    path: artifacts.StrPath,
    *,
    title: str,
    summary: Sequence[str] = (),
    tables: Sequence[Table] = (),
    notes: Sequence[str] = (),
    plots: Sequence[Picture] = (),
    queries: Sequence[QuerySection] = (),
    nouns: tuple[str, str] = ("query", "Queries"),
    has_labels: bool = False,
) -> Path:
    """Writes the page; every string is escaped.

    Args:
      path: of the .html file.
      title: heading.
      summary: paragraphs below it.
      tables: the scores.
      notes: paragraphs below the tables.
      plots: figures.
      queries: one section each.
      nouns: what a section is of, and the heading of all.
      has_labels: explain the green and red frames.

    Returns:
      The path.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    source = (importlib.resources.files("delf_tf.report") / "page.html").read_text("utf-8")
    page = environment.from_string(source).render(
        title=title,
        summary=summary,
        tables=tables,
        notes=notes,
        plots=plots,
        queries=queries,
        noun=nouns[0],
        heading=nouns[1],
        has_labels=has_labels,
        version=delf_tf.__version__,
    )
    return artifacts.write_text(path, page)


def thumbnail(image: np.ndarray, max_side: int = THUMBNAIL_PX) -> str:
    """Returns a uint8 RGB image [H, W, 3] as a small JPEG data URI."""
    return data_uri(images.to_jpeg(image, max_side), "image/jpeg")


def plot(title: str, figure: Figure, alt: str) -> Picture:
    """Returns a matplotlib figure as a picture with its title above."""
    return Picture(data_uri(figure_bytes(figure, "png"), "image/png"), title, alt)


def data_uri(content: bytes, media_type: str) -> str:
    """Returns bytes as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
