"""build_tfrecords: labelled images in, TFRecord shards out; killed, the same command goes on.

delf_tf build_tfrecords --images_dir=TREE --output_dir=RECORDS             (one folder a class)
delf_tf build_tfrecords --images_dir=DIR --labels=labels.csv --output_dir=RECORDS
delf_tf build_tfrecords --dataset=gldv2 --images_dir=train --train_csv=train.csv \
  [--train_clean_csv=train_clean.csv] [--exclude_csv=rgldv2.csv] --output_dir=RECORDS
delf_tf build_tfrecords --dataset=gldv2 --images_dir=index --ids_csv=index.csv --split=index …
delf_tf build_tfrecords --dataset=sfm120k --images_dir=ims --database=retrieval-SfM-120k.pkl …

Google Landmarks v1 comes as a train.csv of the same columns; its classes were clusters of
photographs less than 25 km apart, so that two of them may show one landmark.
"""

from __future__ import annotations

import sys

from delf_tf.checks import UsageError
from delf_tf.datasets.input import training_images
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_choice(
    "dataset", ["folder", "gldv2", "sfm120k"], "layout of the images and labels", "folder"
)
FLAGS.add_text("images_dir", "folder of images")
FLAGS.add_text("output_dir", "folder that receives the shards")
FLAGS.add_text("labels", "folder: CSV with columns image and place", "")
FLAGS.add_text("train_csv", "gldv2: columns id and landmark_id", "")
FLAGS.add_text(
    "train_clean_csv", "gldv2: columns landmark_id and images; only these images are taken", ""
)
FLAGS.add_text(
    "exclude_csv",
    "gldv2: landmarks or images to leave out (Revisited GLDv2); recorded in every weights file",
    "",
)
FLAGS.add_text("ids_csv", "gldv2: column id; images without classes", "")
FLAGS.add_text("layout", "gldv2: gldv2 (a/b/c/abc.jpg) or flat (abc.jpg)", "gldv2")
FLAGS.add_text("database", "sfm120k: retrieval-SfM-120k.pkl", "")
FLAGS.add_text("split", "name of the split; sfm120k: train or val", "train")
FLAGS.add_number(
    "validation_fraction",
    "fraction of each class that goes to the split validation",
    0.0,
    least=0,
    most=1,
)
FLAGS.add_count("num_shards", "shards of a split; at most one an image", 128)
FLAGS.add_count("num_processes", "worker processes", 1)
FLAGS.add_beam()
FLAGS.add_count("seed", "random seed of shuffling and splitting", 0, least=None)
FLAGS.add_count(
    "max_image_size", "longest side, pixels; larger images are shrunk; 0: no limit", 0, least=0
)
FLAGS.add_max_failed(0.01)
FLAGS.add_switch("overwrite", "replace an existing build")


def main(flags: command_line.Flags) -> None:
    """Runs the tool."""
    flags.require("images_dir", "output_dir")
    from delf_tf.datasets.records import builder as record_builder  # noqa: PLC0415

    images = _listed(flags)
    splits = [(flags.split, images)]
    if flags.validation_fraction:
        parts = training_images.split_validation(images, flags.validation_fraction, seed=flags.seed)
        splits = list(zip((flags.split, "validation"), parts))
    for split, part in splits:
        path = record_builder.build_records(
            part,
            flags.output_dir,
            split=split,
            num_shards=min(flags.num_shards, len(part)),
            beam_flags=flags.beam,
            max_side_px=flags.max_image_size,
            **flags.pick("num_processes", "seed", "max_failed_fraction", "overwrite"),
        )
        command_line.write_result(str(path))


def _listed(flags: command_line.Flags) -> training_images.TrainingImages:
    root = flags.images_dir
    if flags.dataset == "sfm120k":
        flags.require("database")
        return training_images.from_sfm120k(root, flags.database, flags.split)
    if flags.dataset == "gldv2":
        if flags.ids_csv:
            return training_images.from_id_list(root, flags.ids_csv, layout=flags.layout)
        if not (flags.train_csv or flags.train_clean_csv):
            raise UsageError("--train_csv, --train_clean_csv or --ids_csv must be given.")
        return training_images.from_gldv2(
            root,
            flags.train_csv,
            clean_csv=flags.train_clean_csv,
            exclude_csv=flags.exclude_csv,
            layout=flags.layout,
        )
    return training_images.from_folder(root, flags.labels)


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
