"""rerank: a ranking and the features in; its head verified geometrically and put in a new order.

delf_tf rerank --ranking=ranking.npz --database_store=STORE --output=reranked.npz
  [--query_store=STORE] [--config=CONFIG] [--score=combined]

Without --query_store the queries are database images. Every verification is kept in a folder beside
the output; a run that was killed goes on from there, and another --score or --min_inliers costs no
new verification.

delf_tf rerank --fit_probability --ranking=ranking.npz --database_store=STORE [--labels=labels.csv]
prints the section `probability` of a config's `rerank`, for --score=probability, fitted to pictures
that were searched among themselves: not those that will be searched. Without --labels, pictures
that many inliers join, directly or by way of others, are of one scene. With rerank.method "learned"
or "fusion" the learned similarity is fitted too.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from absl import flags

from delf_tf.datasets import folder
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines.reranking import fit_probability, rerank
from delf_tf.tools import command_line

FLAGS = flags.FlagValues()
command_line.define_config_flags(FLAGS, weights=False)
flags.DEFINE_string("ranking", None, "ranking (.npz) of the first stage", flag_values=FLAGS)
flags.DEFINE_string("database_store", None, "feature store of the database", flag_values=FLAGS)
flags.DEFINE_string("query_store", None, "feature store of the queries", flag_values=FLAGS)
flags.DEFINE_string("output", None, "re-ranked ranking (.npz) to write", flag_values=FLAGS)
command_line.define_count(FLAGS, "num_threads", 2, "threads for verifying pairs")
command_line.define_count(
    FLAGS,
    "num_candidates",
    None,
    "length of the head that is verified; overrides the config's",
    least=0,
)
flags.DEFINE_string("score", None, "rerank.score; overrides the config's", flag_values=FLAGS)
flags.DEFINE_float("evidence_ratio", None, "fixed evidence / similarity", flag_values=FLAGS)
flags.DEFINE_boolean(
    "fit_probability", False, "print what --score=probability sorts by", flag_values=FLAGS
)
flags.DEFINE_float(
    "weight",
    None,
    "weight of the inlier count in score=combined; overrides the config's",
    flag_values=FLAGS,
)
command_line.define_count(
    FLAGS,
    "min_inliers",
    None,
    "inliers below which a match is ignored; overrides the config's",
    least=0,
)
flags.DEFINE_string(
    "labels",
    None,
    "CSV with columns image and place, for --fit_probability",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "verifications_dir",
    None,
    "folder of the verifications; default: OUTPUT.verifications",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "overwrite", False, "verify again, replacing existing results", flag_values=FLAGS
)
flags.DEFINE_boolean("json", False, "print JSON instead of lines", flag_values=FLAGS)


def main(flag_values: flags.FlagValues, arguments: Sequence[str]) -> None:
    """Runs the tool."""
    command_line.no_positional(arguments)
    ranking, database = command_line.required(flag_values, "ranking", "database_store")
    message = command_line.read_config(flag_values, optional=True)
    names = ("num_candidates", "score", "weight", "min_inliers")
    command_line.override_by_flags(flag_values, message.rerank, *names)
    if flag_values.fit_probability:
        fitted = fit_probability(
            message,
            ranking,
            FeatureStore(database),
            labels=folder.read_labels(flag_values.labels) if flag_values.labels else None,
            evidence_ratio=flag_values.evidence_ratio,
            verifications_dir=flag_values.verifications_dir or None,
            num_threads=flag_values.num_threads,
        )
        numbers = dataclasses.asdict(fitted)
        text = " ".join(f"{name}: {value:.4g}" for name, value in numbers.items())
        command_line.write_result(
            command_line.to_json(numbers) if flag_values.json else f"probability {{ {text} }}"
        )
        return
    (output,) = command_line.required(flag_values, "output")
    result = rerank(
        message,
        ranking,
        output,
        database=FeatureStore(database),
        queries=FeatureStore(flag_values.query_store) if flag_values.query_store else None,
        verifications_dir=flag_values.verifications_dir or None,
        overwrite=flag_values.overwrite,
        num_threads=flag_values.num_threads,
    )
    command_line.write_result(command_line.to_json(result) if flag_values.json else result["path"])


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
