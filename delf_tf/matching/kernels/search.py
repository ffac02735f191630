"""RANSAC over putative matches: samples, scoring, local optimisation, adaptive stop.

Minimal samples are affine (or similarity) whatever the model; a homography grows out of one by
local optimisation, which needs three good matches instead of four.
"""

from __future__ import annotations

import numpy as np

from delf_tf.matching.kernels.compilation import entry, inner, sources_digest
from delf_tf.matching.kernels.homography import step_homography
from delf_tf.matching.kernels.models import (
    AFFINE,
    HOMOGRAPHY,
    SIMILARITY,
    affine_of_three,
    count_affine,
    fit_affine,
    fit_similarity,
    plausible_linear,
    similarity_of_two,
    triangle,
    weigh,
)

DIGEST = sources_digest()

# Thresholds of local optimisation, as factors of the inlier threshold: from what a rough hypothesis
# attracts down to what counts.
_SCHEDULE = (2.0, 1.5, 1.25, 1.0, 1.0)
_GROWTH = (2.0, 2.0, 1.75, 1.5, 1.5, 1.25, 1.25, 1.0, 1.0, 1.0)

# More inliers that a homography must have than the affine transform it grew from: its two further
# degrees of freedom let it bend to a chance match each.
_HOMOGRAPHY_GAIN = 3


