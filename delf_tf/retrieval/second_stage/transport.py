"""Sinkhorn's iterations, compiled: each reads the kernel once, where two products read it twice."""

from __future__ import annotations

import numpy as np

from delf_tf.matching.kernels.compilation import entry_sums

# Rows taken together, so that sums wait less for one another.
_ROWS = 4


@entry_sums
def largest_shares(kernel: np.ndarray, num_iterations: int) -> np.ndarray:
    """Returns the most that each feature gives to one, in the transport with dustbins.

    Args:
      kernel: float32 [N + 1, M + 1], positive and contiguous; last are the dustbins, each of which
        may take all of the other image's features. Features give and take 1.
      num_iterations: scalings of the rows, then of the columns.

    Returns:
      float32 [N + M], the largest share of each row, then of each column, dustbins left out.
    """
    num_rows, num_columns = kernel.shape
    row, column = np.empty(num_rows, np.float32), np.ones(num_columns, np.float32)
    give, take = np.ones(num_rows, np.float32), np.ones(num_columns, np.float32)
    give[-1], take[-1] = num_columns - 1, num_rows - 1
    sums = np.empty(num_columns, np.float32)
    whole = num_rows - num_rows % _ROWS
    for _ in range(num_iterations):
        sums[:] = 0
        for top in range(0, whole, _ROWS):
            a, b, c, d = kernel[top], kernel[top + 1], kernel[top + 2], kernel[top + 3]
            in_a = in_b = in_c = in_d = np.float32(0)
            for j in range(num_columns):
                in_a += a[j] * column[j]
                in_b += b[j] * column[j]
                in_c += c[j] * column[j]
                in_d += d[j] * column[j]
            in_a, in_b = give[top] / in_a, give[top + 1] / in_b
            in_c, in_d = give[top + 2] / in_c, give[top + 3] / in_d
            row[top], row[top + 1], row[top + 2], row[top + 3] = in_a, in_b, in_c, in_d
            for j in range(num_columns):
                sums[j] += in_a * a[j] + in_b * b[j] + in_c * c[j] + in_d * d[j]
        for i in range(whole, num_rows):
            total = np.float32(0)
            for j in range(num_columns):
                total += kernel[i, j] * column[j]
            row[i] = give[i] / total
            for j in range(num_columns):
                sums[j] += row[i] * kernel[i, j]
        column = take / sums
    given, taken = np.zeros(num_rows - 1, np.float32), np.zeros(num_columns - 1, np.float32)
    for i in range(num_rows - 1):
        shares, scale, largest = kernel[i], row[i], np.float32(0)
        for j in range(num_columns - 1):
            share = shares[j] * scale * column[j]
            largest = max(largest, share)
            taken[j] = max(taken[j], share)
        given[i] = largest
    return np.concatenate((given, taken))
