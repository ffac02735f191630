"""Confidence intervals over queries, and paired tests between two runs."""

from __future__ import annotations

import dataclasses

import numpy as np

from delf_tf.checks import require

# Random numbers in memory at a time.
_BATCH_VALUES = 1 << 22


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over queries and the interval that a bootstrap gives it.

    Attributes:
      mean: over the scored queries.
      low: lower end.
      high: upper end.
      confidence: how often such intervals hold the mean of all possible queries.
    """

    mean: float
    low: float
    high: float
    confidence: float


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """Two runs on the same queries.

    Attributes:
      difference: mean of second − first over the scored queries.
      low: lower end of the difference's bootstrap interval.
      high: upper end.
      p_value: chance of a difference at least as large, of either sign, if the runs were alike.
      num_wins: queries on which the second is better.
      num_losses: queries on which the first is better.
      num_queries: scored queries; the others are ties.
    """

    difference: float
    low: float
    high: float
    p_value: float
    num_wins: int
    num_losses: int
    num_queries: int


def bootstrap_interval(
    per_query: np.ndarray, *, confidence: float = 0.95, num_samples: int = 10000, seed: int = 0
) -> Interval:
    """Returns the mean of per-query figures with its percentile bootstrap interval.

    Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979: queries are drawn again with
    replacement `num_samples` times.

    Args:
      per_query: float [Q], such as `RankingMetrics.per_query_ap`; NaN is left out.
      confidence: in 0..1.
      num_samples: resamplings.
      seed: equal seeds give equal intervals.

    Returns:
      All NaN if no query is scored.

    Raises:
      InputError: a confidence outside 0..1, no resamplings.
    """
    _check(confidence, num_samples)
    values = _vector("per_query", per_query)
    values = values[~np.isnan(values)]
    low, high = _percentiles(values, confidence, num_samples, seed)
    return Interval(float(values.mean()) if len(values) else np.nan, low, high, confidence)


def paired_test(
    first: np.ndarray,
    second: np.ndarray,
    *,
    confidence: float = 0.95,
    num_samples: int = 10000,
    seed: int = 0,
) -> PairedTest:
    """Tests whether two runs differ on the same queries, by Fisher's paired randomisation.

    If the runs were alike, each query's difference would as likely have the other sign: the p-value
    is the share of sign patterns whose mean is at least as far from 0: of all patterns, if there
    are at most `num_samples`, otherwise of random ones, the observed one included. (Smucker et al.,
    "A Comparison of Statistical Significance Tests for Information Retrieval Evaluation", CIKM
    2007.)

    Args:
      first: float [Q], per-query figures; NaN for queries that are not scored.
      second: float [Q], of the other run, NaN at the same queries.
      confidence: of the interval of the difference.
      num_samples: sign patterns, and resamplings of the interval.
      seed: equal seeds give equal results.

    Raises:
      InputError: other number of queries, queries scored in one run only.
    """
    _check(confidence, num_samples)
    first, second = _vector("first", first), _vector("second", second)
    require(
        first.shape == second.shape and bool((np.isnan(first) == np.isnan(second)).all()),
        "Both runs must score the same queries.",
        first=first,
        second=second,
    )
    differences = (second - first)[~np.isnan(first)]
    low, high = _percentiles(differences, confidence, num_samples, seed)
    return PairedTest(
        difference=float(differences.mean()) if len(differences) else np.nan,
        low=low,
        high=high,
        p_value=_randomization(differences, num_samples, seed),
        num_wins=int((differences > 0).sum()),
        num_losses=int((differences < 0).sum()),
        num_queries=len(differences),
    )


def _percentiles(
    values: np.ndarray, confidence: float, num_samples: int, seed: int
) -> tuple[float, float]:
    if len(values) < 2:
        return (float(values[0]), float(values[0])) if len(values) else (np.nan, np.nan)
    from scipy import stats  # noqa: PLC0415 - takes half a second

    low, high = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=num_samples,
        batch=_batch(values),
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(low), float(high)


def _randomization(differences: np.ndarray, num_samples: int, seed: int) -> float:
    if len(differences) < 2:
        return 1.0 if len(differences) else np.nan
    from scipy import stats  # noqa: PLC0415 - takes half a second

    found = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=num_samples,
        batch=_batch(differences),
        random_state=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def _batch(values: np.ndarray) -> int:
    return max(_BATCH_VALUES // len(values), 1)


def _vector(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or np.isinf(values).any():
        require(False, f"{name} must hold one figure a query.", values=values)
    return values


def _check(confidence: float, num_samples: int) -> None:
    require(0 < confidence < 1, "confidence must lie between 0 and 1.", confidence=confidence)
    require(num_samples >= 1, "num_samples must be 1 or more.", num_samples=num_samples)
