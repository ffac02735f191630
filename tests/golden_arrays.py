"""What the golden files leave out because it can be made again."""

from __future__ import annotations

import numpy as np


def multiscale_image() -> np.ndarray:
    """Returns uint8 [224, 320, 3] BGR, the picture of dolg/multiscale_preprocess.npz."""
    return np.random.RandomState(7).randint(0, 256, (224, 320, 3)).astype(np.uint8)


def revisited_oxford(golden_dir) -> dict:
    """Returns the revisited Oxford ground truth as its file has it, but for names and boxes."""
    with np.load(golden_dir / "revisitop/roxford5k_rows.npz") as rows:
        parts = {
            part: np.split(rows[part].astype(int), np.cumsum(rows[f"num_{part}"])[:-1])
            for part in ("easy", "hard", "junk")
        }
        num_images = int(rows["num_images"])
    num_queries = len(parts["easy"])
    return {
        "imlist": [f"image_{row:04}" for row in range(num_images)],
        "qimlist": [f"query_{row:02}" for row in range(num_queries)],
        "gnd": [
            {"bbx": [10.0, 20.0, 300.0, 400.0]}
            | {part: lists[query].tolist() for part, lists in parts.items()}
            for query in range(num_queries)
        ],
    }
