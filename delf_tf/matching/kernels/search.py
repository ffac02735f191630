"""RANSAC over putative matches: samples, scoring, local optimisation, adaptive stop.

Minimal samples are affine (or similarity) whatever the model; a homography grows out of one by
local optimisation, which needs three good matches instead of four.
"""

from __future__ import annotations

import numpy as np

from delf_tf.matching.kernels.compilation import entry, inlined, inner, sources_digest
from delf_tf.matching.kernels.homography import step_homography
from delf_tf.matching.kernels.models import (
    AFFINE,
    HOMOGRAPHY,
    SIMILARITY,
    affine_of_three,
    area_factor,
    copy_transform,
    count_affine,
    fit_affine,
    fit_similarity,
    plausible_linear,
    similarity_of_one,
    similarity_of_two,
    total,
    triangle,
    weigh,
)

MODELS = {"similarity": SIMILARITY, "affine": AFFINE, "homography": HOMOGRAPHY}

# Where hypotheses come from.
RANDOM, SCALES, SCALES_UPRIGHT = 0, 1, 2

# Thresholds of local optimisation, as factors of the inlier threshold: from what a rough hypothesis
# attracts down to what counts.
_LINEAR_SCHEDULE = (2.0, 1.5, 1.25, 1.0, 1.0)
_HOMOGRAPHY_SCHEDULE = (1.0, 1.5, 2.0, 2.0, 1.5, 1.5, 1.25, 1.0, 1.0)

# More inliers that a homography must have than the affine transform it grew from: its two further
# degrees of freedom let it bend to chance matches. Where there are more than chance gives, it is
# enough that they fit better, by this much of the truncated loss.
_HOMOGRAPHY_GAIN = 4
_MANY_INLIERS = 20

# Hypotheses from feature scales are as coarse as an image pyramid: they are scored with a wider
# threshold, and two matches that disagree on scale by more than a step and a half are no sample.
_COARSE = np.float32(4)
_MAX_SCALE_RATIO = 1.7


@inlined
def _draw(state, num, by_rank):
    """A row below `num`, uniform, or denser towards 0 (half of the draws in the first quarter).

    The generator is splitmix64 (Steele et al., 2014).
    """
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    unit = np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * (1.0 / 9007199254740992.0)
    return np.int64(num * (unit * unit if by_rank else unit))


@inner
def _propose_random(points, model, state, by_rank, spacing, out):
    """Writes the transform of a random minimal sample; returns False if degenerate."""
    x, y, u, v = points[0], points[1], points[2], points[3]
    num = len(x)
    i, j, k = _draw(state, num, by_rank), _draw(state, num, by_rank), _draw(state, num, by_rank)
    if model == SIMILARITY:
        if i == j:
            return False
        return similarity_of_two(x, y, u, v, i, j, spacing, out)
    if (i - j) * (j - k) * (k - i) == 0:
        return False
    if abs(triangle(x, y, i, j, k)) < 1e-6 or abs(triangle(u, v, i, j, k)) < spacing * spacing:
        return False
    affine_of_three(x, y, u, v, i, j, k, out)
    return True


@inner
def _propose_by_scale(points, ratios, trial, upright, spacing, out):
    """Writes the similarity of the next one match, or two; returns False if they contradict.

    The pairs (0, 1), (0, 2), (1, 2), (0, 3), ... take the best matches first.
    """
    x, y, u, v = points[0], points[1], points[2], points[3]
    if upright:
        if trial >= len(x):
            return False
        similarity_of_one(x, y, u, v, trial, ratios[trial], out)
        return True
    j = np.int64((1.0 + np.sqrt(1.0 + 8.0 * trial)) / 2.0)
    i = trial - j * (j - 1) // 2
    if j >= len(x) or i >= j:
        return False
    if not similarity_of_two(x, y, u, v, i, j, spacing, out):
        return False
    scale = np.sqrt(out[0] * out[0] + out[1] * out[1])
    low, high = min(ratios[i], ratios[j]), max(ratios[i], ratios[j])
    return high < scale * _MAX_SCALE_RATIO and low * _MAX_SCALE_RATIO > scale


@inner
def _refine_linear(points, model, limit, bounds, weights, current, trial, best):
    """Re-fits around `best` under a shrinking threshold; leaves the best and returns its count."""
    copy_transform(best, current)
    best_count = count_affine(points, best, limit, bounds[4])
    for factor in _LINEAR_SCHEDULE:
        weigh(points, current, limit * np.float32(factor * factor), bounds[4], weights)
        if model == SIMILARITY:
            found = fit_similarity(points, weights, trial)
        else:
            found = fit_affine(points, weights, trial)
        if not found or not plausible_linear(trial, bounds):
            break
        copy_transform(trial, current)
        count = count_affine(points, current, limit, bounds[4])
        if count >= best_count:
            best_count = count
            copy_transform(current, best)
    return best_count


