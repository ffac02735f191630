"""Each contender is a line through its points, in both panels."""

from __future__ import annotations

from delf_tf.report import benchmark_plots as plots


def _row(num_features, true_fraction, ms, stage="whole pair", contender="ours", *, dim=40):
    return {
        "num_features": num_features,
        "true_fraction": true_fraction,
        "dim": dim,
        "stage": stage,
        "contender": contender,
        "ms": ms,
    }


def test_a_line_a_contender_in_order_of_cost():
    rows = [
        _row(5000, 0.15, 9.0),
        _row(1000, 0.15, 1.0),
        _row(1000, 0.05, 2.0),
        _row(1000, 0.15, 7.0, "mutual", "peer"),
        _row(1000, 0.15, 3.0, dim=128),
        _row(1000, 0.15, 3.0, "100 candidates, each"),
    ]
    figure = plots.verification_costs(rows)
    by_size, by_share = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in by_size.lines}
    assert lines == {
        "ours (match + verify)": [[1000, 1.0], [5000, 9.0]],
        "peer (verify alone)": [[1000, 7.0]],
    }
    assert by_share.lines[0].get_xydata().tolist() == [[0.05, 2.0], [0.15, 1.0]]
    assert by_size.get_xlabel() == "features an image"


def test_no_rows_give_empty_panels():
    assert [len(axes.lines) for axes in plots.verification_costs([]).axes] == [0, 0]
