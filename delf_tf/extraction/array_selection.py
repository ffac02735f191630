"""Selection of local features in NumPy; see selection.py."""

from __future__ import annotations

import numpy as np


def receptive_boxes(locations: np.ndarray, scales: np.ndarray, side_px: float) -> np.ndarray:
    """Returns the receptive boxes [N, 4], (y0, x0, y1, x1); see selection.receptive_boxes."""
    half = np.float32(side_px / 2.0) * scales[:, np.newaxis]
    return np.concatenate([locations - half, locations + half], axis=1)


def select(
    scores: np.ndarray,
    boxes: np.ndarray,
    *,
    max_num_features: int,
    score_threshold: float,
    nms_iou: float,
) -> np.ndarray:
    """Returns the rows kept [M], by falling score, equal ones in their order; as selection.select.

    Args:
      scores: float32 [N].
      boxes: float32 [N, 4].
      max_num_features: most rows.
      score_threshold: lower scores are dropped.
      nms_iou: most intersection over union with a kept, stronger one; 1 or more keeps all.
    """
    passing = np.flatnonzero(scores >= np.float32(score_threshold))
    ranked = passing[np.argsort(-scores[passing], kind="stable")]
    if nms_iou >= 1.0:
        return ranked[:max_num_features]
    return _suppress(ranked, boxes, max_num_features, nms_iou)


def _suppress(ranked: np.ndarray, boxes: np.ndarray, limit: int, nms_iou: float) -> np.ndarray:
    kept: list[int] = []
    while len(ranked) and len(kept) < limit:
        kept.append(int(ranked[0]))
        ranked = ranked[1:]
        ranked = ranked[_overlap(boxes[kept[-1]], boxes[ranked]) <= np.float32(nms_iou)]
    return np.asarray(kept, np.int64)


def _overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns the intersection over union [N] of a box with others [N, 4]."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    shared = np.prod(np.maximum(high - low, 0.0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return shared / np.maximum(np.prod(box[2:] - box[:2]) + areas - shared, np.float32(1e-12))
