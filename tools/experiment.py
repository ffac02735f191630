"""From a config message to library objects: the one place where configs are unpacked."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging

from delf_tf import artifacts, config
from delf_tf.checks import UsageError, invalid
from delf_tf.protos import experiment_pb2
from delf_tf.retrieval.vectors import whitening
from delf_tf.tools import failures
from delf_tf.types import ImageRef

if TYPE_CHECKING:
    from delf_tf.extraction.engine import ImageLoader
    from delf_tf.extraction.extractor import Extractor
    from delf_tf.extraction.released import ReleasedExtractor
    from delf_tf.models.retrieval_model import RetrievalModel

# Features change with this number: raise it when the same config gives other features.
FEATURES_VERSION = "2"


def define_flags(flag_values: flags.FlagValues, default_config: str | None = None) -> None:
    """Adds --config, --set and --weights to a tool's flags."""
    flags.DEFINE_string(
        "config",
        default_config,
        "experiment: a .textproto file or the name of a shipped config",
        flag_values=flag_values,
    )
    flags.DEFINE_multi_string(
        "set",
        [],
        "override of the config, path.to.field=value; repeatable",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "weights",
        None,
        "weights .npz or preset name, instead of the config's",
        flag_values=flag_values,
    )


def define_extraction_flags(flag_values: flags.FlagValues) -> None:
    """Adds --precision and --local_codec to the flags of a tool that extracts."""
    flags.DEFINE_enum(
        "precision",
        None,
        ["auto", "float32", "bfloat16"],
        "numbers of the network, instead of the config's; auto: bfloat16 where the machine has it",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "local_codec",
        None,
        "float32, float16, int8 or the file of a trained codec: how local features are stored",
        flag_values=flag_values,
    )


def from_flags(flag_values: flags.FlagValues) -> experiment_pb2.Experiment:
    """Reads the experiment that --config, --set, --weights and the extraction flags describe.

    Raises:
      UsageError: no --config, or a config that cannot be understood.
    """
    if not flag_values.config:
        raise UsageError(f"--config must be given. Shipped: {', '.join(config.list_configs())}.")
    message = config.load_experiment(flag_values.config, flag_values.set)
    if flag_values.weights:
        message.model.weights = flag_values.weights
    for name in ("precision", "local_codec"):
        if name in flag_values and flag_values[name].value is not None:
            setattr(message.extraction, name, flag_values[name].value)
    return message


def create_extractor(
    message: experiment_pb2.Experiment,
    *,
    local_pca: artifacts.StrPath | None = None,
    use_global: bool | None = None,
    use_local: bool | None = None,
) -> Extractor | ReleasedExtractor:
    """Builds the model and its Extractor.

    Args:
      message: the experiment; its weights may also be a folder with a SavedModel of the original
        DELF code, which then needs no model's name.
      local_pca: fitted PCA of local descriptors; None for the config's own path, or none.
      use_global: overrides the config.
      use_local: overrides the config.
    """
    from delf_tf.extraction import extractor, released  # noqa: PLC0415 - TensorFlow is slow to load

    settings = message.extraction
    options = {
        "image_scales": settings.image_scales or (1.0,),
        "global_scales_ind": settings.global_scales_ind,
        "use_global_features": settings.use_global_features if use_global is None else use_global,
        "use_local_features": settings.use_local_features if use_local is None else use_local,
        "max_num_features": settings.max_num_features,
        "score_threshold": settings.score_threshold,
        "local_projection": _projection(local_pca or settings.local_pca.path),
        "global_projection": _projection(settings.global_pca.path),
    }
    if is_saved_model(message.model.weights):
        if settings.nms_iou < 1 or settings.border_cells or settings.precision == "bfloat16":
            raise UsageError(
                "nms_iou, border_cells and precision must be left out: a SavedModel has its own."
            )
        return released.ReleasedExtractor(message.model.weights, **options)
    return extractor.Extractor(
        create_model(message),
        nms_iou=settings.nms_iou,
        nms_box_px=settings.nms_box_px,
        border_cells=settings.border_cells,
        precision=settings.precision,
        **options,
    )


def is_saved_model(weights: str) -> bool:
    """Whether weights are a folder with a SavedModel of the original DELF code."""
    return bool(weights) and Path(weights, "saved_model.pb").is_file()


