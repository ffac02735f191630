from __future__ import annotations

import pytest

from delf_tf.checks import InputError
from delf_tf.training.schedules import create_schedule


@pytest.mark.parametrize(
    "name, values",
    [
        ("constant", [2.0, 2.0, 2.0]),
        ("linear", [2.0, 1.0, 0.0]),
        ("cosine", [2.0, 1.0, 0.0]),
    ],
)
def test_start_middle_and_end(name, values):
    schedule = create_schedule(name, 2.0)
    assert [schedule(0, p) for p in (0.0, 0.5, 1.0)] == pytest.approx(values)


def test_cosine_quarter():
    assert create_schedule("cosine", 1.0)(0, 0.25) == pytest.approx((1 + 0.5**0.5) / 2)


def test_warmup():
    schedule = create_schedule("constant", 1.0, warmup_steps=4)
    assert [schedule(step, 0.0) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]


def test_progress_beyond_the_end_stays_there():
    assert create_schedule("linear", 1.0)(0, 1.5) == 0.0


def test_refusals():
    with pytest.raises(InputError, match="Did you mean 'cosine'"):
        create_schedule("cosin", 1.0)
    with pytest.raises(InputError, match="warmup_steps"):
        create_schedule("linear", 1.0, warmup_steps=-1)
