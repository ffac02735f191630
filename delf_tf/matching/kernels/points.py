"""Pixels to centred points of unit spread and back."""

from __future__ import annotations

import numpy as np

from delf_tf.matching.kernels.compilation import entry, sources_digest


def _build(digest):
    def standardize(locations, rows, points, first):
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

    def mark(query, database, matches, transform, limits, mask):
        """Marks in `mask` the matches that the pixel transform takes within the threshold.

        `limits` are the threshold and the area factor below which it shrinks.

        Returns:
          Their number.
        """
        _ = digest
        threshold, level = limits
        t = transform
        area = t[0, 0] * (t[1, 1] * t[2, 2] - t[1, 2] * t[2, 1])
        area -= t[0, 1] * (t[1, 0] * t[2, 2] - t[1, 2] * t[2, 0])
        area += t[0, 2] * (t[1, 0] * t[2, 1] - t[1, 1] * t[2, 0])
        count = 0
        for n in range(len(matches)):
            i, j = matches[n, 0], matches[n, 1]
            y, x = np.float64(query[i, 0]), np.float64(query[i, 1])
            w = t[2, 0] * x + t[2, 1] * y + t[2, 2]
            du = t[0, 0] * x + t[0, 1] * y + t[0, 2]
            dv = t[1, 0] * x + t[1, 1] * y + t[1, 2]
            du, dv = du / w - database[j, 1], dv / w - database[j, 0]
            share = min(1.0, np.sqrt(abs(area / (w * w * w)) / level))
            mask[n] = du * du + dv * dv < threshold * threshold * share
            count += mask[n]
        return count

    return entry(standardize), entry(mark)


standardize, mark = _build(sources_digest())
