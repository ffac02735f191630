"""An opened experiment: builds its network once, and its extractors from that."""

from __future__ import annotations

import functools
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import logging

from delf_tf import artifacts, config
from delf_tf.checks import UsageError
from delf_tf.extraction.backends import choice
from delf_tf.models.zoo import download
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval.vectors import whitening

if TYPE_CHECKING:
    from delf_tf.extraction.array_extractor import ArrayExtractor
    from delf_tf.extraction.backends.network_folder import NetworkFolder
    from delf_tf.extraction.backends.openvino import OpenVinoNetwork
    from delf_tf.extraction.extractor import Extractor
    from delf_tf.extraction.loader import ImageLoader
    from delf_tf.extraction.released import ReleasedExtractor
    from delf_tf.extraction.settings import Projection
    from delf_tf.models.retrieval_model import RetrievalModel

    AnyExtractor = Extractor | ArrayExtractor | ReleasedExtractor

# Features change with this number: raise it when the same config gives other features.
FEATURES_VERSION = "2"
# Fields of `rerank` whose argument of `matching.verify` has another name.
_VERIFY_ARGUMENTS = {"transform": "model", "max_descriptor_distance": "max_distance"}


class Runtime:
    """An experiment whose network is built when it is first needed, and only then.

    A pickled Runtime leaves the network behind, which is built again where it is needed.

    Attributes:
      message: the experiment. What extraction depends on must not change any more. Its weights
        may also be a file of another program that `convert_weights` reads, or a folder with a
        SavedModel of the original DELF code, which needs no model's name.
      local_pca: fitted PCA of local descriptors (.npz), instead of the config's; or None.
    """

    def __init__(
        self,
        message: experiment_pb2.Experiment,
        *,
        local_pca: artifacts.StrPath | None = None,
    ):
        """Keeps an experiment; see the attributes."""
        self.message = message
        self.local_pca = local_pca
        self._network = functools.cache(functools.partial(_build_network, message))
        self._extractors: dict[tuple[bool, bool, str], Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Runtime, local_pca=self.local_pca), (self.message,)

    def copy(self) -> Runtime:
        """Returns the experiment with the same network, and a `local_pca` of its own."""
        other = Runtime(self.message, local_pca=self.local_pca)
        other._network, other._extractors = self._network, self._extractors
        return other

    @property
    def network(self) -> RetrievalModel:
        """The network, as it computes at inference.

        Raises:
          UsageError: the config names no model.
          InputError: an unknown model, weights that are none of its own.
        """
        return self._network()

    @property
    def engine(self) -> choice.Engine:
        """What runs the network here: backend and precision, "auto" resolved.

        Raises:
          InputError: an unknown one, or a precision that the backend does not have.
        """
        settings = self.message.extraction
        backend = (
            choice.TENSORFLOW if self.has_saved_model else choice.resolve_backend(settings.backend)
        )
        return choice.Engine(backend, choice.resolve_precision(backend, settings.precision))

    def loader(self) -> ImageLoader:
        """Returns what reads images, with the experiment's limits."""
        from delf_tf.extraction import loader  # noqa: PLC0415

        settings = self.message.extraction
        return loader.ImageLoader(
            max_side=settings.max_image_size,
            min_side=settings.min_image_size,
            max_pixels=settings.max_image_pixels,
            multiple=settings.size_multiple,
            resize_filter=settings.resize_filter,
        )

    @property
    def has_saved_model(self) -> bool:
        """Whether the weights are a folder with a SavedModel of the original DELF code."""
        weights = self.message.model.weights
        return bool(weights) and Path(weights, "saved_model.pb").is_file()

    @property
    def needs_local_pca(self) -> bool:
        """Whether the config asks for a PCA of local descriptors that is still to be fitted."""
        settings = self.message.extraction
        return (
            self.local_pca is None
            and settings.use_local_features
            and settings.HasField("local_pca")
            and not settings.local_pca.path
        )

    def extractor(
        self, *, use_global: bool | None = None, use_local: bool | None = None
    ) -> AnyExtractor:
        """Returns what extracts features, the same for the same arguments.

        Args:
          use_global: give global descriptors; None: as the config says.
          use_local: give local features; likewise.
        """
        settings = self.message.extraction
        use_global = settings.use_global_features if use_global is None else use_global
        use_local = settings.use_local_features if use_local is None else use_local
        key = use_global, use_local, str(self.local_pca or "")
        if key not in self._extractors:
            self._extractors[key] = self._create_extractor(use_global, use_local)
        return self._extractors[key]

    def fingerprint(self, *more: str) -> str:
        """Returns the fingerprint of what shapes the features: model, weights, settings, `more`.

        "auto" counts as the backend and the precision that it means on this machine.
        """
        settings = self.message.extraction
        files = [settings.local_pca.path, settings.global_pca.path]
        relevant = experiment_pb2.Experiment(model=self.message.model, extraction=settings)
        # The same weights under another path are the same weights.
        relevant.model.ClearField("weights")
        # How features are stored is said by the store, and changes no PCA fitted on them.
        relevant.extraction.ClearField("local_codec")
        backend, relevant.extraction.precision = self.engine
        relevant.extraction.ClearField("backend")
        relevant.extraction.ClearField("quantized_network")
        if backend == choice.OPENVINO:
            relevant.extraction.backend = backend
        if self.engine.precision == choice.INT8:
            files += [str(Path(settings.quantized_network, name)) for name in choice.FILES]
        parts = [*self._weights_content(), *_contents(files)]
        return config.fingerprint(relevant, FEATURES_VERSION, *parts, *more)

    def network_fingerprint(self) -> str:
        """Returns the fingerprint of the network and its weights alone."""
        relevant = experiment_pb2.Experiment(model=self.message.model)
        relevant.model.ClearField("weights")
        return config.fingerprint(relevant, FEATURES_VERSION, *self._weights_content())

    def _weights_content(self) -> list[str]:
        """Returns what identifies the weights: their content, or their name if they are no file."""
        from delf_tf.models.zoo import shipped  # noqa: PLC0415

        weights = self.message.model.weights
        if weights in shipped.SHIPPED and not Path(weights).is_file():
            weights = str(shipped.shipped_weights(weights))
        files = [weights]
        if self.has_saved_model:
            files += sorted(str(path) for path in Path(weights).rglob("*"))
        is_there = Path(weights).is_file() or self.has_saved_model
        return [*([] if is_there else [weights]), *_contents(files)]

    def store_fingerprint(self) -> str:
        """Returns the fingerprint of the stores that this experiment's features are kept in."""
        return self.fingerprint(*_contents([self.local_pca]))

    def _create_extractor(self, use_global: bool, use_local: bool) -> AnyExtractor:
        settings = self.message.extraction
        options = {
            "image_scales": settings.image_scales or (1.0,),
            "global_scales_ind": settings.global_scales_ind,
            "use_global_features": use_global,
            "use_local_features": use_local,
            "max_num_features": settings.max_num_features,
            "score_threshold": settings.score_threshold,
            "local_projection": _projection(self.local_pca or settings.local_pca.path),
            "global_projection": _projection(settings.global_pca.path),
        }
        if self.has_saved_model:
            from delf_tf.extraction import released  # noqa: PLC0415

            precise = settings.precision in ("auto", "float32") and settings.backend != "openvino"
            if settings.nms_iou < 1 or settings.border_cells or not precise:
                raise UsageError(
                    "nms_iou, border_cells, precision and backend must be left out: a SavedModel "
                    "has its own."
                )
            return released.ReleasedExtractor(self.message.model.weights, **options)
        for name in ("nms_iou", "nms_box_px", "border_cells"):
            options[name] = getattr(settings, name)
        if self.engine.backend == choice.OPENVINO:
            from delf_tf.extraction import array_extractor  # noqa: PLC0415

            return array_extractor.ArrayExtractor(self._open_network(), **options)
        from delf_tf.extraction import extractor  # noqa: PLC0415 - TensorFlow is slow to load

        return extractor.Extractor(self.network, **options)

    def _open_network(self) -> OpenVinoNetwork:
        """Returns the network as OpenVINO runs it."""
        return choice.open_network(
            functools.partial(create_model, self.message),
            fingerprint=self.network_fingerprint(),
            cache_dir=self._cache_dir,
            wanted=self.engine.precision,
            quantized=self.message.extraction.quantized_network or None,
        )

    def exported_network(self) -> NetworkFolder:
        """Returns the float32 network in the form that OpenVINO reads."""
        return choice.exported(
            functools.partial(create_model, self.message),
            fingerprint=self.network_fingerprint(),
            cache_dir=self._cache_dir,
        )

    @functools.cached_property
    def _cache_dir(self) -> Path:
        """The folder of exported networks: a temporary one if the weights cannot be identified."""
        model = self.message.model
        if model.name and ":" not in model.name and (model.weights or model.HasField("seed")):
            return download.cache_dir()
        scratch = tempfile.mkdtemp(prefix="delf_tf_")
        weakref.finalize(self, shutil.rmtree, scratch, ignore_errors=True)
        return Path(scratch)


