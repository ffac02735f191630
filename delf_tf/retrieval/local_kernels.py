"""Inner loops of the local index, compiled to run without the GIL."""

from __future__ import annotations

import numba
import numpy as np

from delf_tf.retrieval.block_scan import BLOCK, TABLE, lowest_bit, prefetch, scan
from delf_tf.retrieval.code_kernels import part_of
from delf_tf.retrieval.words.loops import entry, popcount

_inner = numba.njit(nogil=True)

# Room for what rounding does to a sum, as a share of it: a bound is never above the distance.
_SLACK = np.float32(1e-4)
# A sum of table entries that may be within reach; 255 stands for all above.
_REACHED = np.float32(254)
_NONE = np.float32(np.inf)
# How near a first limit comes to the best one, in steps of the tables.
_LIMIT_STEP = 4


@_inner
def _sift_down(
    distances: np.ndarray,
    places: np.ndarray,
    owners: np.ndarray,
    distance: np.float32,
    place: int,
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
            or (
                distances[right] == distances[child]
                and owners[places[right]] > owners[places[child]]
            )
        ):
            child = right
        if distances[child] < distance or (
            distances[child] == distance and owners[places[child]] < owners[place]
        ):
            break
        distances[at], places[at] = distances[child], places[child]
        at = child
    distances[at], places[at] = distance, place


