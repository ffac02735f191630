"""Mutants of a file: seeded, from one changed bit to spliced, cut and swollen content."""

from __future__ import annotations

import io
import random
import re
import zipfile

EXTREMES = (b"\0", b"\xff", b"\x7f", b"\x80", b"\x01", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f")
WORDS = (b"-1", b"0", b"1e999", b"NaN", b"null", b"9" * 400, b"18446744073709551616", b"[" * 2000)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Returns `content` after one to four changes; of an archive, of a member as often as not."""
    if content[:2] == b"PK" and rng.random() < 0.5:
        return _of_a_member(content, rng)
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice(CHANGES)(data, rng)
    return bytes(data)


def _of_a_member(content: bytes, rng: random.Random) -> bytes:
    """Changes what an archive holds and packs it again, so that sums and sizes are right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = rng.choice(sorted(members))
    data = bytearray(members[chosen])
    rng.choice(CHANGES)(data, rng)
    members[chosen] = bytes(data)
    packed = io.BytesIO()
    with zipfile.ZipFile(
        packed, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as out:
        for name, member in members.items():
            out.writestr(name, member)
    return packed.getvalue()


def _span(data: bytearray, rng: random.Random) -> slice:
    start = rng.randrange(len(data) + 1)
    return slice(start, start + rng.choice((1, 2, 4, 8, 32, 200)))


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random) -> None:
    new = rng.choice(EXTREMES)
    at = rng.randrange(len(data) + 1)
    data[at : at + len(new)] = new


def _randomise(data: bytearray, rng: random.Random) -> None:
    span = _span(data, rng)
    data[span] = rng.randbytes(len(data[span]))


def _insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice((rng.randbytes(rng.randrange(1, 40)), rng.choice(EXTREMES)))


def _remove(data: bytearray, rng: random.Random) -> None:
    del data[_span(data, rng)]


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _repeat(data: bytearray, rng: random.Random) -> None:
    span = _span(data, rng)
    data[span.start : span.start] = data[span] * rng.choice((1, 3, 500))


def _splice(data: bytearray, rng: random.Random) -> None:
    piece, at = data[_span(data, rng)], rng.randrange(len(data) + 1)
    data[at : at + len(piece)] = piece


def _renumber(data: bytearray, rng: random.Random) -> None:
    """Puts an odd word where a number of a text stands."""
    numbers = list(re.finditer(rb"\d+", data))
    if numbers:
        found = rng.choice(numbers)
        data[found.start() : found.end()] = rng.choice(WORDS)


CHANGES = (*(_flip, _overwrite, _randomise, _insert, _remove, _cut, _repeat, _splice, _renumber),)
