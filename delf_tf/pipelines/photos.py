"""Photographs in a few lines of Python: open a model, extract a folder, search, re-rank, look."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from absl import logging

from delf_tf import config
from delf_tf.artifacts import StrPath
from delf_tf.checks import require
from delf_tf.datasets import images
from delf_tf.features import agreement
from delf_tf.features.blocks import ImageFeatures
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines import extraction, indexing, reranking, retrieve, searching
from delf_tf.pipelines.runtime import Runtime
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval.search import Index, OneQuery
from delf_tf.types import ImageRef, LocalFeatures, Ranking, Verification

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from delf_tf.serving.collection import Collection
    from delf_tf.serving.live import LiveFolder

# A picture to search with: its file, or uint8 RGB [H, W, 3].
Picture = StrPath | ImageRef | np.ndarray
# The name of a query that is no image of the collection.
_UNNAMED = "\0query"
_NUM_SHOWN = 9


def open_model(
    config_name: str = "compact",
    weights: StrPath | None = None,
    *,
    overrides: Sequence[str] = (),
    allow_imports: Sequence[str] = (),
) -> Model:
    """Opens a model, which is built when it is first needed.

    Args:
      config_name: the name of a shipped config, or the path of one (.textproto); "compact" works at
        once.
      weights: file or published name, instead of the config's.
      overrides: "path.to.field=value", applied to the config in order.
      allow_imports: packages whose code the config may name: "my_package.module:function".

    Raises:
      UsageError: no such config.
      InputError: a config whose stages do not fit together.
    """
    message = config.load_experiment(config_name, overrides, allow_imports=allow_imports)
    if weights is not None:
        message.model.weights = str(weights)
    searching.rehearse(message)
    return Model(Runtime(message))


class Model:
    """A network with its settings of extraction, search and re-ranking; see `open_model`."""

    def __init__(self, runtime: Runtime):
        """Takes an opened experiment."""
        self.runtime = runtime

    def extract(
        self,
        images_dir: StrPath,
        features_dir: StrPath,
        *,
        num_threads: int = 2,
        overwrite: bool = False,
    ) -> Photos:
        """Extracts a folder of images, as `delf_tf retrieve` does; run again, it follows it.

        Args:
          images_dir: searched recursively.
          features_dir: receives the features; `delf_tf serve --index=features_dir` opens it, too.
          num_threads: that decode images, and verify pairs.
          overwrite: start anew, whatever features_dir holds.

        Raises:
          InputError: no readable image, or features of another model in features_dir.
        """
        # Each folder has a PCA of its own, if the config asks for one.
        runtime = self.runtime.copy()
        collections = extraction.read_collections(images_dir)
        sharding = extraction.Sharding(num_threads=num_threads, overwrite=overwrite)
        store, _ = extraction.extract_collections(
            runtime, collections, Path(features_dir), sharding
        )
        retrieve.write_facts(Path(features_dir), runtime.message, collections.database_dir)
        return Photos(runtime, store, images_dir, num_threads=num_threads)

    def live_folder(
        self,
        images_dir: StrPath,
        features_dir: StrPath,
        *,
        methods: Sequence[str] = (),
        num_threads: int = 2,
    ) -> LiveFolder:
        """Returns a folder that a page searches while it changes; see `extract`.

        Args:
          images_dir: of the images.
          features_dir: receives the features.
          methods: see `Photos.served`.
          num_threads: that decode images, and verify pairs.

        Raises:
          InputError: as `extract` and `Photos.served`.
        """
        from delf_tf.serving.live import LiveFolder  # noqa: PLC0415 - its home is serving

        def follow() -> Collection:
            photos = self.extract(images_dir, features_dir, num_threads=num_threads)
            return photos.served(methods)

        return LiveFolder(images_dir, follow, self.runtime.loader().limit)


def open_photos(features_dir: StrPath, *, allow_imports: Sequence[str] = ()) -> Photos:
    """Opens what `Model.extract` or `delf_tf retrieve` left.

    Args:
      features_dir: the folder.
      allow_imports: see `open_model`.

    Raises:
      InputError: no such folder, or a damaged one.
    """
    folder = retrieve.read_folder(features_dir, allow_imports=allow_imports)
    return Photos(Runtime(folder.message), FeatureStore(folder.store), folder.images_dir)


class Photos:
    """A folder of images with their features, to search in.

    Attributes:
      runtime: the experiment.
      images_dir: of the images.
      refs: the images.
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
        self.runtime, self._store, self._index = runtime, store, index
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
        if self._store.fingerprint == made_by:
            return
        require(
            allow_mixed,
            "The collection's features must be made as those of the queries will be.",
            hint="Use the config and weights that the store was extracted with.",
            store=self._store.fingerprint,
            queries=made_by,
        )
        sample = self.refs[: 2 * agreement.MIN_NUM_IMAGES]
        pairs = [
            (
                self.describe(images.read_image(ref)).global_descriptor,
                self._store.read(ref.id).global_descriptor,
            )
            for ref in sample
        ]
        agreement.require_near(agreement.cosines(pairs))

    @functools.cached_property
    def index(self) -> Index:
        """The index, built or opened when it is first needed."""
        message = self.runtime.message
        if self._index is None:
            return indexing.index_store(message, self._store)
        return indexing.open_index(
            message, self._index, fingerprint=self._store.fingerprint, database=self._store
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
        return _describe(self.runtime, image)

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
        if not leave_out:
            query = OneQuery(name or _UNNAMED, features)
            return self.index.search(query, max_results, exclude_self=name is not None)
        selves = {_UNNAMED: [*leave_out, *([] if name is None else [name])]}
        return self.index.search(OneQuery(_UNNAMED, features), max_results, exclude_self=selves)

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
            message = experiment_pb2.Experiment()
            message.CopyFrom(self.runtime.message)
            message.rerank.method = method
            self._rerankers[method] = reranking.method(message, self._store)
        return self._rerankers[method]

    def served(self, methods: Sequence[str] = ()) -> Collection:
        """Returns what a page searches, network and index loaded.

        Args:
          methods: of re-ranking that can be chosen beside the config's.

        Raises:
          InputError: a method that the config has no settings for.
        """
        from delf_tf.serving.collection import Collection  # noqa: PLC0415 - its home is serving

        self.runtime.extractor()
        self.index  # noqa: B018 - builds it before the first visitor comes
        message = self.runtime.message
        names = [message.rerank.method, *methods] if message.HasField("rerank") else []
        for name in names:
            self.reranker(name)
        return Collection(
            self.refs,
            functools.partial(_describe, self.runtime),
            self.rank,
            {name: functools.partial(self.verify, method=name) for name in names},
            self.read_local,
            {one: source.digest for one, source in self._store.sources()},
        )

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


class Hit(NamedTuple):
    """One result: its id, file, first-stage score, and inliers; None if it was not verified."""

    id: str
    path: Path
    score: float
    num_inliers: int | None


class Found(Sequence[Hit]):
    """What a search found, best first; in a notebook it shows itself.

    Attributes:
      ranking: of the one query.
    """

    def __init__(
        self,
        photos: Photos,
        image: np.ndarray,
        features: ImageFeatures,
        ranking: Ranking,
        verifications: Mapping[int, Verification] | None = None,
    ):
        """Keeps what was searched with and what was found; see `Photos.search`."""
        self.ranking = ranking
        self._photos, self._image, self._features = photos, image, features
        self._verifications = verifications or {}
        self._rows = [row for row in ranking.indices[0].tolist() if row >= 0]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int | slice) -> Hit | list[Hit]:
        """Returns the result at a place, 0 the best."""
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        row = self._rows[place]
        ref = self._photos.ref(self.ranking.database_ids[row])
        verified = self._verifications.get(row)
        score = float(self.ranking.scores[0][range(len(self))[place]])
        return Hit(ref.id, ref.path, score, None if verified is None else verified.num_inliers)

    def rerank(self) -> Found:
        """Verifies the head geometrically and puts it in a new order.

        Raises:
          InputError: the model has no local features.
        """
        local = self._features.local
        require(
            local is not None,
            "Re-ranking needs local features.",
            hint="Open a model whose config extracts them, such as compact.",
        )
        return Found(
            self._photos, self._image, self._features, *self._photos.verify(self.ranking, local)
        )

    def show(self, num_results: int = _NUM_SHOWN) -> Figure:
        """Returns a figure of the query and its best results; `figure.savefig(path)` keeps it."""
        from delf_tf.report import hits  # noqa: PLC0415 - loads matplotlib

        return hits.hits_figure(
            self._image,
            [
                (images.read_image(self._photos.ref(hit.id)), _caption(hit))
                for hit in self[:num_results]
            ],
        )

    def _repr_html_(self) -> str:
        """A notebook's view: the figure."""
        from delf_tf.report import html, plots  # noqa: PLC0415 - loads matplotlib

        picture = html.data_uri(plots.figure_bytes(self.show()), "image/png")
        return f'<img src="{picture}" alt="The query and its {len(self)} results, best first">'

    def __repr__(self) -> str:
        shown = ", ".join(_caption(hit) for hit in self[:3])
        return f"<{len(self)} results: {shown}{', …' if len(self) > 3 else ''}>"


def _describe(runtime: Runtime, image: np.ndarray) -> ImageFeatures:
    from delf_tf.extraction import engine  # noqa: PLC0415 - TensorFlow takes seconds to load

    return engine.extract_image(runtime.extractor(), *runtime.loader().limit(image))


def _caption(hit: Hit) -> str:
    verified = "" if hit.num_inliers is None else f", {hit.num_inliers} inliers"
    return f"{hit.id} {hit.score:.3f}{verified}"


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
