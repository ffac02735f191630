from __future__ import annotations

import pytest
from PIL import Image

from delf_tf.checks import InputError
from delf_tf.datasets import folder
from delf_tf.retrieval.vectors.index import search_all
from delf_tf.training.evaluation import RetrievalEvaluation
from tests.training.tiny_model import TinyModel


@pytest.fixture
def photographs(tmp_path):
    """Two places of two flat pictures each, and a distractor."""
    colours = {"red0": (250, 10, 10), "red1": (230, 30, 20), "blue0": (10, 10, 250)}
    colours |= {"blue1": (30, 20, 230), "grey": (128, 128, 128)}
    for name, colour in colours.items():
        Image.new("RGB", (30, 20), colour).save(tmp_path / f"{name}.png")
    return folder.list_images(tmp_path)


def _labels(refs):
    return {ref.id: ref.id.split(".")[0].rstrip("01") for ref in refs if "grey" not in ref.id}


class ColourModel(TinyModel):
    """Describes an image by its mean colour."""

    def infer(self, images, training, outputs):
        import tensorflow as tf

        del training, outputs
        return {"global": tf.math.l2_normalize(tf.reduce_mean(images, axis=(1, 2)), axis=1)}


def test_colours_find_their_place(photographs):
    model = ColourModel()
    model.record_options("tiny", {})
    evaluation = RetrievalEvaluation(
        model, photographs, _labels(photographs), search_all, image_size=16, batch_size=2
    )
    assert evaluation() == {"mAP": pytest.approx(1.0), "P@1": pytest.approx(1.0)}


def test_refusals(photographs):
    model = TinyModel()
    single = dict(list(_labels(photographs).items())[:1])
    with pytest.raises(InputError, match="two images"):
        RetrievalEvaluation(model, photographs, single, search_all, image_size=16)
    model.output_names_available = ("superfeatures",)
    with pytest.raises(InputError, match="global descriptor"):
        RetrievalEvaluation(model, photographs, _labels(photographs), search_all, image_size=16)