def create_model(message: experiment_pb2.Experiment) -> RetrievalModel:
    """Builds the experiment's model.

    Raises:
      UsageError: the config names no model.
      InputError: an unknown model, weights that are none of its own.
    """
    from delf_tf.models import create  # noqa: PLC0415

    options = _model_options(message)
    if "weights" not in options:
        logging.warning(
            "No weights are given: %s starts from random ones, which find nothing.", options["name"]
        )
    return create.create_model(**options)


def _model_options(message: experiment_pb2.Experiment) -> dict[str, Any]:
    options = config.set_fields(message.model)
    if "name" not in options:
        raise UsageError("The config must name a model: model { name: … }.")
    return options


def verify_options(message: experiment_pb2.Experiment) -> dict[str, Any]:
    """Returns the keyword arguments of `matching.verify`; what is not set keeps its default."""
    names = ("transform", "max_descriptor_distance", "max_ratio", "mutual")
    names += ("inlier_threshold_px", "inlier_threshold_share")
    given = config.set_fields(message.rerank)
    options = {_VERIFY_ARGUMENTS.get(name, name): given[name] for name in names if name in given}
    return {"seed": message.rerank.seed, **options}


def _build_network(message: experiment_pb2.Experiment) -> RetrievalModel:
    from delf_tf.extraction import folding  # noqa: PLC0415 - TensorFlow is slow
    from delf_tf.models import create  # noqa: PLC0415

    wanted = message.extraction.precision
    # Only OpenVINO computes in 8 bits; what TensorFlow is still asked for needs no speed.
    wanted = "float32" if wanted == choice.INT8 else wanted
    resolved = choice.resolve_precision(choice.TENSORFLOW, wanted)
    stored = create.read_model(**_model_options(message))
    if stored is None:
        return folding.inference_copy(create_model(message), resolved)
    return folding.inference_network(*stored, resolved, path=message.model.weights)


def _contents(paths: Sequence[artifacts.StrPath | None]) -> list[str]:
    """Returns the fingerprints of those of the paths that are files."""
    return [artifacts.file_fingerprint(path) for path in paths if path and Path(path).is_file()]


def _projection(path: artifacts.StrPath | None) -> Projection | None:
    from delf_tf.extraction.settings import Projection  # noqa: PLC0415

    if not path:
        return None
    fitted = whitening.load_whitening(path)
    return Projection(fitted.mean, fitted.projection)
