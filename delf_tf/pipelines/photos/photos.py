"""Photographs in a few lines of Python: open a model, extract a folder, search it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.datasets import images
from delf_tf.features import agreement
from delf_tf.features.blocks import ImageFeatures
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import indexing, reranking, searching
from delf_tf.pipelines.photos.found import Found
from delf_tf.pipelines.runtime import Runtime
from delf_tf.retrieval.search import Index, OneQuery
from delf_tf.types import ImageRef, LocalFeatures, Ranking, Verification

# A picture to search with: its file, or uint8 RGB [H, W, 3].
Picture = StrPath | ImageRef | np.ndarray
# The name of a query that is no image of the collection.
_UNNAMED = "\0query"


class Photos:
    """A folder of images with their features, to search in.

    Attributes:
      runtime: the experiment.
      store: the features.
      images_dir: of the images.
      refs: the images.
      read_local: gives the stored local features of an id.
    """

    def __init__(
        self,
        runtime: Runtime,
        store: FeatureStore,
        images_dir: StrPath,
        *,
        index: StrPath | None = None,
        num_threads: int = 2,
        allow_mixed: bool = False,
    ):
        """Checks that the features are the experiment's.

        Args:
          runtime: the experiment; it takes the PCA that lies beside the store, if it needs one.
          store: the features.
          images_dir: of the images; ids are paths below it.
          index: what `build_index` made of the store; None builds the config's when it is needed.
          num_threads: that verify pairs.
          allow_mixed: take features that another engine or precision made, if some of the images,
            extracted again, are near them.

        Raises:
          InputError: features of another experiment, or no image where it was.
        """
        self.runtime, self.store, self._index = runtime, store, index
        self._num_threads = num_threads
        searching.rehearse(runtime.message)
        _take_local_pca(runtime, store)
        self.images_dir = Path(images_dir)
        self.refs = _found_refs(store, self.images_dir)
        self._require_same_features(allow_mixed)
        self._by_id = {ref.id: ref for ref in self.refs}
        self.read_local = reranking.cached_reader(store)
        self._rerankers: dict[str, reranking.Reranker] = {}

    def __len__(self) -> int:
        return len(self.refs)

    def _require_same_features(self, allow_mixed: bool) -> None:
        """Requires the features to be made as those of the queries will be, or to be near them."""
        made_by = self.runtime.store_fingerprint()
        if self.store.fingerprint == made_by:
            return
        require(
            allow_mixed,
            "The collection's features must be made as those of the queries will be.",
            hint="Use the config and weights that the store was extracted with.",
            store=self.store.fingerprint,
            queries=made_by,
        )
        sample = self.refs[: 2 * agreement.MIN_NUM_IMAGES]
        pairs = [
            (
                self.describe(images.read_image(ref)).global_descriptor,
                self.store.read(ref.id).global_descriptor,
            )
            for ref in sample
        ]
        agreement.require_near(agreement.cosines(pairs))

    @functools.cached_property
    def index(self) -> Index:
        """The index, built or opened when it is first needed."""
        message = self.runtime.message
        if self._index is None:
            return indexing.index_store(message, self.store)
        return indexing.open_index(
            message, self._index, fingerprint=self.store.fingerprint, database=self.store
        )

    def search(self, picture: Picture, *, max_results: int = 100) -> Found:
        """Finds the images most like a picture, by the first stage.

        Args:
          picture: its file, an ImageRef (whose box is searched with), or uint8 RGB [H, W, 3]. An
            image of the collection itself is left out of its own results.
          max_results: results kept.

        Raises:
          InputError: a picture that cannot be read, or is too small.
        """
        image, name = self._read(picture)
        features = self.describe(image)
        return Found(self, image, features, self.rank(features, name=name, max_results=max_results))

    def describe(self, image: np.ndarray) -> ImageFeatures:
        """Extracts the features of a uint8 RGB image [H, W, 3], locations in its pixels."""
        from delf_tf.extraction import engine  # noqa: PLC0415 - TensorFlow takes seconds to load

        loader = self.runtime.loader()
        return engine.extract_image(self.runtime.extractor(), *loader.limit(image))

    def rank(
        self,
        features: ImageFeatures,
        *,
        name: str | None = None,
        leave_out: Sequence[str] = (),
        max_results: int = 100,
    ) -> Ranking:
        """Ranks the images for one query's features.

        Args:
          features: of the query.
          name: its id, if it is an image of the collection, which is then left out.
          leave_out: further ids that are.
          max_results: results kept.
        """
        asked = _UNNAMED if name is None else name
        selves = {asked: [*leave_out, *([] if name is None else [name])]}
        return self.index.search(OneQuery(asked, features), max_results, exclude_self=selves)

    def verify(
        self, ranking: Ranking, local: LocalFeatures, *, method: str | None = None
    ) -> tuple[Ranking, Mapping[int, Verification]]:
        """Re-ranks one query's ranking; returns what was found for each verified row as well.

        Args:
          ranking: of the query.
          local: its features.
          method: a row of `reranking.METHODS`; None: the config's.

        Raises:
          InputError: a method that the config has no settings for.
        """
        reranked, found = self.reranker(method or self.runtime.message.rerank.method)(
            ranking, lambda name: local, self.read_local, num_threads=self._num_threads
        )
        return reranked, found[0]

    def reranker(self, method: str) -> reranking.Reranker:
        """Returns what re-ranks by a row of `reranking.METHODS`, the same each time.

        Raises:
          InputError: a method that the config has no settings for.
        """
        if method not in self._rerankers:
            message = copy.deepcopy(self.runtime.message)
            message.rerank.method = method
            self._rerankers[method] = reranking.method(message, self.store)
        return self._rerankers[method]

    def ref(self, name: str) -> ImageRef:
        """Returns the image of an id."""
        return self._by_id[name]

    def _read(self, picture: Picture) -> tuple[np.ndarray, str | None]:
        """Returns a picture's pixels, and its id if it is one of the collection."""
        if isinstance(picture, np.ndarray):
            return picture, None
        ref = picture if isinstance(picture, ImageRef) else ImageRef(str(picture), Path(picture))
        path = ref.path.resolve()
        same = [one.id for one in self.refs if one.path.name == path.name]
        name = next((one for one in same if self.ref(one).path.resolve() == path), None)
        return images.read_image(ref), name


def _take_local_pca(runtime: Runtime, store: FeatureStore) -> None:
    """Gives the experiment the PCA that a store's local features went through, kept beside it."""
    if runtime.needs_local_pca:
        found = sorted(Path(store.path).parent.glob("local_pca-*.npz"))
        require(
            len(found) == 1,
            "The PCA of the local features must be beside the store, or named by the config.",
            hint="Set extraction.local_pca.path.",
            found=found,
        )
        runtime.local_pca = found[0]


def _found_refs(store: FeatureStore, images_dir: Path) -> tuple[ImageRef, ...]:
    refs = tuple(ImageRef(one, images_dir / one) for one in store.ids())
    missing = [ref.id for ref in refs if not ref.path.is_file()]
    if missing:
        logging.warning("%d images are not in %s any more.", len(missing), images_dir)
        require(
            len(missing) < len(refs),
            "The images must be where they were.",
            hint="Name the folder where they are now, beside the store: images_dir.",
            images_dir=images_dir,
            missing=missing[:3],
        )
    return refs