def create_model(message: experiment_pb2.Experiment) -> RetrievalModel:
    """Builds the experiment's model.

    Its weights may also be a file of another program that `convert_weights` reads, if the names of
    its arrays tell which; it is converted each time.

    Raises:
      UsageError: the config names no model.
      InputError: an unknown model, weights that are none of its own.
    """
    from delf_tf.models import create  # noqa: PLC0415

    options = config.set_fields(message.model)
    name, weights = options.pop("name", None), options.pop("weights", None)
    if name is None:
        raise UsageError("The config must name a model: model { name: … }.")
    if weights is None:
        logging.warning(
            "No weights are given: %s starts from random ones, which find nothing.", name
        )
        return create.create_model(name, **options)
    with tempfile.TemporaryDirectory() as folder:
        return create.create_model(name, weights=_own_weights(weights, Path(folder)), **options)


def _own_weights(weights: str, folder: Path) -> str:
    """Returns the path of `weights` in our own format, which may be a conversion in `folder`."""
    from delf_tf.models.zoo import checkpoint, conversion, foreign_files  # noqa: PLC0415

    if not Path(weights).is_file() or checkpoint.is_weights_file(weights):
        return weights
    arrays = foreign_files.read_arrays(weights)
    source = conversion.recognise(arrays)
    if source is None:
        return weights
    logging.info("Converting %s from %s; convert_weights does it once for all.", weights, source)
    converted = folder / "converted.npz"
    conversion.convert_file(source, arrays, weights, converted)
    return str(converted)


def create_loader(message: experiment_pb2.Experiment) -> ImageLoader:
    """Builds the reader of images with the experiment's limits."""
    from delf_tf.extraction import engine  # noqa: PLC0415

    return engine.ImageLoader(
        max_side=message.extraction.max_image_size,
        min_side=message.extraction.min_image_size,
        max_pixels=message.extraction.max_image_pixels,
    )


def needs_local_pca(message: experiment_pb2.Experiment) -> bool:
    """Tells whether the config asks for a PCA of local descriptors that is still to be fitted."""
    settings = message.extraction
    return (
        settings.use_local_features
        and settings.HasField("local_pca")
        and not settings.local_pca.path
    )


def fit_local_pca(
    message: experiment_pb2.Experiment, refs: Sequence[ImageRef], output_dir: Path
) -> Path:
    """Fits the PCA of local descriptors on `refs`, unless `output_dir` already holds that fit.

    Raises:
      InputError: the images give fewer than two features; failed_images.csv is then written.
    """
    from delf_tf.extraction import engine  # noqa: PLC0415

    settings = message.extraction.local_pca
    made_by = extraction_fingerprint(message, *(ref.id for ref in refs))
    path = output_dir / f"local_pca-{made_by}.npz"
    if path.is_file():
        return path
    descriptors, failed = engine.sample_descriptors(
        refs,
        create_extractor(message, use_global=False),
        create_loader(message),
        max_num_samples=settings.max_num_samples,
    )
    if len(descriptors) < 2:
        listed = failures.write(failed.items(), output_dir)
        raise invalid(
            "Fitting the PCA needs at least two local features.",
            hint=f"{listed} lists the images that could not be read.",
            num_images=len(refs),
            num_failed=len(failed),
        )
    fitted = whitening.fit_pca(descriptors, dim=settings.dim or None, whiten=settings.whiten)
    return whitening.save_whitening(path, fitted)


def extraction_fingerprint(message: experiment_pb2.Experiment, *more: str) -> str:
    """Returns the fingerprint of everything that shapes the features: model, weights, settings.

    "auto" counts as the precision that it means on this machine.
    """
    from delf_tf.extraction import precision  # noqa: PLC0415 - TensorFlow takes seconds to load
    from delf_tf.models.zoo import shipped  # noqa: PLC0415

    weights = message.model.weights
    if weights in shipped.SHIPPED and not Path(weights).is_file():
        weights = str(shipped.shipped_weights(weights))
    files = [
        weights,
        message.extraction.local_pca.path,
        message.extraction.global_pca.path,
    ]
    if is_saved_model(message.model.weights):
        files += sorted(str(path) for path in Path(message.model.weights).rglob("*"))
    contents = [artifacts.file_fingerprint(path) for path in files if path and Path(path).is_file()]
    relevant = experiment_pb2.Experiment(model=message.model, extraction=message.extraction)
    # The same weights under another path are the same weights.
    relevant.model.ClearField("weights")
    # How features are stored is said by the store, and changes no PCA fitted on them.
    relevant.extraction.ClearField("local_codec")
    relevant.extraction.precision = precision.resolve_precision(message.extraction.precision)
    named = [weights]
    if Path(weights).is_file() or is_saved_model(weights):
        named = []
    return config.fingerprint(relevant, FEATURES_VERSION, *named, *contents, *more)


def _projection(path: artifacts.StrPath | None) -> object | None:
    from delf_tf.extraction.extractor import Projection  # noqa: PLC0415

    if not path:
        return None
    fitted = whitening.load_whitening(path)
    return Projection(fitted.mean, fitted.projection)
