"""Groups of images that belong together, as labels and as a page to look through."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from delf_tf import artifacts
from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError
from delf_tf.datasets import images
from delf_tf.report import html
from delf_tf.retrieval.second_stage.groups import Groups
from delf_tf.types import ImageRef

_MAX_GROUPS, _MAX_MEMBERS = 200, 24


def write_labels(path: StrPath, ids: Sequence[str], groups: Groups) -> Path:
    """Writes a table of image, place and duplicate_of, which `folder.read_labels` reads.

    Args:
      path: of the .csv file.
      ids: all images; one that is in no group has an empty place.
      groups: of them.
    """
    width = len(str(len(groups.members)))
    places = {
        one: f"place {number:0{width}}"
        for number, members in enumerate(groups.members, start=1)
        for one in members
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "place", "duplicate_of"])
    for one in ids:
        writer.writerow([one, places.get(one, ""), groups.duplicate_of.get(one, "")])
    return artifacts.write_text(path, text.getvalue())


def write_page(path: StrPath, groups: Groups, images_dir: StrPath) -> Path:
    """Writes a page of the largest groups; an image that cannot be read is named alone.

    Args:
      path: of the .html file.
      groups: what is shown.
      images_dir: folder that the ids are paths below.
    """
    sections = []
    for number, members in enumerate(groups.members[:_MAX_GROUPS], start=1):
        pictures = [_picture(Path(images_dir), one, groups) for one in members[:_MAX_MEMBERS]]
        title = f"{len(members)} images"
        if len(members) > _MAX_MEMBERS:
            title += f", {_MAX_MEMBERS} of them shown"
        row = html.RankedRow(title, pictures[1:])
        first = pictures[0]
        sections.append(html.QuerySection(f"{number}", first.image, first.caption, [row]))
    num = sum(map(len, groups.members))
    return html.write_report(
        path,
        title="Images of one place",
        summary=[
            f"{num} images in {len(groups.members)} groups; {len(groups.duplicate_of)} near-"
            "duplicates. Each group begins with the image that most others are joined with."
        ],
        notes=[f"The {_MAX_GROUPS} largest are shown."]
        if len(groups.members) > _MAX_GROUPS
        else [],
        queries=sections,
        nouns=("place", "Groups"),
    )


def _picture(images_dir: Path, one: str, groups: Groups) -> html.Picture:
    try:
        image = html.thumbnail(images.read_image(ImageRef(one, images_dir / one)))
    except InputError:
        image = ""
    repeats = groups.duplicate_of.get(one)
    caption = one if repeats is None else f"{one}, near-duplicate of {repeats}"
    return html.Picture(image, caption, one)
