"""Times extraction from files to stored features, beside the original's way in the same process.

All contenders have the same weights and see the same files, in turn (interleaved), so that a busy
moment of the machine hits all; times are medians over rounds, after one that warms up. CPU seconds
are given too, which other processes disturb less.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf.benchmarks import measuring, network_rate
from delf_tf.benchmarks.measuring import Timings
from delf_tf.benchmarks.original import OriginalWay
from delf_tf.checks import require, require_choice
from delf_tf.datasets.images import read_image
from delf_tf.extraction import engine
from delf_tf.extraction.array_extractor import ArrayExtractor
from delf_tf.extraction.backends import network_folder, openvino_runtime
from delf_tf.extraction.backends.precision import BFLOAT16, FLOAT32, INT8
from delf_tf.extraction.extractor import Extractor
from delf_tf.features.store import FeatureStore
from delf_tf.models import create
from delf_tf.models.retrieval_model import RetrievalModel
from delf_tf.synthetic import benchmark_pictures
from delf_tf.types import ImageRef

ORIGINAL = "original"
# Of ours: the precision, with TensorFlow or with OpenVINO.
TENSORFLOW = {name: name for name in (FLOAT32, BFLOAT16)}
OPENVINO = {f"openvino_{name}": name for name in (FLOAT32, BFLOAT16, INT8)}
CONTENDERS = (ORIGINAL, *TENSORFLOW, *OPENVINO)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is extracted; see Extractor."""

    name: str
    image_scales: tuple[float, ...]
    global_scales_ind: tuple[int, ...] = ()
    use_local_features: bool = False


THREE = (0.7071, 1.0, 1.4142)
SEVEN = (0.25, 0.3536, 0.5, *THREE, 2.0)
SETTINGS = {
    "global": Setting("3-scale global", THREE),
    "local": Setting("7-scale local+global", SEVEN, (3, 4, 5), use_local_features=True),
}


