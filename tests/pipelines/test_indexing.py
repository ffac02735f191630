"""Every kind of index: built, opened and searched in one way."""

from __future__ import annotations

import numpy as np
import pytest

from delf_tf import config
from delf_tf.checks import InputError
from delf_tf.features.store import FeatureStore, ImageFeatures
from delf_tf.pipelines import indexing, searching, stages
from delf_tf.pipelines.extraction import Stores
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval.search import OneQuery
from delf_tf.retrieval.vectors.expansion import expand_queries
from tests.tools import stores

KINDS = {
    "exact": [],
    "faiss": ["index.type=SQ8"],
    "codes alone": ["index.type=SQ8"],
    "asmk": ["index.type=asmk", "index.asmk.num_words=64"],
    "local": [
        "index.type=local",
        "index.local.factory=IVF4,PQ4x4fs",
        "index.local.num_neighbors=3",
    ],
}
EXTRA = {"codes alone": {"keep_vectors": False}}


def _message(*overrides):
    message = experiment_pb2.Experiment()
    for one in overrides:
        config.apply_override(message, one)
    return message


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("indexing") / "db"
    return FeatureStore(stores.make_store(path, stores.places(8, 2)))


@pytest.fixture(scope="module")
def queries(tmp_path_factory):
    path = tmp_path_factory.mktemp("indexing") / "q"
    return FeatureStore(stores.make_store(path, stores.places(8, 1, first_view=5)))


@pytest.mark.parametrize("kind", KINDS)
def test_one_way_to_open_and_to_search(kind, database, queries, tmp_path):
    message = _message(*KINDS[kind])
    path = indexing.build(message, database, tmp_path / "index", **EXTRA.get(kind, {}))
    opened = indexing.open_index(message, path, fingerprint=queries.fingerprint, database=database)
    ranking = opened.search(queries, 2)
    for row, one in enumerate(ranking.query_ids):
        found = {ranking.database_ids[image] for image in ranking.indices[row]}
        assert found == {f"{one[0]}_0", f"{one[0]}_1"}
    # One picture's features are searched with as a store's are.
    single = opened.search(OneQuery("3_5", queries.read("3_5")), 2)
    np.testing.assert_array_equal(single.indices[0], ranking.indices[3])
    # What is not kept on disk ranks alike, and an image leaves itself out.
    alone = searching.rank(message, indexing.index_store(message, database), Stores(database))
    kept = opened.search(database, message.index.max_results, exclude_self=True)
    np.testing.assert_array_equal(alone.indices[:, 0], kept.indices[:, 0])
    assert all(row not in indices for row, indices in enumerate(kept.indices))


def test_effort_and_stages_are_the_configs(database, queries, tmp_path):
    path = indexing.build(_message("index.type=IVF2,Flat"), database, tmp_path / "index")
    message = _message("index.num_probes=1", "query_expansion.num_neighbors=2")
    opened = indexing.open_index(message, path, fingerprint=queries.fingerprint)
    assert opened.index.num_probes == 1
    # What the config does not say is the library's.
    assert opened.query_expansion == {"num_neighbors": 2, "alpha": 3.0}
    assert opened.index.num_rescored == 200
    conditions = stages.first_stage_conditions(message)
    assert conditions["query_expansion"] == opened.query_expansion
    expected = expand_queries(
        queries.global_descriptors(),
        opened.index.search(queries.global_descriptors(), 2),
        database.global_descriptors().vectors,
        num_neighbors=2,
    )
    found = opened.index.search(expected, 5)
    np.testing.assert_array_equal(opened.search(queries, 5).indices, found.indices)


def test_features_that_an_index_lacks_are_told(database, tmp_path):
    features = database.read("0_0")
    for kind, have, words in (
        ("exact", ImageFeatures(None, features.local), "must have a global descriptor"),
        ("asmk", ImageFeatures(features.global_descriptor, None), "must have local features"),
    ):
        opened = indexing.index_store(_message(*KINDS[kind]), database)
        with pytest.raises(InputError, match=words):
            opened.search(OneQuery("x", have), 1)


def test_an_index_of_codes_takes_the_vectors_of_its_own_store_alone(database, queries, tmp_path):
    message = _message(*KINDS["codes alone"])
    path = indexing.build(message, database, tmp_path / "index", keep_vectors=False)
    with pytest.raises(InputError, match="built of this store"):
        indexing.open_index(message, path, fingerprint=queries.fingerprint, database=queries)
    without = indexing.open_index(message, path, fingerprint=queries.fingerprint)
    with pytest.raises(InputError, match="hold its vectors"):
        without.search(queries, 2)
