"""ASMK against the reference's scores, against loops written out, and against damaged files."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.retrieval.words.asmk import AsmkIndex
from delf_tf.retrieval.words.word_assignment import WordAssigner

DIM, NUM_WORDS = 40, 32


def _data(seed=0, num_images=12, dim=DIM):
    random = np.random.default_rng(seed)
    centroids = random.standard_normal((NUM_WORDS, dim)).astype(np.float32)
    images = {
        f"image{i}": random.standard_normal((random.integers(1, 60), dim)).astype(np.float32)
        for i in range(num_images)
    }
    query = np.concatenate([images["image3"], random.standard_normal((9, dim))]).astype(np.float32)
    return centroids, images, query


def _filled(centroids, images, **arguments):
    index = AsmkIndex(centroids, **arguments)
    index.add_all(images.items())
    return index


def _words_of(descriptors, centroids, num_words):
    """Word -> residual sum, one descriptor and one word at a time."""
    sums = {}
    for row in descriptors.astype(np.float64):
        nearest = np.argsort(((row - centroids) ** 2).sum(1), kind="stable")[:num_words]
        for word in nearest:
            sums[word] = sums.get(word, 0) + row - centroids[word]
    return sums


def _reference_scores(
    centroids, images, query, *, binary, idf, threshold, assignments=5, alpha=3.0
):
    """The definition, in loops: what the inverted file must give."""
    database = [_words_of(one, centroids, 1) for one in images.values()]
    asked = _words_of(query, centroids, assignments)
    counts = {w: sum(w in one for one in database) for w in range(len(centroids))}
    weight = {w: np.log(len(database) / n) ** 2 if idf and n else 1.0 for w, n in counts.items()}
    bits = 32 * -(-centroids.shape[1] // 32)
    scores = []
    for one in database:
        total = 0.0
        for word in set(one) & set(asked):
            x, y = one[word], asked[word]
            if binary:
                similarity = 1 - 2 * np.sum((x > 0) != (y > 0)) / bits
            else:
                similarity = x @ y / (np.linalg.norm(x) + 1e-6) / (np.linalg.norm(y) + 1e-6)
            if similarity >= threshold:
                total += weight[word] * np.sign(similarity) * abs(similarity) ** alpha
        norm = sum(weight[w] for w in one) * sum(weight[w] for w in asked)
        scores.append(total / np.sqrt(norm) if norm else 0.0)
    return np.array(scores)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("idf", [True, False])
@pytest.mark.parametrize("threshold", [0.0, 0.25])
def test_scores_are_those_of_the_definition(binary, idf, threshold):
    centroids, images, query = _data()
    index = _filled(centroids, images, binary=binary, use_idf=idf, similarity_threshold=threshold)
    expected = _reference_scores(
        centroids, images, query, binary=binary, idf=idf, threshold=threshold
    )
    np.testing.assert_allclose(index.scores(query), expected, atol=1e-6)
    assert expected.max() > 0.01


def test_arguments_in_their_published_order():
    centroids, images, query = _data()
    index = AsmkIndex(centroids, False, True, 3, 2.5, 0.1)
    index.add_all(images.items())
    expected = _reference_scores(
        centroids, images, query, binary=False, idf=True, threshold=0.1, assignments=3, alpha=2.5
    )
    np.testing.assert_allclose(index.scores(query), expected, atol=1e-6)


@pytest.mark.parametrize("dim", [1, 7, 31, 33, 64, 65, 96, 130])
def test_any_width(dim):
    centroids, images, query = _data(dim=dim)
    for binary in (True, False):
        index = _filled(centroids, images, binary=binary)
        expected = _reference_scores(
            centroids, images, query, binary=binary, idf=False, threshold=0
        )
        np.testing.assert_allclose(index.scores(query), expected, atol=1e-5)


def _golden_index(golden, **options):
    """The index of a golden file: some images whole, of the others the words, which idf counts."""
    index = AsmkIndex(golden["centroids"], **options)
    for image in range(golden["num_images"]):
        words = golden["words"][golden["word_ids"] == image].astype(int)
        if len(words):
            index.add(str(image), golden["centroids"][words], words=words)
        else:
            index.add(str(image), golden["db"][golden["db_ids"] == image])
    return index


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("idf", [True, False])
def test_golden_scores(golden_dir, binary, idf):
    golden = np.load(golden_dir / "asmk/asmk.npz")
    index = _golden_index(golden, binary=binary, use_idf=idf)
    name = f"scores_asmk{'_star' if binary else ''}_{'idf' if idf else 'noidf'}"
    whole = np.unique(golden["db_ids"])
    scores = [
        index.scores(golden["q"][golden["q_ids"] == q])[whole] for q in np.unique(golden["q_ids"])
    ]
    np.testing.assert_allclose(np.stack(scores), golden[name], atol=1e-6)


@pytest.mark.parametrize("binary", [0, 1])
@pytest.mark.parametrize("idf", [0, 1])
@pytest.mark.parametrize("threshold", ["0", "0.25"])
def test_golden_variants_and_their_order(golden_dir, binary, idf, threshold):
    golden = np.load(golden_dir / "asmk/variants.npz")
    index = _golden_index(
        golden,
        binary=bool(binary),
        use_idf=bool(idf),
        similarity_threshold=float(threshold),
    )
    queries = {str(q): golden["q"][golden["q_ids"] == q] for q in np.unique(golden["q_ids"])}
    name = f"bin{binary}_idf{idf}_a3_t{threshold}"
    whole = np.unique(golden["db_ids"])
    scores = np.stack([index.scores(one)[whole] for one in queries.values()])
    np.testing.assert_allclose(scores, golden[f"{name}/scores_by_image"], atol=1e-6)
    ranked = [row[np.isin(row, whole)] for row in index.search(queries).indices]
    np.testing.assert_array_equal(ranked, golden[f"{name}/ranks"])


@pytest.mark.parametrize("binary", [True, False])
def test_idf_is_that_of_the_whole_database_however_it_was_added(binary):
    centroids, images, query = _data()
    index = AsmkIndex(centroids, binary=binary, use_idf=True)
    for number, (image, descriptors) in enumerate(images.items()):
        index.add(image, descriptors)
        if number % 3 == 0:
            index.scores(query)
    whole = _filled(centroids, images, binary=binary, use_idf=True)
    np.testing.assert_array_equal(index.scores(query), whole.scores(query))


def test_equal_scores_come_in_order_of_adding():
    centroids, images, _ = _data()
    index = AsmkIndex(centroids, query_assignments=1)
    for copy in range(4):
        index.add(f"other{copy}", images["image5"])
        index.add(f"copy{copy}", images["image3"])
    found = index.search({"q": images["image3"]}, k=6)
    assert [found.database_ids[row] for row in found.indices[0]] == [
        "copy0",
        "copy1",
        "copy2",
        "copy3",
        "other0",
        "other1",
    ]


def test_an_image_finds_itself_with_score_one():
    centroids, images, _ = _data()
    index = _filled(centroids, images, query_assignments=1)
    found = index.search(list(images.items()), k=1)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(len(images)))
    # Similarity 1 at each word, and the norms divide by the number of words.
    np.testing.assert_allclose(found.scores[:, 0], 1, rtol=1e-6)


def test_many_queries_give_what_one_gives():
    centroids, images, _ = _data(num_images=50)
    index = _filled(centroids, images)
    found = index.search(images, k=50)
    for row, descriptors in enumerate(images.values()):
        scores = index.scores(descriptors)
        np.testing.assert_allclose(found.scores[row], scores[found.indices[row]], rtol=1e-6)
        assert (np.diff(scores[found.indices[row]]) <= 0).all()


def test_known_words_need_no_assignment():
    centroids, images, query = _data()
    index = AsmkIndex(centroids)
    for image, descriptors in images.items():
        words = WordAssigner(centroids).nearest(descriptors)[:, 0]
        index.add(image, descriptors, words=words)
    np.testing.assert_array_equal(index.scores(query), _filled(centroids, images).scores(query))
    with pytest.raises(InputError, match=r"words must be in 0\.\.31"):
        index.add("new", query[:1], words=np.array([32]))


def test_images_and_queries_without_features():
    centroids, images, query = _data()
    nothing = np.zeros((0, DIM))
    index = _filled(centroids, {**images, "blank": nothing}, use_idf=True)
    assert index.scores(query)[-1] == 0
    assert not index.scores(nothing).any()
    found = index.search({"blank query": nothing, "query": query}, k=3)
    assert (found.indices[0] == -1).all()
    assert (found.indices[1] >= 0).all()
    assert index.search({}, k=3).indices.shape == (0, 3)
    assert AsmkIndex(centroids).scores(query).shape == (0,)


def test_a_word_that_all_images_have_weighs_nothing():
    centroids, images, _ = _data()
    index = AsmkIndex(centroids[:1], use_idf=True)
    index.add_all(images.items())
    np.testing.assert_array_equal(index.scores(images["image0"]), np.zeros(len(images)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"centroids": np.zeros((0, 4))}, "centroids must not be empty"),
        ({"centroids": np.zeros(4)}, r"centroids must have shape \[K, D\]"),
        ({"centroids": np.full((3, 4), np.nan)}, "centroids must be finite"),
        ({"query_assignments": 0}, "query_assignments must be a whole number of at least 1"),
        ({"query_assignments": 2.5}, "query_assignments must be a whole number"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"alpha": float("nan")}, "alpha must be positive"),
        ({"similarity_threshold": 1.5}, "similarity_threshold must be between -1 and 1"),
    ],
)
def test_parameters_out_of_range_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        AsmkIndex(**{"centroids": np.zeros((3, 4)), **arguments})


def test_bad_features_are_refused_and_leave_the_index_as_it_was():
    centroids, images, query = _data()
    index = _filled(centroids, images)
    before = index.scores(query)
    spoilt = query.copy()
    spoilt[2, 1] = np.nan
    for image, descriptors, message in [
        ("new", np.zeros((3, DIM + 1)), r"descriptors of new must have shape \[N, 40\]"),
        ("new", spoilt, "descriptors of new must be finite"),
        ("image0", query, "An image must be added once"),
        ("new", [["a"]], "descriptors of new must be a numeric array"),
    ]:
        with pytest.raises(InputError, match=message):
            index.add(image, descriptors)
    with pytest.raises(InputError, match="descriptors of q must be finite"):
        index.search({"q": spoilt}, k=1)
    with pytest.raises(InputError, match="unique ids"):
        index.search([("q", query), ("q", query)], k=1)
    with pytest.raises(InputError, match="pairs"):
        index.search([query], k=1)
    np.testing.assert_array_equal(index.scores(query), before)


def test_k_and_the_empty_database():
    centroids, images, query = _data()
    index = _filled(centroids, images)
    for k in (0, 13, -1, 2.0):
        with pytest.raises(InputError, match="k must be a whole number from 1 to"):
            index.search({"q": query}, k=k)
    with pytest.raises(InputError, match="The index must hold images"):
        AsmkIndex(centroids).search({"q": query}, k=1)


@pytest.mark.parametrize("binary", [True, False])
def test_the_loaded_index_scores_grows_and_saves_alike(tmp_path, binary):
    centroids, images, query = _data()
    index = _filled(centroids, images, binary=binary, use_idf=True, alpha=2.0)
    path = index.save(tmp_path / "a.index")
    loaded = AsmkIndex.load(path, index.fingerprint)
    assert loaded.ids == tuple(images)
    assert loaded.fingerprint == index.fingerprint
    np.testing.assert_array_equal(loaded.scores(query), index.scores(query))
    for one in (index, loaded):
        one.add("новое изображение", query)
    np.testing.assert_array_equal(loaded.scores(query), index.scores(query))
    assert loaded.save(tmp_path / "b").read_bytes() == index.save(tmp_path / "c").read_bytes()


def test_an_empty_index_is_saved_and_loaded(tmp_path):
    centroids, images, query = _data()
    loaded = AsmkIndex.load(AsmkIndex(centroids).save(tmp_path / "empty"))
    assert loaded.ids == ()
    loaded.add_all(images.items())
    np.testing.assert_array_equal(loaded.scores(query), _filled(centroids, images).scores(query))


def test_building_in_pieces_gives_the_same_bytes(tmp_path):
    centroids, images, query = _data()
    index = AsmkIndex(centroids)
    for image, descriptors in images.items():
        index.add(image, descriptors)
        index.scores(query)
    whole = _filled(centroids, images).save(tmp_path / "whole")
    assert index.save(tmp_path / "pieces").read_bytes() == whole.read_bytes()


def test_other_parameters_have_other_fingerprints(tmp_path):
    centroids, images, _ = _data()
    index = _filled(centroids, images)
    others = [
        AsmkIndex(centroids, binary=False),
        AsmkIndex(centroids, alpha=2),
        AsmkIndex(centroids + 1),
        AsmkIndex(centroids.reshape(-1, DIM // 2)),
    ]
    assert len({one.fingerprint for one in [index, *others]}) == 5
    path = index.save(tmp_path / "index")
    with pytest.raises(InputError, match="fingerprint"):
        AsmkIndex.load(path, others[0].fingerprint)


def test_every_flipped_byte_and_every_cut_is_refused(tmp_path):
    centroids, images, _ = _data(num_images=4, dim=4)
    raw = _filled(centroids, images).save(tmp_path / "index").read_bytes()
    damaged = tmp_path / "damaged"
    for position in range(0, len(raw), 29):
        damaged.write_bytes(raw[:position] + bytes([raw[position] ^ 0x10]) + raw[position + 1 :])
        with pytest.raises(InputError):
            AsmkIndex.load(damaged)
        damaged.write_bytes(raw[:position])
        with pytest.raises(InputError):
            AsmkIndex.load(damaged)
    with pytest.raises(InputError):
        AsmkIndex.load(tmp_path / "absent")


def test_compact_assignment_finds_nearly_the_exact_words():
    random = np.random.default_rng(0)
    centres = random.standard_normal((64, 33))
    centroids = centres[random.integers(0, 64, 4096)] + 0.3 * random.standard_normal((4096, 33))
    rows = centroids[random.integers(0, 4096, 500)] + 0.1 * random.standard_normal((500, 33))
    centroids, rows = centroids.astype(np.float32), rows.astype(np.float32)
    exact = WordAssigner(centroids, "exact").nearest(rows, 5)
    compact = WordAssigner(centroids, "compact")
    found = compact.nearest(rows, 5)
    assert np.mean([len(np.intersect1d(a, b)) for a, b in zip(exact, found)]) > 0.95 * 5
    assert (compact.nearest(rows)[:, 0] == exact[:, 0]).mean() > 0.99
    np.testing.assert_array_equal(found, WordAssigner(centroids, "compact").nearest(rows, 5))


def test_assignment_of_nothing_and_to_few_words():
    assigner = WordAssigner(np.eye(3), "exact")
    assert assigner.nearest(np.zeros((0, 3), np.float32), 2).shape == (0, 2)
    found = assigner.nearest(np.array([[0, 0.9, 0.1]], np.float32), 5)
    np.testing.assert_array_equal(found, [[1, 2, 0]])
    assert WordAssigner(np.eye(3)).kind == "exact"
    assert WordAssigner(np.zeros((20_000, 1))).kind == "compact"