@inlined
def _in_front(points, t, weights, bounds):
    """Whether a homography is plausible at each point that has weight."""
    least, most = np.inf, 0.0
    for n in range(len(weights)):
        if weights[n] > 0:
            w = t[6] * points[0, n] + t[7] * points[1, n] + 1.0
            least, most = min(least, w), max(most, w)
    area = area_factor(t)
    if bounds[3] > 0:
        area = abs(area)
    inside = bounds[0] * most * most * most <= area <= bounds[1] * least * least * least
    return least > 0 and inside


@inner
def _grow_homography(points, limit, bounds, weights, current, trial, best, matrix):
    """Bends the affine `best` into a homography; leaves the best and returns its count, or 0."""
    copy_transform(best, current)
    best_count = 0
    for factor in _HOMOGRAPHY_SCHEDULE:
        weigh(points, current, limit * np.float32(factor * factor), bounds[4], weights)
        if not step_homography(points, weights, current, trial, matrix):
            break
        copy_transform(trial, current)
        count = weigh(points, current, limit, bounds[4], weights)
        if not _in_front(points, current, weights, bounds):
            break
        if count >= best_count:
            best_count = count
            copy_transform(current, best)
    return best_count


@inner
def _is_better(points, limit, bounds, weights, homography, affine):
    """Whether a homography explains the matches clearly better than an affine transform."""
    before = weigh(points, affine, limit, bounds[4], weights)
    score_before = total(weights)
    after = weigh(points, homography, limit, bounds[4], weights)
    if after >= before + _HOMOGRAPHY_GAIN:
        return True
    return min(before, after) >= _MANY_INLIERS and total(weights) > score_before + _HOMOGRAPHY_GAIN


@inlined
def _trials_needed(count, num, sample_size, log_failure, max_trials):
    """Samples after which one of inliers alone has been drawn but for the failure probability.

    Every second sample goes by rank and is not relied on.
    """
    share = count / num
    chance = share * share * (share if sample_size == 3 else 1.0)
    if chance < 1e-9:
        return max_trials
    if chance > 0.999:
        return 2
    return min(max_trials, 2 * (np.int64(log_failure / np.log(1.0 - chance)) + 1))


def _build(digest):
    def search(points, ratios, settings, seed, source, model, work, best):
        """Searches the transform with most inliers among standardized points.

        Args:
          points: float32 [4, M], rows x, y, u, v; best matches first.
          ratios: float64 [M], database scale over query scale, for sources by scale.
          settings: (threshold; least and largest area factor; largest anisotropy; mirrored or
            not; area factor below which the threshold shrinks; samples at most; log of the
            accepted probability to miss the best).
          seed: uint64 [1], of the samples.
          source: RANDOM, SCALES or SCALES_UPRIGHT.
          model: SIMILARITY, AFFINE or HOMOGRAPHY.
          work: scratch memory, float64 [13, 9], and the weights of the matches, float32 [M].
          best: float64 [9], written.

        Returns:
          The number of inliers, 0 if nothing was found.
        """
        _ = digest
        threshold, log_failure = settings[0], settings[7]
        bounds = (settings[1], settings[2], settings[3], settings[4], settings[5])
        max_trials = np.int64(settings[6])
        limit = np.float32(threshold * threshold)
        scratch, weights = work
        sample, grown, current, trial = scratch[0], scratch[1], scratch[2], scratch[3]
        matrix = scratch[4:13]
        num = points.shape[1]
        size = 2 if model == SIMILARITY else 3
        raw_limit = limit if source == RANDOM else limit * _COARSE
        best_count, best_linear, best_raw = np.int64(0), np.int64(0), np.int64(size)
        needed = max_trials
        step = np.int64(0)
        while step < needed:
            if source == RANDOM:
                fine = _propose_random(points, model, seed, step % 2 == 1, threshold, sample)
            else:
                upright = source == SCALES_UPRIGHT
                fine = _propose_by_scale(points, ratios, step, upright, threshold, sample)
            step += 1
            if not fine or not plausible_linear(sample, bounds):
                continue
            raw = count_affine(points, sample, raw_limit, bounds[4])
            if raw <= best_raw:
                continue
            best_raw = np.int64(raw)
            count = _refine_linear(points, model, limit, bounds, weights, current, trial, sample)
            if count <= best_linear:
                continue
            best_linear = np.int64(count)
            before = best_count
            if count > best_count:
                best_count = np.int64(count)
                copy_transform(sample, best)
            if model == HOMOGRAPHY:
                copy_transform(sample, grown)
                more = _grow_homography(
                    points, limit, bounds, weights, current, trial, grown, matrix
                )
                if more > before and _is_better(points, limit, bounds, weights, grown, sample):
                    best_count = np.int64(more)
                    copy_transform(grown, best)
            if source == RANDOM:
                needed = _trials_needed(best_count, num, size, log_failure, max_trials)
        return best_count

    return entry(search)


search = _build(sources_digest())
