"""Lists of training images with their classes, and the split into training and validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from delf_tf import artifacts
from delf_tf.checks import invalid, require, require_choice
from delf_tf.datasets import folder as folder_dataset
from delf_tf.datasets import gldv2, sfm120k
from delf_tf.datasets.tables import malformed, read_rows

# Where an image lies below the root, by its id.
LAYOUTS = {
    "relative": lambda root, image_id: root / image_id,
    "gldv2": gldv2.image_path,
    "flat": lambda root, image_id: root / f"{image_id}.jpg",
    "sfm120k": sfm120k.image_path,
}


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingImages:
    """Images by id, without their pixels: about 80 bytes an image.

    Attributes:
      root: folder of the images.
      ids: unique ids.
      labels: int64 [N], 0..C-1, or None for images without a class.
      class_names: C names as the source has them (landmark ids, folder names), by label.
      layout: a key of `LAYOUTS`.
      source: what the images come from, kept with the records and with weights trained on them.
    """

    root: Path
    ids: tuple[str, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    layout: str = "relative"
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        require_choice("layout", self.layout, LAYOUTS)
        require(Path(self.root).is_dir(), "The folder of images must exist.", root=str(self.root))
        require(bool(self.ids), "There must be at least one image to train on.", source=self.source)
        outside = [one for one in self.ids if one.startswith("/") or ".." in one.split("/")]
        require(not outside, "Ids must name files below the folder of images.", ids=outside[:3])
        if self.labels is not None:
            labels = np.asarray(self.labels, np.int64)
            object.__setattr__(self, "labels", labels)
            present = np.bincount(labels, minlength=len(self.class_names))
            require(
                len(labels) == len(self.ids) and len(present) == len(self.class_names),
                "Labels must be one an image and lie in 0..C-1.",
                num_labels=len(labels),
                num_images=len(self.ids),
                num_classes=len(self.class_names),
            )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_classes(self) -> int:
        """Number of classes, also of those that no image is left of."""
        return len(self.class_names)

    def path(self, image_id: str) -> Path:
        """Returns the file of an image; it need not exist."""
        return LAYOUTS[self.layout](Path(self.root), image_id)

    def take(self, rows: np.ndarray) -> TrainingImages:
        """Returns the images at `rows`; classes keep their labels."""
        ids = tuple(self.ids[row] for row in rows)
        return dataclasses.replace(
            self, ids=ids, labels=None if self.labels is None else self.labels[rows]
        )


def from_folder(root: artifacts.StrPath, labels_csv: artifacts.StrPath = "") -> TrainingImages:
    """Lists a tree of one folder a class, or any tree with a table of labels.

    Args:
      root: without a table, each folder directly below it is a class, and what lies deeper belongs
        to it; images directly in the root are refused.
      labels_csv: CSV with the columns image and place; images without a place are left out.

    Raises:
      InputError: no image, an image without a class folder, or labels of other images.
    """
    refs = folder_dataset.list_images(root)
    ids = tuple(ref.id for ref in refs)
    if labels_csv:
        places = folder_dataset.places(ids, folder_dataset.read_labels(labels_csv))
        source = {"kind": "folder", "labels": artifacts.file_fingerprint(labels_csv)}
    else:
        loose = [one for one in ids if "/" not in one]
        require(
            not loose,
            "Each image must lie in a folder named after its class.",
            hint="Or name a table of labels with --labels.",
            images=loose[:3],
        )
        places = tuple(one.partition("/")[0] for one in ids)
        source = {"kind": "folder"}
    kept = [(one, place) for one, place in zip(ids, places) if place]
    return _labelled(Path(root), kept, sorted({place for _, place in kept}), "relative", source)


def from_gldv2(
    root: artifacts.StrPath,
    train_csv: artifacts.StrPath,
    *,
    clean_csv: artifacts.StrPath = "",
    exclude_csv: artifacts.StrPath = "",
    layout: str = "gldv2",
) -> TrainingImages:
    """Lists Google Landmarks v2's training images.

    Classes are numbered 0..C-1 by ascending landmark id, as the original's builder does.

    Args:
      root: folder of the images, in GLDv2's tree a/b/c/abc….jpg or in another `layout`.
      train_csv: columns id and landmark_id; "" if `clean_csv` is given.
      clean_csv: columns landmark_id and images (ids separated by spaces); if given, it alone says
        which images train.
      exclude_csv: images and whole landmarks to leave out, see `gldv2.read_exclusions`: so
        Revisited GLDv2 (arXiv 2404.01524) removes the landmarks of ROxford's and RParis's queries,
        1,565 images in 17 classes of the clean set.
      layout: a key of `LAYOUTS`.

    Raises:
      InputError: a table is missing or malformed, an image is listed twice, or a landmark id is no
        whole number.
    """
    table = clean_csv or train_csv
    pairs = list(_gldv2_pairs(train_csv, clean_csv))
    source: dict[str, Any] = {
        "kind": "gldv2-clean" if clean_csv else "gldv2",
        "table": Path(table).name,
        "table_fingerprint": artifacts.file_fingerprint(table),
    }
    if exclude_csv:
        exclusions = gldv2.read_exclusions(exclude_csv)
        kept = [pair for pair in pairs if pair not in exclusions]
        source["excluded"] = {
            "table": Path(exclude_csv).name,
            "table_fingerprint": artifacts.file_fingerprint(exclude_csv),
            "num_images": len(pairs) - len(kept),
            "num_classes": len({c for _, c in pairs}) - len({c for _, c in kept}),
        }
        pairs = kept
    return _labelled(Path(root), pairs, sorted({c for _, c in pairs}), layout, source)


def from_sfm120k(
    root: artifacts.StrPath, database_pkl: artifacts.StrPath, split: str = "train"
) -> TrainingImages:
    """Lists SfM-120k's images; the class is the cluster, a 3-D model's images.

    Args:
      root: folder of the images, in the published tree.
      database_pkl: retrieval-SfM-120k.pkl, read without running anything in it.
      split: "train" or "val".

    Raises:
      InputError: the pickle is missing, damaged or malformed.
    """
    part = sfm120k.read_database(database_pkl, split)
    pairs = list(zip(part.image_ids, part.clusters.tolist()))
    source = {"kind": "sfm120k", "split": split}
    return _labelled(Path(root), pairs, sorted({c for _, c in pairs}), "sfm120k", source)


def from_id_list(
    root: artifacts.StrPath, ids_csv: artifacts.StrPath, *, layout: str = "gldv2"
) -> TrainingImages:
    """Lists images without a class: GLDv2's index.csv and test.csv (column id)."""
    ids = gldv2.read_image_ids(ids_csv)
    return TrainingImages(Path(root), tuple(ids), None, (), layout, {"kind": "ids"})