def run(
    *,
    model: str | RetrievalModel = "delg_resnet50",
    height: int = 768,
    width: int = 1024,
    settings: Sequence[str] = tuple(SETTINGS),
    contenders: Sequence[str] | None = None,
    num_images: int = 2,
    rounds: int = 5,
    num_threads: int = 2,
    max_num_features: int = 1000,
) -> dict[str, Any]:
    """Runs the benchmark.

    Args:
      model: name of one with a global descriptor, and local features if a setting needs them, drawn
        at random; or the model itself.
      height: of the images, pixels.
      width: of the images, pixels.
      settings: keys of SETTINGS.
      contenders: of CONTENDERS: the original's way, or ours by an engine in a precision; None: all
        whose engine is installed.
      num_images: images a round.
      rounds: timed rounds.
      num_threads: that decode, of ours.
      max_num_features: local features an image.

    Returns:
      JSON-able: "image", "model", "rows" (one a setting and contender: see Timings.row, speedups
      over the original's way; "peak_memory_mb" of the process, "cosine" of the global descriptor
      to the first contender's) and "network", see network_rate.measure.

    Raises:
      InputError: a name or a number out of range.
    """
    for name in settings:
        require_choice("settings", name, SETTINGS)
    if contenders is None:
        contenders = CONTENDERS if openvino_runtime.is_installed() else (ORIGINAL, *TENSORFLOW)
    for name in contenders:
        require_choice("contenders", name, CONTENDERS)
    counts = {"num_images": num_images, "rounds": rounds, "num_threads": num_threads}
    require(min(counts.values()) >= 1, "Counts must be 1 or more.", **counts)
    if isinstance(model, str):
        model = create.create_model(model, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        refs = _write_images(Path(folder), num_images, height, width)
        measured: list[dict[str, Any]] = []
        networks = _write_networks(model, contenders, refs, Path(folder))
        for name in settings:
            setting = SETTINGS[name]
            runners = {
                contender: _runner(
                    contender,
                    model,
                    networks,
                    setting,
                    max_num_features=max_num_features,
                    num_threads=num_threads,
                )
                for contender in contenders
            }
            rows = _measure(runners, refs, Path(folder), rounds)
            measured += [{"setting": setting.name, **row} for row in rows]
        size = refs[0].path.stat().st_size
    precisions = [name for name in contenders if name in TENSORFLOW]
    return {
        "model": model.options["name"],
        "image": {"height": height, "width": width, "jpeg_bytes": size},
        "num_images": num_images,
        "rounds": rounds,
        "rows": measured,
        "network": network_rate.measure(model, precisions, height, width, rounds=rounds),
    }


# Extracts files into a new folder and returns the first one's global descriptor.
Runner = Callable[[Sequence[ImageRef], Path], np.ndarray]


def _runner(
    contender: str,
    model: RetrievalModel,
    networks: dict[str, network_folder.NetworkFolder],
    setting: Setting,
    *,
    max_num_features: int,
    num_threads: int,
) -> Runner:
    options: dict[str, Any] = {
        "image_scales": setting.image_scales,
        "global_scales_ind": setting.global_scales_ind,
        "use_local_features": setting.use_local_features,
        "max_num_features": max_num_features,
    }
    if contender == ORIGINAL:
        way = OriginalWay(model, **options)

        def original(refs: Sequence[ImageRef], folder: Path) -> np.ndarray:
            folder.mkdir()
            written = [way.write(read_image(ref), folder / Path(ref.id).stem) for ref in refs]
            return written[0].global_descriptor

        return original
    if contender in OPENVINO:
        from delf_tf.extraction.backends.openvino import OpenVinoNetwork  # noqa: PLC0415 - an extra

        precision = OPENVINO[contender]
        network = OpenVinoNetwork(networks[contender], precision=precision)
        extractor: Extractor | ArrayExtractor = ArrayExtractor(network, **options)
    else:
        extractor = Extractor(model, precision=TENSORFLOW[contender], **options)

    def ours(refs: Sequence[ImageRef], folder: Path) -> np.ndarray:
        engine.extract_to_store(
            refs,
            extractor,
            folder,
            loader=engine.ImageLoader(),
            fingerprint="benchmark",
            num_threads=num_threads,
        )
        return FeatureStore(folder).global_descriptors().vectors[0]

    return ours


def _write_networks(
    model: RetrievalModel, contenders: Sequence[str], refs: Sequence[ImageRef], folder: Path
) -> dict[str, network_folder.NetworkFolder]:
    """Returns what each contender of OpenVINO reads; int8 is calibrated on the images themselves.

    Calibration changes what int8 loses, not how fast it is.
    """
    wanted = {name: OPENVINO[name] for name in contenders if name in OPENVINO}
    if not wanted:
        return {}
    plain = network_folder.export_network(model, folder / FLOAT32, fingerprint="benchmark")
    found = dict.fromkeys(wanted, plain)
    for name, precision in wanted.items():
        if precision == INT8:
            from delf_tf.extraction.backends import quantization  # noqa: PLC0415 - an extra

            found[name] = quantization.quantize(plain, refs, engine.ImageLoader(), folder / name)
    return found


def _measure(
    runners: dict[str, Runner], refs: Sequence[ImageRef], folder: Path, rounds: int
) -> list[dict[str, Any]]:
    timings = Timings(runners, ORIGINAL)
    memory: dict[str, float | None] = {}
    vectors = {}
    for number in range(rounds + 1):
        for name, runner in runners.items():
            with tempfile.TemporaryDirectory(dir=folder) as output:
                measuring.reset_peak_memory()
                started, cpu_started = time.perf_counter(), time.process_time()
                vectors[name] = runner(refs, Path(output) / "features")
                seconds = time.perf_counter() - started
                cpu_seconds = time.process_time() - cpu_started
                # The first round traces graphs and fills caches.
                if number:
                    timings.add(name, seconds / len(refs), cpu_seconds / len(refs))
                    memory[name] = measuring.peak_memory_mb()
    first = vectors[next(iter(vectors))] if vectors else None
    return [
        {
            **timings.row(name),
            "peak_memory_mb": memory[name],
            "cosine": float(vectors[name] @ first),
        }
        for name in runners
    ]


def _write_images(folder: Path, num: int, height: int, width: int) -> list[ImageRef]:
    refs = []
    for number in range(num):
        path = folder / f"{number:04}.jpg"
        path.write_bytes(benchmark_pictures.encode_picture(number, height, width))
        refs.append(ImageRef(path.name, path))
    return refs
