"""Transforms of centred, scaled points: from samples, by least squares, and whether plausible.

Matched points are float32 [4, M], the rows x and y of the query, u and v of the database. A
transform is nine numbers, row-major, of homogeneous (x, y, 1); the last is 1, and an affine one has
zeros before it. Weights are those of a squared loss truncated at a threshold.
"""

from __future__ import annotations

import numpy as np

from delf_tf.matching.kernels.compilation import inlined, inner_sums

SIMILARITY, AFFINE, HOMOGRAPHY = 0, 1, 2

# Denominators of a homography, over that of the points' centre, that are still in front of the eye.
_MIN_DENOMINATOR = 0.05


@inlined
def triangle(x, y, i, j, k):
    """Twice the signed area of three points."""
    return (x[j] - x[i]) * (y[k] - y[i]) - (x[k] - x[i]) * (y[j] - y[i])


@inlined
def affine_of_three(x, y, u, v, i, j, k, out):
    """Writes the affine transform that takes three points (x, y) to (u, v); area must not be 0."""
    ax, ay, bx, by = x[j] - x[i], y[j] - y[i], x[k] - x[i], y[k] - y[i]
    au, av, bu, bv = u[j] - u[i], v[j] - v[i], u[k] - u[i], v[k] - v[i]
    scale = 1.0 / (ax * by - bx * ay)
    out[0] = (au * by - bu * ay) * scale
    out[1] = (bu * ax - au * bx) * scale
    out[3] = (av * by - bv * ay) * scale
    out[4] = (bv * ax - av * bx) * scale
    out[2] = u[i] - out[0] * x[i] - out[1] * y[i]
    out[5] = v[i] - out[3] * x[i] - out[4] * y[i]
    out[6], out[7], out[8] = 0.0, 0.0, 1.0


@inlined
def similarity_of_two(x, y, u, v, i, j, spacing, out):
    """Writes the similarity that takes two points to two; returns False if they are too near."""
    ax, ay, au, av = x[j] - x[i], y[j] - y[i], u[j] - u[i], v[j] - v[i]
    length = ax * ax + ay * ay
    if length < 1e-8 or au * au + av * av < spacing * spacing:
        return False
    _write_similarity((ax * au + ay * av) / length, (ax * av - ay * au) / length, out)
    out[2] = u[i] - out[0] * x[i] - out[1] * y[i]
    out[5] = v[i] - out[3] * x[i] - out[4] * y[i]
    return True


@inlined
def similarity_of_one(x, y, u, v, i, scale, out):
    """Writes the upright similarity of one match and the ratio of its features' scales."""
    _write_similarity(scale, 0.0, out)
    out[2], out[5] = u[i] - scale * x[i], v[i] - scale * y[i]


@inlined
def _write_similarity(cosine, sine, out):
    out[0], out[1], out[3], out[4] = cosine, -sine, sine, cosine
    out[6], out[7], out[8] = 0.0, 0.0, 1.0


@inlined
def copy_transform(source, target):
    """Copies nine numbers."""
    for n in range(9):
        target[n] = source[n]


@inlined
def plausible_linear(t, bounds):
    """Whether an affine transform keeps orientation and is within bounds.

    Args:
      t: the transform.
      bounds: least and largest area factor, largest anisotropy, 1 to allow mirrored.
    """
    area = t[0] * t[4] - t[1] * t[3]
    if bounds[3] > 0:
        area = abs(area)
    # The singular values s1 >= s2 have s1 s2 = area and s1² + s2² = the sum of squares.
    squares = t[0] * t[0] + t[1] * t[1] + t[3] * t[3] + t[4] * t[4]
    inside = bounds[0] <= area <= bounds[1]
    return inside and squares <= (bounds[2] + 1.0 / bounds[2]) * area


@inlined
def area_factor(t):
    """The area factor at the centre; at another point it is this over the denominator cubed."""
    area = t[0] * (t[4] - t[5] * t[7]) - t[1] * (t[3] - t[5] * t[6])
    return area + t[2] * (t[3] * t[7] - t[4] * t[6])


@inner_sums
def count_affine(points, t, limit, level):
    """Counts the points that an affine transform takes to within the squared threshold.

    Args:
      points: float32 [4, M].
      t: the transform.
      limit: squared threshold where the transform does not shrink, float32.
      level: area factor below which the threshold shrinks with the transform.
    """
    x, y, u, v = points[0], points[1], points[2], points[3]
    a, b, c = np.float32(t[0]), np.float32(t[1]), np.float32(t[2])
    d, e, f = np.float32(t[3]), np.float32(t[4]), np.float32(t[5])
    limit *= np.float32(min(1.0, np.sqrt(abs(t[0] * t[4] - t[1] * t[3]) / level)))
    count = np.int32(0)
    for n in range(len(x)):
        du = a * x[n] + b * y[n] + (c - u[n])
        dv = d * x[n] + e * y[n] + (f - v[n])
        count += np.int32(du * du + dv * dv < limit)
    return count


