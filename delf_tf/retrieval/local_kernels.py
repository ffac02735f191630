"""Inner loops of the local index, compiled to run without the GIL."""

from __future__ import annotations

import numba
import numpy as np

from delf_tf.retrieval.kernels import Lists, entry

_inner = numba.njit(nogil=True)


@entry
def encode(residuals: np.ndarray, codebooks: np.ndarray, num_bits: int, codes: np.ndarray) -> None:
    """Writes each residual's product code, the first run in the lowest bits of the first byte.

    Args:
      residuals: float32 [N, D].
      codebooks: float32 [M, 2^b, D / M].
      num_bits: b.
      codes: uint8 [N, bytes], filled.
    """
    parts, choices, width = codebooks.shape
    for row in range(len(residuals)):
        code = np.uint64(0)
        for part in range(parts):
            best, chosen = np.float32(np.inf), 0
            for choice in range(choices):
                distance = np.float32(0)
                for column in range(width):
                    gap = residuals[row, part * width + column] - codebooks[part, choice, column]
                    distance += gap * gap
                if distance < best:
                    best, chosen = distance, choice
            code |= np.uint64(chosen) << np.uint64(part * num_bits)
        for byte in range(codes.shape[1]):
            codes[row, byte] = (code >> np.uint64(8 * byte)) & np.uint64(255)


@_inner
def _sift_down(
    distances: np.ndarray, features: np.ndarray, distance: np.float32, feature: np.int64
) -> None:
    """Replaces the root of a heap whose root is the farthest, the later of equally far ones."""
    at, size = 0, len(distances)
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            distances[right] > distances[child]
            or (distances[right] == distances[child] and features[right] > features[child])
        ):
            child = right
        if distances[child] < distance or (
            distances[child] == distance and features[child] < feature
        ):
            break
        distances[at], features[at] = distances[child], features[child]
        at = child
    distances[at], features[at] = distance, feature


@_inner
def _fill_tables(
    query: np.ndarray,
    centroid: np.ndarray,
    codebooks: np.ndarray,
    single: np.ndarray,
    tables: np.ndarray,
) -> None:
    """Writes the distances of every part's choices, and of the choices of parts taken together.

    Args:
      query: float32 [D].
      centroid: float32 [D].
      codebooks: float32 [M, D / M, 2^b].
      single: float32 [M, 2^b], filled.
      tables: float32 [M / 2, 4^b] or [M, 2^b], filled: of pairs of parts, or of single ones.
    """
    parts, width, choices = codebooks.shape
    single[:] = 0
    for part in range(parts):
        for column in range(width):
            at = part * width + column
            residual = query[at] - centroid[at]
            # Innermost over the choices, so that it runs in SIMD lanes.
            for choice in range(choices):
                gap = residual - codebooks[part, column, choice]
                single[part, choice] += gap * gap
    if len(tables) == parts:
        tables[:] = single
        return
    for pair in range(len(tables)):
        low, table = single[2 * pair], tables[pair]
        for second in range(choices):
            added, start = single[2 * pair + 1, second], second * choices
            for first in range(choices):
                table[start + first] = low[first] + added


@_inner
def _read_code(codes: np.ndarray, row: int) -> np.uint64:
    code = np.uint64(0)
    for byte in range(codes.shape[1]):
        code |= np.uint64(codes[row, byte]) << np.uint64(8 * byte)
    return code


@entry
def nearest_features(
    lists: Lists,
    wide_codes: np.ndarray,
    quantizer: Lists,
    queries: tuple[np.ndarray, np.ndarray],
    nearest: tuple[np.ndarray, np.ndarray],
) -> None:
    """Finds the features whose codes are nearest to each query, among those of its cells.

    Args:
      lists: (offsets int64 [C + 1], features uint32 [P], codes uint8 [P, bytes]).
      wide_codes: uint64 [< P], eight bytes from the start of each code but the last ones, whose
        eight bytes would not all be there; see `widen`.
      quantizer: (centroids float32 [C, D], codebooks float32 [M, D / M, 2^b], [b] int64).
      queries: (rotated float32 [N, D], cells int64 [N, probes]).
      nearest: (features int64 [N, K], squared distances float32 [N, K]), filled, nearest first;
        where there are fewer, -1 and infinite.
    """
    offsets, owners, codes = lists
    centroids, codebooks, bits = quantizer
    rows, cells = queries
    features, distances = nearest
    parts, _, choices = codebooks.shape
    # Two parts' distances in one look-up, where the table then stays in the first-level cache.
    together = 2 if parts % 2 == 0 and choices <= 32 else 1
    num_tables = parts // together
    num_bits = np.uint64(bits[0] * together)
    mask = np.uint64(choices**together - 1)
    twice = num_bits + num_bits
    single = np.empty((parts, choices), np.float32)
    # A table of zeros beside a single one, so that there are always two to begin with.
    tables = np.zeros((max(num_tables, 2), choices**together), np.float32)
    first, second = tables[0], tables[1]
    for row in range(len(rows)):
        found, gaps = features[row], distances[row]
        found[:] = np.iinfo(np.int64).max
        gaps[:] = np.inf
        for probe in range(cells.shape[1]):
            cell = cells[row, probe]
            # An approximate coarse search may fill up with the first cell.
            if offsets[cell] == offsets[cell + 1] or (probe > 0 and cell == cells[row, 0]):
                continue
            _fill_tables(rows[row], centroids[cell], codebooks, single, tables[:num_tables])
            stop = min(offsets[cell + 1], len(wide_codes))
            for at in range(offsets[cell], offsets[cell + 1]):
                code = wide_codes[at] if at < stop else _read_code(codes, at)
                # Most codes are too far by the first parts already.
                gap = first[code & mask] + second[(code >> num_bits) & mask]
                if gap > gaps[0]:
                    continue
                code >>= twice
                for table in range(2, num_tables):
                    gap += tables[table, code & mask]
                    code >>= num_bits
                if gap < gaps[0] or (gap == gaps[0] and owners[at] < found[0]):
                    _sift_down(gaps, found, gap, np.int64(owners[at]))
        for last in range(len(gaps) - 1, 0, -1):
            gap, feature = gaps[last], found[last]
            gaps[last], found[last] = gaps[0], found[0]
            _sift_down(gaps[:last], found[:last], gap, feature)
        for at in range(len(gaps)):
            if np.isinf(gaps[at]):
                found[at] = -1


def widen(codes: np.ndarray) -> np.ndarray:
    """Returns codes as the `wide_codes` of `nearest_features`, without a copy.

    Args:
      codes: uint8 [P, bytes], contiguous; at most 8 bytes.

    Returns:
      uint64 [<= P], little-endian as the codes are; not aligned, and the bits above a code's own
      are those of the next one.
    """
    num_bytes = codes.shape[1]
    whole = max(0, (codes.size - 8) // num_bytes + 1) if codes.size >= 8 else 0
    return np.ndarray((whole,), np.dtype("<u8"), codes, strides=(num_bytes,))


@entry
def count_votes(images: np.ndarray, votes: np.ndarray) -> None:
    """Adds a vote for every image that a row names, once a row.

    Args:
      images: int64 [N, K], below the number of images; images without votes may be one more.
      votes: int64 [images], added to.
    """
    last = np.full(len(votes), -1, np.int64)
    for row in range(len(images)):
        for column in range(images.shape[1]):
            image = images[row, column]
            if last[image] != row:
                last[image] = row
                votes[image] += 1
