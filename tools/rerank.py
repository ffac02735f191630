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

from delf_tf.datasets import folder
from delf_tf.features.store import FeatureStore
from delf_tf.pipelines.reranking import fit_probability, rerank
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_config(weights=False)
FLAGS.add_text("ranking", "ranking (.npz) of the first stage")
FLAGS.add_text("database_store", "feature store of the database")
FLAGS.add_text("query_store", "feature store of the queries")
FLAGS.add_text("output", "re-ranked ranking (.npz) to write")
FLAGS.add_count("num_threads", "threads for verifying pairs", 2)
FLAGS.add_count(
    "num_candidates", "length of the head that is verified; overrides the config's", least=0
)
FLAGS.add_text("score", "rerank.score; overrides the config's")
FLAGS.add_number("evidence_ratio", "--fit_probability: fixed ratio of evidence to similarity")
FLAGS.add_switch("fit_probability", "fit and print the weights of --score=probability")
FLAGS.add_number("weight", "weight of the inlier count in score=combined; overrides the config's")
FLAGS.add_count(
    "min_inliers", "inliers below which a match is ignored; overrides the config's", least=0
)
FLAGS.add_text("labels", "CSV with columns image and place, for --fit_probability")
FLAGS.add_text("verifications_dir", "folder of the verifications; default: OUTPUT.verifications")
FLAGS.add_switch("overwrite", "verify again, replacing existing results")
FLAGS.add_switch("json", "print JSON instead of lines")


def main(flags: command_line.Flags) -> None:
    """Runs the tool."""
    ranking, database = flags.require("ranking", "database_store")
    message = flags.read_config(optional=True)
    flags.override(message.rerank, "num_candidates", "score", "weight", "min_inliers")
    common = {
        "verifications_dir": flags.verifications_dir or None,
        "num_threads": flags.num_threads,
    }
    if flags.fit_probability:
        fitted = fit_probability(
            message,
            ranking,
            FeatureStore(database),
            labels=folder.read_labels(flags.labels) if flags.labels else None,
            evidence_ratio=flags.evidence_ratio,
            **common,
        )
        result = dataclasses.asdict(fitted)
        numbers = " ".join(f"{name}: {value:.4g}" for name, value in result.items())
        text = f"probability {{ {numbers} }}"
    else:
        (output,) = flags.require("output")
        result = rerank(
            message,
            ranking,
            output,
            database=FeatureStore(database),
            queries=FeatureStore(flags.query_store) if flags.query_store else None,
            overwrite=flags.overwrite,
            **common,
        )
        text = result["path"]
    command_line.write_result(command_line.to_json(result) if flags.json else text)


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
