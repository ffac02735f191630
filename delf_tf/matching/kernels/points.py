"""Pixels to centred points of unit spread and back."""

from __future__ import annotations

import numpy as np

from delf_tf.matching.kernels.compilation import entry, sources_digest


def _build(digest):
    def standardise(locations, rows, points, first):
        """Writes locations[rows], (y, x) [N, 2], as points[first] = x, points[first + 1] = y.

        Returns:
          (centre x, centre y, spread); spread is 0 where all points are equal or not finite.
        """
        _ = digest
        num = len(rows)
        cx, cy = 0.0, 0.0
        for n in range(num):
            cy += locations[rows[n], 0]
            cx += locations[rows[n], 1]
        cx, cy = cx / num, cy / num
        spread = 0.0
        for n in range(num):
            dy, dx = locations[rows[n], 0] - cy, locations[rows[n], 1] - cx
            spread += dx * dx + dy * dy
        spread = np.sqrt(spread / num)
        if not 0 < spread < np.inf:
            return cx, cy, 0.0
        for n in range(num):
            points[first, n] = (locations[rows[n], 1] - cx) / spread
            points[first + 1, n] = (locations[rows[n], 0] - cy) / spread
        return cx, cy, spread

    def mark(query, database, matches, transform, threshold, mask):
        """Marks in `mask` the matches that the pixel transform takes within the threshold.

        Returns:
          Their number.
        """
        _ = digest
        count = 0
        for n in range(len(matches)):
            i, j = matches[n, 0], matches[n, 1]
            y, x = np.float64(query[i, 0]), np.float64(query[i, 1])
            w = transform[2, 0] * x + transform[2, 1] * y + transform[2, 2]
            du = transform[0, 0] * x + transform[0, 1] * y + transform[0, 2]
            dv = transform[1, 0] * x + transform[1, 1] * y + transform[1, 2]
            du, dv = du / w - database[j, 1], dv / w - database[j, 0]
            mask[n] = du * du + dv * dv < threshold * threshold
            count += mask[n]
        return count

    return entry(standardise), entry(mark)


standardise, mark = _build(sources_digest())
