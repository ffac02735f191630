"""What became of a collection's images between two times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Changes(NamedTuple):
    """The ids of images by what became of them."""

    added: set[str]
    changed: set[str]
    removed: set[str]
    kept: set[str]

    def __str__(self) -> str:
        told = {name: len(ids) for name, ids in self._asdict().items() if ids or name == "kept"}
        return ", ".join(f"{num:,} {name}" for name, num in told.items())


def compare_images(
    before: Sequence[str],
    contents_before: Mapping[str, str],
    after: Sequence[str],
    contents_after: Mapping[str, str],
) -> Changes:
    """Compares images by their ids and the contents of their files; unknown contents are alike."""
    old, new = set(before), set(after)
    changed = {
        one
        for one in old & new
        if contents_before.get(one, contents_after.get(one)) != contents_after.get(one)
    }
    return Changes(new - old, changed, old - new, (old & new) - changed)
