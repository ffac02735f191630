"""Intervals and tests: known cases, coverage, seeds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.evaluation.significance import bootstrap_interval, paired_test


def test_interval_of_equal_figures_is_a_point():
    interval = bootstrap_interval(np.array([0.5, 0.5, np.nan]))
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_interval_agrees_with_the_normal_one_for_many_queries():
    values = np.random.default_rng(1).uniform(size=2000)
    interval = bootstrap_interval(values, num_samples=4000)
    half = 1.96 * values.std() / 2000**0.5
    assert interval.mean == values.mean()
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_interval_depends_on_the_seed_alone():
    values = np.random.default_rng(0).uniform(size=30)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_interval_of_nothing():
    interval = bootstrap_interval(np.full(3, np.nan))
    assert np.isnan([interval.mean, interval.low, interval.high]).all()


def test_paired_test_against_all_sign_patterns():
    differences = np.array([0.3, 0.1, -0.05, 0.2, 0.15, -0.1, 0.25, 0.05])
    sums = np.array([np.dot(s, differences) for s in itertools.product((-1, 1), repeat=8)])
    exact = (np.abs(sums) >= differences.sum() - 1e-9).mean()
    first = np.full(8, 0.4)
    result = paired_test(first, first + differences, num_samples=40000)
    assert result.p_value == pytest.approx(exact, abs=0.005)
    assert result.difference == pytest.approx(differences.mean())
    assert result.low < differences.mean() < result.high
    assert (result.num_wins, result.num_losses, result.num_queries) == (6, 2, 8)


def test_paired_test_of_equal_runs():
    run = np.array([0.1, np.nan, 0.7])
    result = paired_test(run, run)
    assert (result.difference, result.p_value) == (0, 1)
    assert (result.num_wins, result.num_losses, result.num_queries) == (0, 0, 2)


def test_paired_test_of_nothing():
    assert np.isnan(paired_test(np.zeros(0), np.zeros(0)).p_value)


def test_bad_input():
    with pytest.raises(InputError, match="same queries"):
        paired_test(np.zeros(2), np.zeros(3))
    with pytest.raises(InputError, match="same queries"):
        paired_test(np.array([0, np.nan]), np.zeros(2))
    with pytest.raises(InputError, match="confidence"):
        bootstrap_interval(np.zeros(2), confidence=1)
    with pytest.raises(InputError, match="num_samples"):
        bootstrap_interval(np.zeros(2), num_samples=0)
    with pytest.raises(InputError, match="per_query"):
        bootstrap_interval(np.array([np.inf]))


def test_one_query_says_nothing():
    interval = bootstrap_interval(np.array([0.3]))
    assert (interval.low, interval.high) == (0.3, 0.3)
    assert paired_test(np.array([0.3]), np.array([0.9])).p_value == 1
