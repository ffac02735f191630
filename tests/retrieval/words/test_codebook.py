"""Codebook training: by hand, killed and resumed, damaged."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.retrieval.words.codebook import load_codebook, save_codebook, train_codebook

CENTRES = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], np.float32)


def _rows(num=400, seed=0):
    random = np.random.default_rng(seed)
    return CENTRES[np.arange(num) % 4] + 0.1 * random.standard_normal((num, 2)).astype(np.float32)


def _blocks(rows=None, size=64):
    rows = _rows() if rows is None else rows
    return lambda: (rows[start : start + size] for start in range(0, len(rows), size))


def _sorted(words):
    return words[np.lexsort(words.T)]


@pytest.mark.parametrize("seed", range(5))
def test_lloyd_ends_where_every_word_is_the_mean_of_its_features(seed):
    rows = _rows()
    words = train_codebook(_blocks(rows), 9, num_passes=40, seed=seed)
    nearest = ((rows[:, None] - words) ** 2).sum(2).argmin(1)
    for word in range(9):
        np.testing.assert_allclose(words[word], rows[nearest == word].mean(0), atol=1e-5)


def test_one_pass_by_hand():
    rows = np.array([[0.0], [1.0], [2.0], [10.0]])
    words = train_codebook(_blocks(rows, 3), 1, num_passes=1)
    np.testing.assert_allclose(words, [[3.25]])
    np.testing.assert_allclose(np.sort(train_codebook(_blocks(rows), 4, num_passes=3), 0), rows)


def test_a_word_without_features_takes_half_of_the_fullest():
    rows = np.array([[1.0, 1.0]] * 6 + [[5.0, 5.0]] * 2)
    words = train_codebook(_blocks(rows), 4, num_passes=2)
    assert np.isfinite(words).all()
    assert {round(float(word[0])) for word in words} == {1, 5}


def test_the_blocks_do_not_choose_the_start_and_the_seed_does():
    trained = [train_codebook(_blocks(), 8, num_passes=2, seed=seed) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(trained[0], trained[1])
    assert (_sorted(trained[0]) != _sorted(trained[2])).any()


def test_a_killed_training_resumes_to_the_same_bytes(tmp_path):
    whole = train_codebook(_blocks(), 8, num_passes=5)
    passes = []

    def dying():
        passes.append(1)
        if len(passes) == 4:
            raise KeyboardInterrupt
        return _blocks()()

    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        train_codebook(dying, 8, num_passes=5, checkpoint_path=path)
    del passes[:]

    def counting():
        passes.append(1)
        return _blocks()()

    resumed = train_codebook(counting, 8, num_passes=5, checkpoint_path=path)
    np.testing.assert_array_equal(resumed, whole)
    assert len(passes) == 1 + 3


@pytest.mark.parametrize("spoil", ["other seed", "damaged"])
def test_a_checkpoint_that_does_not_fit_is_not_used(tmp_path, spoil):
    path = tmp_path / "checkpoint"
    train_codebook(_blocks(), 8, num_passes=2, seed=1, checkpoint_path=path)
    if spoil == "damaged":
        path.write_bytes(path.read_bytes()[:-3])
    seed = 2 if spoil == "other seed" else 1
    found = train_codebook(_blocks(), 8, num_passes=2, seed=seed, checkpoint_path=path)
    np.testing.assert_array_equal(found, train_codebook(_blocks(), 8, num_passes=2, seed=seed))


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        (_rows(3), {}, "at least as many features as words"),
        (np.zeros((0, 2)), {}, "at least as many features as words"),
        (np.full((9, 2), np.nan), {}, "must be finite"),
        (_rows(9), {"num_words": 0}, "num_words must be"),
        (_rows(9), {"num_passes": 0}, "num_passes must be"),
    ],
)
def test_bad_input_is_refused(rows, arguments, message):
    with pytest.raises(InputError, match=message):
        train_codebook(_blocks(rows), **{"num_words": 4, **arguments})


def test_blocks_of_other_widths_are_refused():
    with pytest.raises(InputError, match="a block of features must have shape"):
        train_codebook(lambda: [np.zeros((5, 2)), np.zeros((5, 3))], 2)


def test_files(tmp_path):
    path = save_codebook(tmp_path / "words", CENTRES)
    np.testing.assert_array_equal(load_codebook(path), CENTRES)
    raw = path.read_bytes()
    for position in range(0, len(raw), 7):
        path.write_bytes(raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :])
        with pytest.raises(InputError):
            load_codebook(path)
