"""Rows of timings, by hand."""

from __future__ import annotations

import pytest

from delf_tf.benchmarks.measuring import Timings


def test_a_row_by_hand():
    timings = Timings(["theirs", "ours"], "theirs")
    for theirs, ours in ((0.4, 0.1), (0.6, 0.3), (0.5, 0.1)):
        timings.add("theirs", theirs, 2 * theirs)
        timings.add("ours", ours, 0.2)
    row = timings.row("ours")
    assert row["contender"] == "ours"
    assert row["ms_per_image"] == pytest.approx(100)
    assert row["ms_spread"] == pytest.approx(200)
    assert row["cpu_ms_per_image"] == pytest.approx(200)
    assert row["images_per_s"] == pytest.approx(10)
    # The median of 4, 2 and 5, and of 4, 6 and 5: of the rounds' ratios, not of the medians.
    assert row["speedup"] == pytest.approx(4)
    assert row["cpu_speedup"] == pytest.approx(5)
    assert timings.row("theirs")["speedup"] == 1


def test_without_the_reference_there_is_no_speedup():
    timings = Timings(["ours"], "theirs")
    timings.add("ours", 0.1, 0.1)
    assert timings.row("ours")["speedup"] is None
    assert timings.row("ours")["cpu_speedup"] is None
