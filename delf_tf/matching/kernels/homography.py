"""Homographies by weighted Gauss-Newton on the transfer error, from a start near them."""

from __future__ import annotations

import numpy as np

from delf_tf.matching.kernels.compilation import inlined, inner_sums


@inner_sums
def _normal_equations(points, weights, t, matrix, right):
    """Writes the 8 x 8 normal equations of one step.

    With w = 1 / (h6 x + h7 y + 1) and the prediction (p, q), the Jacobian's rows are
    w (x, y, 1, 0, 0, 0, -p x, -p y) and w (0, 0, 0, x, y, 1, -q x, -q y); only 27 sums differ.
    """
    x, y, u, v = points[0], points[1], points[2], points[3]
    t0, t1, t2 = np.float32(t[0]), np.float32(t[1]), np.float32(t[2])
    t3, t4, t5 = np.float32(t[3]), np.float32(t[4]), np.float32(t[5])
    t6, t7 = np.float32(t[6]), np.float32(t[7])
    zero = np.float32(0)
    xx, xy, yy, x1, y1, s1 = zero, zero, zero, zero, zero, zero
    pxx, pxy, pyy, px1, py1 = zero, zero, zero, zero, zero
    qxx, qxy, qyy, qx1, qy1 = zero, zero, zero, zero, zero
    gxx, gxy, gyy = zero, zero, zero
    rx, ry, r1, sx, sy, ss, gx, gy = zero, zero, zero, zero, zero, zero, zero, zero
    for n in range(len(x)):
        a, b, weight = x[n], y[n], weights[n]
        # Points behind the eye weigh nothing; they must not divide by zero either.
        below = t6 * a + t7 * b + np.float32(1)
        w = np.float32(1) / (below if weight > zero else np.float32(1))
        p = (t0 * a + t1 * b + t2) * w
        q = (t3 * a + t4 * b + t5) * w
        ru, rv = (u[n] - p) * w * weight, (v[n] - q) * w * weight
        ww = w * w * weight
        wa, wb = ww * a, ww * b
        waa, wab, wbb = wa * a, wa * b, wb * b
        xx += waa
        xy += wab
        yy += wbb
        x1 += wa
        y1 += wb
        s1 += ww
        pxx += p * waa
        pxy += p * wab
        pyy += p * wbb
        px1 += p * wa
        py1 += p * wb
        qxx += q * waa
        qxy += q * wab
        qyy += q * wbb
        qx1 += q * wa
        qy1 += q * wb
        g = p * p + q * q
        gxx += g * waa
        gxy += g * wab
        gyy += g * wbb
        rx += ru * a
        ry += ru * b
        r1 += ru
        sx += rv * a
        sy += rv * b
        ss += rv
        r = p * ru + q * rv
        gx += r * a
        gy += r * b
    for o in range(3):
        matrix[3, o], matrix[4, o], matrix[5, o] = 0.0, 0.0, 0.0
    for o in (0, 3):
        matrix[o, o], matrix[o + 1, o], matrix[o + 2, o] = xx, xy, x1
        matrix[o + 1, o + 1], matrix[o + 2, o + 1], matrix[o + 2, o + 2] = yy, y1, s1
    matrix[6, 0], matrix[6, 1], matrix[6, 2] = -pxx, -pxy, -px1
    matrix[7, 0], matrix[7, 1], matrix[7, 2] = -pxy, -pyy, -py1
    matrix[6, 3], matrix[6, 4], matrix[6, 5] = -qxx, -qxy, -qx1
    matrix[7, 3], matrix[7, 4], matrix[7, 5] = -qxy, -qyy, -qy1
    matrix[6, 6], matrix[7, 6], matrix[7, 7] = gxx, gxy, gyy
    right[0], right[1], right[2], right[3], right[4], right[5] = rx, ry, r1, sx, sy, ss
    right[6], right[7] = -gx, -gy


@inlined
def _solve_in_place(matrix, right):
    """Cholesky on the lower triangle; returns False unless safely positive definite."""
    size = len(right)
    largest = 0.0
    for i in range(size):
        largest = max(largest, matrix[i, i])
    for i in range(size):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            if i == j:
                if not total > 1e-9 * largest:
                    return False
                matrix[i, i] = np.sqrt(total)
            else:
                matrix[i, j] = total / matrix[j, j]
    for i in range(size):
        for k in range(i):
            right[i] -= matrix[i, k] * right[k]
        right[i] /= matrix[i, i]
    for i in range(size - 1, -1, -1):
        for k in range(i + 1, size):
            right[i] -= matrix[k, i] * right[k]
        right[i] /= matrix[i, i]
    return True


@inlined
def step_homography(points, weights, transform, out, scratch):
    """Writes `transform` after one weighted step; returns False where it is not determined.

    `scratch` is float64 [9, 9].
    """
    matrix, right = scratch[:8, :8], scratch[8, :8]
    _normal_equations(points, weights, transform, matrix, right)
    if not _solve_in_place(matrix, right):
        return False
    for n in range(8):
        out[n] = transform[n] + right[n]
    out[8] = 1.0
    return True