@inner
def _next(state):
    """One step of splitmix64 (Steele et al., 2014)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inner
def _draw(state, num, by_rank):
    """A row below `num`, uniform, or denser towards 0 (half of the draws in the first quarter)."""
    unit = np.float64(_next(state) >> np.uint64(11)) * (1.0 / 9007199254740992.0)
    return np.int64(num * (unit * unit if by_rank else unit))


@inner
def _plausible(t, bounds):
    return plausible_linear(t[0], t[1], t[3], t[4], bounds[0], bounds[1], bounds[2], bounds[3] > 0)


@inner
def _sample(x, y, u, v, model, state, by_rank, spacing, out):
    """Writes the transform of a random minimal sample; returns False if degenerate."""
    num = len(x)
    i, j = _draw(state, num, by_rank), _draw(state, num, by_rank)
    if i == j:
        return False
    if model == SIMILARITY:
        if (x[i] - x[j]) ** 2 + (y[i] - y[j]) ** 2 < 1e-8:
            return False
        if (u[i] - u[j]) ** 2 + (v[i] - v[j]) ** 2 < spacing * spacing:
            return False
        similarity_of_two(x, y, u, v, i, j, out)
        return True
    k = _draw(state, num, by_rank)
    if k in (i, j):
        return False
    if abs(triangle(x, y, i, j, k)) < 1e-6:
        return False
    if abs(triangle(u, v, i, j, k)) < spacing * spacing:
        return False
    affine_of_three(x, y, u, v, i, j, k, out)
    return True


@inner
def _refine_linear(x, y, u, v, model, limit, bounds, weights, start, best):
    """Re-fits around `start` under a shrinking threshold; writes the best and returns its count."""
    current = start.copy()
    trial = np.empty(9)
    best[:] = start
    best_count = count_affine(x, y, u, v, start, limit)
    for factor in _SCHEDULE:
        weigh(x, y, u, v, current, np.float32(limit * factor * factor), weights)
        if model == SIMILARITY:
            found = fit_similarity(x, y, u, v, weights, trial)
        else:
            found = fit_affine(x, y, u, v, weights, trial)
        if not found or not _plausible(trial, bounds):
            break
        current[:] = trial
        count = count_affine(x, y, u, v, current, limit)
        if count >= best_count:
            best_count = count
            best[:] = current
    return best_count


@inner
def _in_front(x, y, t, weights, bounds):
    """Whether a homography is plausible at each point that has weight."""
    least, most = np.inf, 0.0
    for n in range(len(x)):
        if weights[n] > 0:
            w = t[6] * x[n] + t[7] * y[n] + 1.0
            least, most = min(least, w), max(most, w)
    if not least > 0:
        return False
    # The Jacobian's determinant is that of the matrix over w³.
    a, b, c = t[0], t[1], t[2]
    d, e, f = t[3], t[4], t[5]
    g, h = t[6], t[7]
    area = a * (e - f * h) - b * (d - f * g) + c * (d * h - e * g)
    if bounds[3] > 0:
        area = abs(area)
    return bounds[0] <= area / most**3 and area / least**3 <= bounds[1]


@inner
def _grow_homography(x, y, u, v, limit, bounds, weights, start, best):
    """Bends an affine `start` into a homography; writes the best and returns its count, or 0."""
    current = start.copy()
    trial = np.empty(9)
    matrix, right = np.empty((8, 8)), np.empty(8)
    best_count = 0
    for factor in _GROWTH:
        weigh(x, y, u, v, current, np.float32(limit * factor * factor), weights)
        if not step_homography(x, y, u, v, weights, current, trial, matrix, right):
            break
        current[:] = trial
        count = weigh(x, y, u, v, current, limit, weights)
        if not _in_front(x, y, current, weights, bounds):
            break
        if count >= best_count:
            best_count = count
            best[:] = current
    return best_count


@inner
def _trials_needed(count, num, sample_size, log_failure, max_trials):
    """Samples after which one of inliers alone has been drawn but for the failure probability."""
    chance = (count / num) ** sample_size
    if chance >= 1.0:
        return 1
    if chance < 1e-12:
        return max_trials
    return min(max_trials, int(log_failure / np.log1p(-chance)) + 1)


@inner
def _search(x, y, u, v, model, limit, bounds, spacing, max_trials, log_failure, seed):
    num = len(x)
    sample_size = 2 if model == SIMILARITY else 3
    state = np.array([np.uint64(seed)])
    weights = np.zeros(num, np.float32)
    sample, refined, grown = np.empty(9), np.empty(9), np.empty(9)
    best = np.zeros(9)
    best_count, best_linear, best_raw = 0, 0, sample_size
    needed = max_trials
    trial = 0
    while trial < needed:
        by_rank = trial % 2 == 1
        trial += 1
        if not _sample(x, y, u, v, model, state, by_rank, spacing, sample):
            continue
        if not _plausible(sample, bounds):
            continue
        raw = count_affine(x, y, u, v, sample, limit)
        if raw <= best_raw:
            continue
        best_raw = raw
        count = _refine_linear(x, y, u, v, model, limit, bounds, weights, sample, refined)
        if count > best_linear:
            best_linear = count
            if count > best_count:
                best_count = count
                best[:] = refined
            if model == HOMOGRAPHY:
                more = _grow_homography(x, y, u, v, limit, bounds, weights, refined, grown)
                if more >= count + _HOMOGRAPHY_GAIN and more > best_count:
                    best_count = more
                    best[:] = grown
            needed = 2 * _trials_needed(best_count, num, sample_size, log_failure, max_trials)
            needed = min(needed, max_trials)
    return best, best_count


@inner
def _standardise(points, first, second):
    """Centres points and scales them to unit spread; returns centre and scale."""
    num = len(points)
    cx, cy = 0.0, 0.0
    for n in range(num):
        cx += points[n, 0]
        cy += points[n, 1]
    cx, cy = cx / num, cy / num
    spread = 0.0
    for n in range(num):
        spread += (points[n, 0] - cx) ** 2 + (points[n, 1] - cy) ** 2
    scale = np.sqrt(spread / num)
    if not scale > 0:
        return cx, cy, 0.0
    for n in range(num):
        first[n] = (points[n, 0] - cx) / scale
        second[n] = (points[n, 1] - cy) / scale
    return cx, cy, scale


@inner
def _in_pixels(t, cx, cy, scale, cu, cv, spread):
    """The transform of pixels that `t` of standardised points stands for."""
    out = np.empty((3, 3))
    for r in range(3):
        a, b = t[3 * r] / scale, t[3 * r + 1] / scale
        out[r, 0], out[r, 1] = a, b
        out[r, 2] = t[3 * r + 2] - a * cx - b * cy
    for c in range(3):
        out[0, c] = spread * out[0, c] + cu * out[2, c]
        out[1, c] = spread * out[1, c] + cv * out[2, c]
    return out / out[2, 2] if abs(out[2, 2]) > 1e-12 else out


@inner
def _mark(query, database, t, threshold, mask):
    """Marks the points within the threshold, in pixels and float64; returns their number."""
    count = 0
    for n in range(len(query)):
        px, py = query[n, 0], query[n, 1]
        w = t[2, 0] * px + t[2, 1] * py + t[2, 2]
        du = (t[0, 0] * px + t[0, 1] * py + t[0, 2]) / w - database[n, 0]
        dv = (t[1, 0] * px + t[1, 1] * py + t[1, 2]) / w - database[n, 1]
        mask[n] = du * du + dv * dv < threshold * threshold
        count += mask[n]
    return count


def _entries():
    digest = DIGEST

    def search(query, database, model, threshold, limits, max_trials, log_failure, seed):
        """Searches the transform of `query` to `database` with most inliers.

        Args:
          query: float64 [M, 2], (x, y), M >= 1.
          database: float64 [M, 2], (x, y); best matches first.
          model: SIMILARITY, AFFINE or HOMOGRAPHY.
          threshold: inliers are nearer than this.
          limits: (largest scale change, largest anisotropy, mirrored or not).
          max_trials: samples at most.
          log_failure: log of the accepted probability to miss the best.
          seed: of the samples.

        Returns:
          The transform [3, 3], zeros if none; the inlier mask [M]; their number.
        """
        _ = digest
        num = len(query)
        mask = np.zeros(num, np.bool_)
        x, y = np.empty(num, np.float32), np.empty(num, np.float32)
        u, v = np.empty(num, np.float32), np.empty(num, np.float32)
        cx, cy, scale = _standardise(query, x, y)
        cu, cv, spread = _standardise(database, u, v)
        if scale == 0 or spread == 0:
            return np.zeros((3, 3)), mask, 0
        ratio = scale / spread
        area = (limits[0] * ratio) ** 2
        bounds = (ratio * ratio / limits[0] ** 2, area, limits[1], limits[2])
        unit = threshold / spread
        best, count = _search(
            x,
            y,
            u,
            v,
            model,
            np.float32(unit * unit),
            bounds,
            unit,
            max_trials,
            log_failure,
            seed,
        )
        if count == 0:
            return np.zeros((3, 3)), mask, 0
        transform = _in_pixels(best, cx, cy, scale, cu, cv, spread)
        return transform, mask, _mark(query, database, transform, threshold, mask)

    return entry(search)


search = _entries()

MODELS = {"similarity": SIMILARITY, "affine": AFFINE, "homography": HOMOGRAPHY}
