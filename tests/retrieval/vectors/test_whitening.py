"""Whitenings: against NumPy by hand, the reference's definition, and as files."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.retrieval.vectors.whitening import (
    Whitening,
    fit_pca,
    l2_normalize,
    load_whitening,
    save_whitening,
)


def _vectors(num=200, dim=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((num, dim)) * np.arange(1, dim + 1) + 0.5


def test_apply_by_hand():
    whitening = Whitening([0.6, 0.0], [[0.0, 1.0]], "pca")
    # (3, 4) → (.6, .8) → (0, .8) → .8 → 1; (3, -4) → -1; (1, 0) → 0 stays 0.
    np.testing.assert_allclose(whitening.apply([[3, 4], [3, -4], [1, 0]]), [[1], [-1], [0]])
    assert (whitening.input_dim, whitening.output_dim) == (2, 1)
    assert whitening.apply(np.zeros((0, 2))).shape == (0, 1)


def test_pca_whitens():
    vectors = _vectors()
    whitening = fit_pca(vectors)
    projected = (l2_normalize(vectors) - whitening.mean) @ whitening.projection.T
    np.testing.assert_allclose(np.cov(projected.T), np.eye(6), atol=1e-4)
    norms = np.linalg.norm(whitening.apply(vectors), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)


def test_pca_without_whitening_rotates():
    vectors = _vectors()
    whitening = fit_pca(vectors, 3, whiten=False)
    np.testing.assert_allclose(whitening.projection @ whitening.projection.T, np.eye(3), atol=1e-6)
    values = np.linalg.eigvalsh(np.cov(l2_normalize(vectors).T))[::-1][:3]
    projected = (l2_normalize(vectors) - whitening.mean) @ whitening.projection.T
    np.testing.assert_allclose(projected.var(axis=0, ddof=1), values, rtol=1e-4)


def test_round_trip(tmp_path):
    whitening = fit_pca(_vectors(), 4)
    path = save_whitening(tmp_path / "pca.npz", whitening)
    loaded = load_whitening(path)
    assert loaded.kind == "pca_whitening"
    np.testing.assert_array_equal(loaded.apply(_vectors(5)), whitening.apply(_vectors(5)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mean": np.zeros(3)}, "every array"),
        ({"mean": np.zeros(3), "projection": np.zeros((2, 4))}, "projection"),
        ({"mean": np.zeros(2), "projection": np.zeros((3, 2))}, "more rows than columns"),
        ({"mean": np.full(2, np.nan), "projection": np.zeros((1, 2))}, "finite"),
        ({"mean": np.zeros(2), "projection": np.zeros((1, 2)), "metadata": "{}x"}, "JSON"),
        ({"mean": np.zeros(2), "projection": np.zeros((1, 2)), "metadata": '{"kind": 1}'}, "kind"),
    ],
)
def test_files_that_are_no_whitening(tmp_path, arrays, message):
    np.savez(tmp_path / "w.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load_whitening(tmp_path / "w.npz")


def test_bad_input():
    whitening = Whitening([0.0, 0.0], [[0.0, 1.0]], "pca")
    with pytest.raises(InputError, match="vectors"):
        whitening.apply(np.zeros((1, 3)))
    with pytest.raises(InputError, match="finite"):
        whitening.apply([[np.nan, 0]])
    with pytest.raises(InputError, match="two or more"):
        fit_pca(np.ones((1, 3)))
    with pytest.raises(InputError, match=r"dim must lie in 1\.\.6"):
        fit_pca(_vectors(), 7)
    with pytest.raises(InputError, match="vary"):
        fit_pca(np.ones((5, 3)))


def test_power_says_how_much_of_the_variance_stays():
    vectors = _vectors()
    full = fit_pca(vectors, 3)
    for power in (0.0, 0.25, 0.5):
        fitted = fit_pca(vectors, 3, power=power)
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        variances = ((unit - fitted.mean) @ fitted.projection.T).var(axis=0, ddof=1)
        pure = ((unit - fitted.mean) @ fit_pca(vectors, 3, whiten=False).projection.T).var(
            axis=0, ddof=1
        )
        np.testing.assert_allclose(variances, pure ** (1 - 2 * power), rtol=1e-4)
    np.testing.assert_array_equal(full.projection, fit_pca(vectors, 3, power=0.5).projection)
    with pytest.raises(InputError, match="power must lie"):
        fit_pca(vectors, 3, power=0.6)
