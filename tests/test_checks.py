from __future__ import annotations

import numpy as np
import pytest

from delf_tf import checks


def test_invalid_says_what_must_hold_what_came_and_what_to_do():
    error = checks.invalid("k must be positive.", hint="Use k=10.", k=-1)
    assert isinstance(error, checks.InputError)
    assert str(error) == "k must be positive. Received: k=-1. Use k=10."


def test_invalid_shows_arrays_by_shape_and_cuts_long_values():
    text = str(checks.invalid("No.", a=np.zeros((2, 3), np.float32), b="x" * 1000))
    assert "a=array(shape=[2, 3], dtype=float32)" in text
    assert len(text) < 300


def test_require_raises_the_given_class_only_when_false():
    checks.require(True, "Fine.")
    with pytest.raises(checks.UsageError, match="Bad"):
        checks.require(False, "Bad.", error=checks.UsageError)


def test_require_choice_names_the_nearest():
    checks.require_choice("model", "affine", ["affine", "homography"])
    with pytest.raises(checks.InputError, match="Did you mean 'homography'"):
        checks.require_choice("model", "homografy", ["affine", "homography"])


def test_as_array_converts_and_keeps_shape():
    array = checks.as_array("x", [[1, 2], [3, 4]], ("N", 2))
    assert array.dtype == np.float32
    assert array.tolist() == [[1, 2], [3, 4]]
    assert checks.as_array("x", np.zeros((0, 5)), ("N", "D")).shape == (0, 5)


@pytest.mark.parametrize(
    ("value", "shape", "dtype", "message"),
    [
        ([1, 2], ("N", 2), np.float32, r"x must have shape \[N, 2\]"),
        (np.zeros((3, 4)), ("N", 5), np.float32, r"shape=\[3, 4\]"),
        ([1, float("nan")], ("N",), np.float32, "x must be finite"),
        ([1.5], ("N",), np.int64, "whole numbers"),
        (["a"], ("N",), np.float32, "numeric"),
        ([[1], [1, 2]], ("N", "D"), np.float32, "numeric"),
    ],
)
def test_as_array_refuses(value, shape, dtype, message):
    with pytest.raises(checks.InputError, match=message):
        checks.as_array("x", value, shape, dtype)


def test_numbers_that_would_overflow_are_refused():
    for value, dtype in [(2.0**63, np.int64), (-1, np.uint8), (300, np.uint8), (1e300, np.float32)]:
        with pytest.raises(checks.InputError, match=f"x must fit {np.dtype(dtype)}"):
            checks.as_array("x", [value], ("N",), dtype)
    assert checks.as_array("x", [2.0**62, -(2**63)], ("N",), np.int64).tolist() == [2**62, -(2**63)]
    assert checks.as_array("x", [255, 0], ("N",), np.uint8).tolist() == [255, 0]
    assert checks.as_array("x", [], (0,), np.int64).shape == (0,)


def test_what_is_there_is_not_overwritten_unasked(tmp_path):
    checks.require_absent("The output", tmp_path / "new", False)
    checks.require_absent("The output", tmp_path, True)
    with pytest.raises(checks.InputError, match=r"must not exist yet\. .*--overwrite replaces"):
        checks.require_absent("The output", str(tmp_path), False)
