from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from delf_tf.extraction import selection


def _select(scores, boxes=None, **options):
    boxes = np.zeros((len(scores), 4), np.float32) if boxes is None else boxes
    defaults = {"max_num_features": 100, "score_threshold": 0.0, "nms_iou": 1.0}
    scores = tf.constant(scores, tf.float32)
    return selection.select(scores, tf.constant(boxes), **{**defaults, **options}).numpy().tolist()


def test_top_k_by_falling_score_ties_in_order():
    assert _select([0.1, 0.5, 0.3, 0.5]) == [1, 3, 2, 0]
    assert _select([0.1, 0.5, 0.3, 0.5], max_num_features=2) == [1, 3]


def test_threshold_keeps_equal_scores():
    assert _select([0.1, 0.5, 0.3], score_threshold=0.3) == [1, 2]
    assert _select([0.1, 0.2], score_threshold=0.3) == []
    assert _select([]) == []


def test_overlapping_boxes_are_suppressed():
    boxes = np.array([[0, 0, 10, 10], [0, 1, 10, 11], [20, 20, 30, 30]], np.float32)
    assert _select([0.5, 0.9, 0.1], boxes, nms_iou=0.5) == [1, 2]
    assert _select([0.5, 0.9, 0.1], boxes, nms_iou=0.9) == [1, 0, 2]


@pytest.mark.parametrize("iou", ["1.0", "0.8", "0.5", "0.3"])
def test_nms_is_the_originals(golden_dir, iou):
    golden = np.load(golden_dir / "delf/inference/inference.npz")
    kept = _select(
        golden["nms_scores"], golden["nms_boxes"], nms_iou=float(iou), max_num_features=50
    )
    assert kept == golden[f"nms_keep_{iou}"].tolist()


def test_receptive_boxes_grow_with_the_scale():
    boxes = selection.receptive_boxes(
        tf.constant([[0.0, 10.0], [5.0, 5.0]]), tf.constant([1.0, 2.0]), 8
    )
    assert boxes.numpy().tolist() == [[-4, 6, 4, 14], [-3, -3, 13, 13]]
