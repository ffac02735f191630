from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.serving.answers import Choices, UnknownItemError
from delf_tf.serving.collection import Collection
from delf_tf.serving.service import RetrievalService
from tests.serving import collection


@pytest.fixture
def service(tmp_path):
    return collection.make(tmp_path)


def test_an_image_finds_itself(service):
    answer = service.query(collection.painting(2))
    assert (answer.height, answer.width) == collection.SIZE
    assert answer.box == (0, 0, 60, 80)
    assert answer.single_stage[0].id == "2.png"
    assert answer.single_stage[0].similarity == pytest.approx(1)
    assert answer.two_stage[0].number == 2
    assert answer.two_stage[0].num_inliers == 12
    assert set(answer.seconds) == {"extract", "search", "verify"}


def test_only_the_verified_head_has_inliers(service):
    hits = service.query(collection.painting(2)).single_stage
    assert [hit.num_inliers is None for hit in hits] == [False, False, True, True]


def test_an_image_of_the_collection_is_left_out(service):
    answer = service.query(collection.painting(2), number=2)
    assert 2 not in [hit.number for hit in answer.single_stage]
    assert len(answer.single_stage) == 3


def test_matches_of_a_box_are_in_the_whole_image(tmp_path):
    service = collection.make(tmp_path, num_candidates=4)
    answer = service.query(collection.painting(1), box=(20, 20, 60, 80))
    assert answer.box == (20, 20, 60, 80)
    first = answer.two_stage[0]
    assert first.id == "1.png"
    found = service.matches(answer.token, first.number)
    np.testing.assert_allclose(found.query_points, found.database_points)
    assert found.query_points.min() == 30
    assert found.inliers.sum() == first.num_inliers == 6


def test_one_stage_alone(tmp_path):
    service = collection.make(tmp_path, two_stages=False)
    answer = service.query(collection.painting(0))
    assert answer.two_stage is None
    assert set(answer.seconds) == {"extract", "search"}
    with pytest.raises(UnknownItemError, match="was not verified"):
        service.matches(answer.token, 0)


def test_queries_are_forgotten_in_order(tmp_path):
    service = collection.make(tmp_path, num_kept=1)
    old, new = (service.query(collection.painting(0)).token for _ in range(2))
    assert service.matches(new, 0).inliers.all()
    with pytest.raises(UnknownItemError, match="not kept any more"):
        service.matches(old, 0)


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (-9, -9, 0, 0), (70, 0, 90, 10)])
def test_boxes_without_a_pixel(service, box):
    with pytest.raises(InputError, match="at least one pixel"):
        service.query(collection.painting(0), box=box)


@pytest.mark.parametrize("number", [-1, 4])
def test_unknown_numbers(service, number):
    with pytest.raises(UnknownItemError, match="No image"):
        service.ref(number)
    with pytest.raises(UnknownItemError):
        service.matches("none", number)


def test_refusals(service):
    refs = service.refs
    with pytest.raises(InputError, match="at least one image"):
        RetrievalService(Collection([], None, None))
    with pytest.raises(InputError, match="must have local features"):
        RetrievalService(Collection(refs, None, None, {"verification": print}))
    with pytest.raises(InputError, match="num_kept must be 1 or more"):
        RetrievalService(Collection(refs, None, None), num_kept=0)
    for choices, words in ((Choices(method="x"), "method"), (Choices(combine="x"), "combine")):
        with pytest.raises(InputError, match=words):
            service.query(collection.painting(0), choices=choices)


def test_the_number_of_results_and_the_method_are_chosen(tmp_path):
    service = collection.make(tmp_path, num_candidates=4)
    asked = collection.painting(2)[:, ::-1]
    usual = service.query(asked)
    assert usual.method == "verification"
    assert len(usual.single_stage) == len(usual.two_stage) == 4
    other = service.search([usual.token], Choices(num_results=3, method="none"))
    assert other.method == "none"
    assert other.two_stage == other.single_stage == usual.single_stage[:3]
    assert set(other.seconds) == {"search", "verify"}


def _similarities(picture):
    """The similarity of a picture to each painting."""
    vectors = [collection.extract(collection.painting(seed)).global_descriptor for seed in range(4)]
    return np.stack(vectors) @ collection.extract(picture).global_descriptor


@pytest.mark.parametrize(("how", "combined"), [("mean", np.mean), ("max", np.max)])
def test_several_pictures_are_one_query(tmp_path, how, combined):
    service = collection.make(tmp_path, num_candidates=4)
    pictures = [collection.painting(1), collection.painting(3)[20:]]
    tokens = [service.query(one).token for one in pictures]
    answer = service.search(tokens, Choices(combine=how))
    assert answer.num_pictures == 2
    expected = combined([_similarities(one) for one in pictures], axis=0)
    assert [hit.number for hit in answer.single_stage] == np.argsort(-expected).tolist()
    found = [hit.similarity for hit in answer.single_stage]
    np.testing.assert_allclose(found, -np.sort(-expected), atol=1e-6)
    # Each picture's own painting is first or second, and verified with that picture.
    assert {hit.number for hit in answer.two_stage[:2]} == {1, 3}
    assert {hit.number: hit.num_inliers for hit in answer.two_stage[:2]} == {1: 12, 3: 8}
    assert service.matches(answer.token, 1).picture == 0
    matches = service.matches(answer.token, 3)
    assert matches.picture == 1
    np.testing.assert_allclose(matches.query_points + np.array([20, 0]), matches.database_points)
    # The answer is a query as well.
    again = service.search([answer.token], Choices(combine=how))
    assert again.single_stage == answer.single_stage


def test_images_of_the_collection_are_left_out_of_what_they_ask_together(service):
    tokens = [service.query(collection.painting(one), number=one).token for one in (0, 2)]
    answer = service.search(tokens, Choices())
    assert sorted(hit.number for hit in answer.single_stage) == [1, 3]


def test_a_query_has_a_limit_of_pictures(service):
    token = service.query(collection.painting(0)).token
    for tokens in ([], [token] * 9):
        with pytest.raises(InputError, match="1 to 8 pictures"):
            service.search(tokens, Choices())


def test_numbers_name_images_as_long_as_they_do_not_change(tmp_path):
    service = collection.make(tmp_path)
    old = service._now.collection
    contents = {ref.id: "a" for ref in old.refs}
    service.replace(old._replace(contents=contents))
    numbers = {ref.id: number for number, ref in service.page(0, 9)}
    token = service.query(collection.painting(1)).token
    # 0.png is gone, 2.png another picture.
    service.replace(old._replace(refs=old.refs[1:], contents={**contents, "2.png": "b"}))
    after = {ref.id: number for number, ref in service.page(0, 9)}
    assert {one: after[one] == numbers[one] for one in after} == {
        "1.png": True,
        "2.png": False,
        "3.png": True,
    }
    assert len(set(numbers.values()) | {after["2.png"]}) == 5
    for gone in (numbers["0.png"], numbers["2.png"]):
        with pytest.raises(UnknownItemError, match="not any more"):
            service.matches(token, gone)
    assert service.matches(token, after["1.png"]).inliers.all()