def split_validation(
    images: TrainingImages, fraction: float, *, seed: int = 0
) -> tuple[TrainingImages, TrainingImages]:
    """Splits each class; returns (train, validation).

    A class gives floor(fraction · size) images to validation, at least one from two images on; a
    class with a single image trains (the original's builder gave it to validation, so it never
    did).

    Args:
      images: labelled.
      fraction: in (0, 1).
      seed: of the draw.
    """
    require(0 < fraction < 1, "validation fraction must lie in (0, 1).", fraction=fraction)
    require(images.labels is not None, "Only labelled images can be split by class.")
    shuffled = np.random.RandomState(seed).permutation(len(images))
    by_class = shuffled[np.argsort(images.labels[shuffled], kind="stable")]
    sizes = np.bincount(images.labels, minlength=images.num_classes)
    held = np.where(sizes > 1, np.maximum(1, (sizes * fraction).astype(np.int64)), 0)
    rank = np.arange(len(images)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    is_held = rank < np.repeat(held, sizes)
    require(bool(is_held.any()), "Some class must have two images to validate on.", sizes=sizes)
    return images.take(np.sort(by_class[~is_held])), images.take(np.sort(by_class[is_held]))


def write_relabeling(path: artifacts.StrPath, class_names: Sequence[str]) -> Path:
    """Writes which class a label stands for (columns new_label, old_label); returns the path."""
    rows = [f"{label},{_quoted(name)}" for label, name in enumerate(class_names)]
    return artifacts.write_text(path, "\n".join(["new_label,old_label", *rows]) + "\n")


def read_relabeling(path: artifacts.StrPath) -> tuple[str, ...]:
    """Reads the classes' names by label.

    Raises:
      InputError: labels are not 0..C-1, each once, or two labels stand for one class.
    """
    names: dict[int, str] = {}
    for line, (label, name) in read_rows(path, ["new_label", "old_label"]):
        if not label.isdigit() or int(label) in names:
            raise malformed(path, line, f"new_label {label!r} is no new whole number")
        names[int(label)] = name
    whole = sorted(names) == list(range(len(names))) and len(set(names.values())) == len(names)
    require(whole, "A relabelling must give 0..C-1 one class each.", path=str(path))
    return tuple(names[label] for label in range(len(names)))


def _labelled(
    root: Path,
    pairs: Sequence[tuple[str, Any]],
    classes: Sequence[Any],
    layout: str,
    source: Mapping[str, Any],
) -> TrainingImages:
    ids = tuple(image_id for image_id, _ in pairs)
    _require_unique(ids)
    label_of = {name: label for label, name in enumerate(classes)}
    labels = np.fromiter((label_of[c] for _, c in pairs), np.int64, len(pairs))
    return TrainingImages(root, ids, labels, tuple(map(str, classes)), layout, source)


def _gldv2_pairs(
    train_csv: artifacts.StrPath, clean_csv: artifacts.StrPath
) -> Iterator[tuple[str, int]]:
    if not clean_csv:
        yield from gldv2.read_train(train_csv)
        return
    for landmark, image_ids in gldv2.read_train_clean(clean_csv):
        for image_id in image_ids:
            yield image_id, landmark


def _require_unique(ids: Sequence[str]) -> None:
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        twice = [one for one in ids if one in seen or seen.add(one)]
        raise invalid("Each image must be listed once.", twice=twice[:3], num_twice=len(twice))


def _quoted(name: str) -> str:
    if any(character in name for character in ',"\n\r'):
        return '"' + name.replace('"', '""') + '"'
    return name
