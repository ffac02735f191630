from __future__ import annotations

import numpy as np
import pytest

from delf_tf.checks import InputError
from delf_tf.serving.service import RetrievalService, UnknownItemError
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
    with pytest.raises(UnknownItemError, match=r"0\.\.3"):
        service.ref(number)
    with pytest.raises(UnknownItemError):
        service.matches("none", number)


def test_refusals(service):
    with pytest.raises(InputError, match="at least one image"):
        RetrievalService([], None, None)
    with pytest.raises(InputError, match="must have local features"):
        RetrievalService(service.refs, None, None, rerank=print)
    with pytest.raises(InputError, match="num_kept must be 1 or more"):
        RetrievalService(service.refs, None, None, num_kept=0)
