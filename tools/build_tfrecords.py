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
from collections.abc import Sequence

from absl import flags

from delf_tf.checks import UsageError
from delf_tf.datasets.input import training_images
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
flags.DEFINE_enum(
    "dataset",
    "folder",
    ["folder", "gldv2", "sfm120k"],
    "layout of the images and labels",
    flag_values=FLAGS,
)
flags.DEFINE_string("images_dir", None, "folder of images", flag_values=FLAGS)
flags.DEFINE_string("output_dir", None, "folder that receives the shards", flag_values=FLAGS)
flags.DEFINE_string("labels", "", "folder: CSV with columns image and place", flag_values=FLAGS)
flags.DEFINE_string("train_csv", "", "gldv2: columns id and landmark_id", flag_values=FLAGS)
flags.DEFINE_string(
    "train_clean_csv",
    "",
    "gldv2: columns landmark_id and images; only these images are taken",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "exclude_csv",
    "",
    "gldv2: landmarks or images to leave out (Revisited GLDv2); recorded in every weights file",
    flag_values=FLAGS,
)
flags.DEFINE_string("ids_csv", "", "gldv2: column id; images without classes", flag_values=FLAGS)
flags.DEFINE_string(
    "layout", "gldv2", "gldv2: gldv2 (a/b/c/abc.jpg) or flat (abc.jpg)", flag_values=FLAGS
)
flags.DEFINE_string("database", "", "sfm120k: retrieval-SfM-120k.pkl", flag_values=FLAGS)
flags.DEFINE_string("split", "train", "name of the split; sfm120k: train or val", flag_values=FLAGS)
flags.DEFINE_float(
    "validation_fraction",
    0.0,
    "fraction of each class that goes to the split validation",
    lower_bound=0,
    upper_bound=1,
    flag_values=FLAGS,
)
command_line.define_count(FLAGS, "num_shards", 128, "shards of a split; at most one an image")
command_line.define_count(FLAGS, "num_processes", 1, "worker processes")
command_line.define_beam_flag(FLAGS)
flags.DEFINE_integer("seed", 0, "random seed of shuffling and splitting", flag_values=FLAGS)
command_line.define_count(
    FLAGS,
    "max_image_size",
    0,
    "longest side, pixels; larger images are shrunk; 0: no limit",
    least=0,
)
command_line.define_failed_flag(FLAGS, 0.01)
flags.DEFINE_boolean("overwrite", False, "replace an existing build", flag_values=FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    command_line.required(flag_values, "images_dir", "output_dir")
    from delf_tf.datasets.records import builder as record_builder  # noqa: PLC0415

    images = _listed(flag_values)
    splits = [(flag_values.split, images)]
    if flag_values.validation_fraction:
        parts = training_images.split_validation(
            images, flag_values.validation_fraction, seed=flag_values.seed
        )
        splits = list(zip((flag_values.split, "validation"), parts))
    for split, part in splits:
        path = record_builder.build_records(
            part,
            flag_values.output_dir,
            split=split,
            num_shards=min(flag_values.num_shards, len(part)),
            num_processes=flag_values.num_processes,
            beam_flags=flag_values.beam,
            seed=flag_values.seed,
            max_side_px=flag_values.max_image_size,
            max_failed_fraction=flag_values.max_failed_fraction,
            overwrite=flag_values.overwrite,
        )
        command_line.write_result(str(path))


def _listed(flag_values: flags.FlagValues) -> training_images.TrainingImages:
    root = flag_values.images_dir
    if flag_values.dataset == "sfm120k":
        command_line.required(flag_values, "database")
        return training_images.from_sfm120k(root, flag_values.database, flag_values.split)
    if flag_values.dataset == "gldv2":
        if flag_values.ids_csv:
            return training_images.from_id_list(
                root, flag_values.ids_csv, layout=flag_values.layout
            )
        if not (flag_values.train_csv or flag_values.train_clean_csv):
            raise UsageError("--train_csv, --train_clean_csv or --ids_csv must be given.")
        return training_images.from_gldv2(
            root,
            flag_values.train_csv,
            clean_csv=flag_values.train_clean_csv,
            exclude_csv=flag_values.exclude_csv,
            layout=flag_values.layout,
        )
    return training_images.from_folder(root, flag_values.labels)


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
