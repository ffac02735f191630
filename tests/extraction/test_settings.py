from __future__ import annotations

import pytest

from delf_tf.checks import InputError
from delf_tf.extraction import settings


@pytest.mark.parametrize("scales", [(), (0,), (1, -1), (9,), (float("nan"),)])
def test_bad_scales(scales):
    with pytest.raises(InputError, match="image_scales"):
        settings.ExtractionSettings(image_scales=scales)


def test_passes_skip_scales_without_a_use():
    chosen = settings.ExtractionSettings(image_scales=[0.5, 1, 2], global_scales_ind=[1])
    assert list(chosen.passes()) == [(1.0, True, False)]
    both = settings.ExtractionSettings(
        image_scales=[0.5, 1], global_scales_ind=[1], use_local_features=True
    )
    assert list(both.passes()) == [(0.5, False, True), (1.0, True, True)]