@inner_sums
def weigh(points, t, limit, level, weights):
    """Writes each point's weight under the truncated loss; arguments as in `count_affine`.

    Returns:
      The number of points within the threshold.
    """
    x, y, u, v = points[0], points[1], points[2], points[3]
    count = np.int32(0)
    t0, t1, t2 = np.float32(t[0]), np.float32(t[1]), np.float32(t[2])
    t3, t4, t5 = np.float32(t[3]), np.float32(t[4]), np.float32(t[5])
    t6, t7 = np.float32(t[6]), np.float32(t[7])
    area = np.float32(abs(area_factor(t)) / level)
    floor, one = np.float32(_MIN_DENOMINATOR), np.float32(1)
    for n in range(len(x)):
        below = t6 * x[n] + t7 * y[n] + one
        front = below > floor
        w = one / (below if front else one)
        du = (t0 * x[n] + t1 * y[n] + t2) * w - u[n]
        dv = (t3 * x[n] + t4 * y[n] + t5) * w - v[n]
        share = (du * du + dv * dv) / (limit * min(one, np.sqrt(area * w * w * w)))
        near = front & (share < one)
        weights[n] = one - share if near else np.float32(0)
        count += np.int32(near)
    return count


@inner_sums
def total(weights):
    """The sum of weights."""
    result = np.float32(0)
    for n in range(len(weights)):
        result += weights[n]
    return result


@inner_sums
def fit_similarity(points, weights, out):
    """Writes the weighted least-squares similarity; returns False where the points coincide."""
    x, y, u, v = points[0], points[1], points[2], points[3]
    sw, sx, sy, su, sv = 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(len(x)):
        w = weights[n]
        sw += w
        sx += w * x[n]
        sy += w * y[n]
        su += w * u[n]
        sv += w * v[n]
    if sw <= 0:
        return False
    mx, my, mu, mv = sx / sw, sy / sw, su / sw, sv / sw
    norm, dot, cross = 0.0, 0.0, 0.0
    for n in range(len(x)):
        w, px, py, pu, pv = weights[n], x[n] - mx, y[n] - my, u[n] - mu, v[n] - mv
        norm += w * (px * px + py * py)
        dot += w * (px * pu + py * pv)
        cross += w * (px * pv - py * pu)
    if norm <= 1e-12 * sw:
        return False
    cosine, sine = dot / norm, cross / norm
    _write_similarity(cosine, sine, out)
    out[2] = mu - cosine * mx + sine * my
    out[5] = mv - sine * mx - cosine * my
    return True


@inner_sums
def fit_affine(points, weights, out):
    """Writes the weighted least-squares affine transform; returns False for collinear points."""
    x, y, u, v = points[0], points[1], points[2], points[3]
    sw, sx, sy, su, sv = 0.0, 0.0, 0.0, 0.0, 0.0
    xx, xy, yy, xu, yu, xv, yv = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(len(x)):
        w, px, py, pu, pv = weights[n], x[n], y[n], u[n], v[n]
        wx, wy = w * px, w * py
        sw += w
        sx += wx
        sy += wy
        su += w * pu
        sv += w * pv
        xx += wx * px
        xy += wx * py
        yy += wy * py
        xu += wx * pu
        yu += wy * pu
        xv += wx * pv
        yv += wy * pv
    if sw <= 0:
        return False
    mx, my, mu, mv = sx / sw, sy / sw, su / sw, sv / sw
    xx, xy, yy = xx - sx * mx, xy - sx * my, yy - sy * my
    xu, yu, xv, yv = xu - sx * mu, yu - sy * mu, xv - sx * mv, yv - sy * mv
    area = xx * yy - xy * xy
    if not area > 1e-6 * (xx + yy) * (xx + yy):
        return False
    out[0], out[1] = (xu * yy - yu * xy) / area, (yu * xx - xu * xy) / area
    out[3], out[4] = (xv * yy - yv * xy) / area, (yv * xx - xv * xy) / area
    out[2] = mu - out[0] * mx - out[1] * my
    out[5] = mv - out[3] * mx - out[4] * my
    out[6], out[7], out[8] = 0.0, 0.0, 1.0
    return True
