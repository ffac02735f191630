from __future__ import annotations

import numpy as np
import pytest

from delf_tf.report import comparison_plots, plots


def _drawn(figure):
    content = plots.figure_bytes(figure)
    assert content.startswith(b"\x89PNG")
    return content


def _points():
    return [
        comparison_plots.Point("one", 0.5, (0.4, 0.6), 0.02, 4096),
        comparison_plots.Point("two", 0.7, (0.65, 0.8), 0.2, 160000),
    ]


def test_accuracy_cost_draws_each_pipeline_at_its_cost():
    figure = comparison_plots.accuracy_cost(_points())
    by_seconds, by_bytes = figure.axes
    assert by_seconds.get_ylabel() == "mAP"
    for axes, costs in ((by_seconds, [0.02, 0.2]), (by_bytes, [4.096, 160])):
        markers = [container.lines[0] for container in axes.containers]
        np.testing.assert_allclose([line.get_xdata()[0] for line in markers], costs)
        np.testing.assert_allclose([line.get_ydata()[0] for line in markers], [0.5, 0.7])
        assert axes.get_xscale() == "log"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
    _drawn(figure)


def test_precision_recall_draws_each_curve():
    recall = np.linspace(0, 1, 3)
    figure = comparison_plots.precision_recall({"a": (recall, recall), "b": (recall, 1 - recall)})
    first, second = figure.axes[0].lines
    np.testing.assert_allclose(first.get_ydata(), recall)
    np.testing.assert_allclose(second.get_ydata(), 1 - recall)
    _drawn(figure)


def test_average_precisions_are_sorted_by_the_first():
    values = {"a": np.array([0.2, np.nan, 0.9]), "b": np.array([0.5, np.nan, 0.1])}
    figure = comparison_plots.average_precisions(values)
    first, second = figure.axes[0].lines
    np.testing.assert_allclose(first.get_ydata(), [0.9, 0.2])
    np.testing.assert_allclose(second.get_ydata(), [0.1, 0.5])
    assert figure.axes[0].get_xlabel() == "2 queries, best first"
    _drawn(figure)


def test_inlier_histogram_shows_shares():
    figure = comparison_plots.inlier_histogram(np.array([40, 90, 7]), np.array([0, 0, 3, 5]))
    for container in figure.axes[0].containers:
        assert sum(patch.get_height() for patch in container) == pytest.approx(1)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert sorted(labels) == ["other pairs (4)", "the same place (3)"]
    _drawn(figure)


@pytest.mark.parametrize("count", [0, 1])
def test_few_or_no_values_are_drawn(count):
    _drawn(comparison_plots.accuracy_cost(_points()[:count]))
    _drawn(comparison_plots.average_precisions({"a": np.full(count, 0.5)}))
    _drawn(comparison_plots.inlier_histogram(np.zeros(count, int), np.zeros(0, int)))
