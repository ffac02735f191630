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
def _fill_table(
    query: np.ndarray, centroid: np.ndarray, codebooks: np.ndarray, table: np.ndarray
) -> None:
    parts, width, choices = codebooks.shape
    table[:] = 0
    for part in range(parts):
        for column in range(width):
            at = part * width + column
            residual = query[at] - centroid[at]
            # Innermost over the choices, so that it runs in SIMD lanes.
            for choice in range(choices):
                gap = residual - codebooks[part, column, choice]
                table[part, choice] += gap * gap


@_inner
def _read_code(codes: np.ndarray, row: int, num_bytes: int) -> np.uint64:
    code = np.uint64(0)
    for byte in range(num_bytes):
        code |= np.uint64(codes[row, byte]) << np.uint64(8 * byte)
    return code


@entry
def nearest_features(
    lists: Lists,
    quantizer: Lists,
    queries: tuple[np.ndarray, np.ndarray],
    nearest: tuple[np.ndarray, np.ndarray],
) -> None:
    """Finds the features whose codes are nearest to each query, among those of its cells.

    Args:
      lists: (offsets int64 [C + 1], features uint32 [P], codes uint8 [P, bytes]).
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
    num_bits, mask = np.uint64(bits[0]), np.uint64(choices - 1)
    half = (parts + 1) // 2
    head_bits = np.uint64(half * bits[0])
    head_bytes = (half * bits[0] + 7) // 8
    table = np.empty((parts, choices), np.float32)
    for row in range(len(rows)):
        found, gaps = features[row], distances[row]
        found[:] = np.iinfo(np.int64).max
        gaps[:] = np.inf
        for probe in range(cells.shape[1]):
            cell = cells[row, probe]
            # An approximate coarse search may fill up with the first cell.
            if offsets[cell] == offsets[cell + 1] or (probe > 0 and cell == cells[row, 0]):
                continue
            _fill_table(rows[row], centroids[cell], codebooks, table)
            for at in range(offsets[cell], offsets[cell + 1]):
                code = _read_code(codes, at, head_bytes)
                gap = np.float32(0)
                for part in range(half):
                    gap += table[part, code & mask]
                    code >>= num_bits
                # Most codes are too far by half of their parts already.
                if gap > gaps[0]:
                    continue
                code = _read_code(codes, at, codes.shape[1]) >> head_bits
                for part in range(half, parts):
                    gap += table[part, code & mask]
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