@_inner
def _fill_distances(
    query: np.ndarray, centroid: np.ndarray, codebooks: np.ndarray, single: np.ndarray
) -> None:
    """Writes the squared distances of a query's residual to every part's choices.

    Args:
      query: float32 [D].
      centroid: float32 [D].
      codebooks: float32 [M, D / M, 2^b].
      single: float32 [M, 2^b], filled.
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


@_inner
def _bounds(single: np.ndarray, lows: np.ndarray) -> tuple[np.float32, np.float32]:
    """Writes every part's least distance; returns their sum and that of the parts' means."""
    parts, choices = single.shape
    least, mean = np.float32(0), np.float32(0)
    for part in range(parts):
        low, total = single[part, 0], np.float32(0)
        for choice in range(choices):
            low = min(low, single[part, choice])
            total += single[part, choice]
        lows[part] = low
        least += low
        mean += total / np.float32(choices)
    return least, mean


@_inner
def _fill_tables(
    single: np.ndarray, lows: np.ndarray, scale: np.float32, tables: np.ndarray
) -> None:
    """Writes distances above their part's least one in steps of 1 / scale, rounded down.

    A table has an entry for the low five bits of a part: the least one where there are more bits.
    """
    parts, choices = single.shape
    few = min(choices, TABLE)
    for part in range(parts):
        for choice in range(few):
            steps = (single[part, choice] - lows[part]) * scale
            tables[part, choice] = np.uint8(min(steps, np.float32(255)))
        for choice in range(few, choices):
            steps = (single[part, choice] - lows[part]) * scale
            entry_of = choice % TABLE
            tables[part, entry_of] = min(
                tables[part, entry_of], np.uint8(min(steps, np.float32(255)))
            )


@_inner
def _steps(distance: np.float32, least: np.float32, scale: np.float32) -> int:
    """Returns the largest sum of table entries that a code at most so far away may have."""
    if distance == _NONE:
        return 255
    reach = max(distance - least, np.float32(0)) + _SLACK * distance
    return int(min(reach * scale, _REACHED))


@_inner
def _first_limit(
    cell: tuple[np.ndarray, int, int], tables: np.ndarray, has_planes: bool, wanted: int
) -> int:
    """Returns a limit that about `wanted` codes or a few more are within; 255, if there is none."""
    blocks, start, stop = cell
    low, high = 0, 255
    while high - low > _LIMIT_STEP:
        middle, total = (low + high) // 2, np.uint64(0)
        for block in range(start, stop):
            near = scan(blocks, block, tables, has_planes, np.uint8(middle))
            total += popcount(near)
        if total < np.uint64(wanted):
            low = middle
        else:
            high = middle
    return high


@_inner
def _take(
    cell: tuple[np.ndarray, int, int],
    postings: tuple[np.ndarray, int, int],
    measures: tuple[np.ndarray, np.ndarray, np.float32, np.float32],
    limits: tuple[int, int],
    nearest: tuple[np.ndarray, np.ndarray],
) -> None:
    """Keeps the nearest of a cell's codes whose table entries add up to low < sum <= high.

    Args:
      cell: (blocks, its first one, the one after its last).
      postings: (owners, the first one of the cell, the one after its last).
      measures: (distances of choices, tables, least distance, steps a unit of distance).
      limits: (low, high).
      nearest: (places int64 [K], distances float32 [K]), a heap.
    """
    blocks, start, stop = cell
    owners, first, end = postings
    single, tables, least, scale = measures
    low, high = limits
    places, gaps = nearest
    num_pairs = len(tables) // 2
    num_planes = (blocks.shape[1] // num_pairs - BLOCK) // 16
    shape = num_pairs, num_planes
    for block in range(start, stop):
        mask = scan(blocks, block, tables, num_planes > 0, np.uint8(high))
        if low >= 0:
            mask &= ~scan(blocks, block, tables, num_planes > 0, np.uint8(low))
        origin = first + (block - start) * BLOCK
        if end - origin < BLOCK:
            mask &= (np.uint64(1) << np.uint64(end - origin)) - np.uint64(1)
        while mask:
            lane = lowest_bit(mask)
            mask &= mask - np.uint64(1)
            gap = np.float32(0)
            for part in range(len(single)):
                gap += single[part, part_of(blocks, block, lane, part, shape)]
            place = origin + lane
            if gap < gaps[0] or (gap == gaps[0] and owners[place] < owners[places[0]]):
                _sift_down(gaps, places, owners, gap, place)
                high = min(high, _steps(gaps[0], least, scale))


@entry
def nearest_features(
    lists: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    quantizer: tuple[np.ndarray, np.ndarray],
    queries: tuple[np.ndarray, np.ndarray],
    nearest: tuple[np.ndarray, np.ndarray],
) -> None:
    """Finds the features whose codes are nearest to each query, among those of its cells.

    Codes are compared by tables of bytes first, whose sums are bounds: what is found and its
    distances are those of comparing all codes in float32.

    Args:
      lists: see `code_blocks.Blocks`.
      quantizer: (centroids float32 [C, D], codebooks float32 [M, D / M, 2^b]).
      queries: (rotated float32 [N, D], cells int64 [N, probes]).
      nearest: (features int64 [N, K], squared distances float32 [N, K]), filled, nearest first;
        where there are fewer, -1 and infinite.
    """
    offsets, owners, starts, blocks = lists
    centroids, codebooks = quantizer
    rows, cells = queries
    features, distances = nearest
    parts, _, choices = codebooks.shape
    single = np.empty((parts, choices), np.float32)
    lows = np.empty(parts, np.float32)
    tables = np.zeros((parts + parts % 2, TABLE), np.uint8)
    for row in range(len(rows)):
        places, gaps = features[row], distances[row]
        places[:] = 0
        gaps[:] = _NONE
        for probe in range(cells.shape[1]):
            cell = cells[row, probe]
            last = probe + 1 == cells.shape[1]
            coming = cells[min(row + 1, len(rows) - 1), 0] if last else cells[row, probe + 1]
            for block in range(starts[coming], starts[coming + 1]):
                prefetch(blocks, block)
            first, end = offsets[cell], offsets[cell + 1]
            # An approximate coarse search may fill up with the first cell.
            if first == end or (probe > 0 and cell == cells[row, 0]):
                continue
            _fill_distances(rows[row], centroids[cell], codebooks, single)
            least, mean = _bounds(single, lows)
            start = gaps[0] == _NONE
            reach = mean - least if start else gaps[0] - least + _SLACK * gaps[0]
            if not 0 <= reach < _NONE:
                continue
            scale = _REACHED / max(reach, np.float32(1e-30))
            _fill_tables(single, lows, scale, tables)
            content = blocks, starts[cell], starts[cell + 1]
            low, high = -1, 254
            if start:
                high = _first_limit(content, tables, choices > 16, len(gaps))
            while low < high:
                _take(
                    content,
                    (owners, first, end),
                    (single, tables, least, scale),
                    (low, high),
                    (places, gaps),
                )
                low, high = high, _steps(gaps[0], least, scale)
        _sort(gaps, places, owners)


@_inner
def _sort(gaps: np.ndarray, places: np.ndarray, owners: np.ndarray) -> None:
    """Brings a heap in order, nearest first, and puts features in the place of places."""
    for last in range(len(gaps) - 1, 0, -1):
        gap, place = gaps[last], places[last]
        gaps[last], places[last] = gaps[0], places[0]
        _sift_down(gaps[:last], places[:last], owners, gap, place)
    for at in range(len(gaps)):
        places[at] = -1 if np.isinf(gaps[at]) else np.int64(owners[places[at]])


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
