"""fit_whitening: global descriptors in, their PCA whitening out, for an index or for a network.

delf_tf fit_whitening --store=STORE --dim=512 --output=whitening.npz
delf_tf fit_whitening --store=STORE --dim=512 --weights=WEIGHTS.npz --output=whitened_weights.npz

Fit on images that will not be searched. The first form is for `index.whitening` of a config or
`build_index --whitening`; the second writes the compact network's weights with whitenings as its
last layers, one for each part of its descriptor, each of --dim components. --power 0.5 gives all
components the same variance; less lets the strong ones stay stronger. --local fits to the store's
local features: the regions of a network with global_pooling "rmac".
"""

from __future__ import annotations

import functools
import sys

import numpy as np

from delf_tf.checks import require, require_absent
from delf_tf.features.store import FeatureStore
from delf_tf.retrieval.vectors import whitening
from delf_tf.tools import command_line

FLAGS = command_line.Flags()
FLAGS.add_text("store", "feature store to fit on")
FLAGS.add_count("dim", "output dimensions; default: all")
FLAGS.add_number(
    "power",
    "exponent of the variance that components are divided by: 0.5 whitens fully, 0.25 by half",
    0.5,
)
FLAGS.add_switch("local", "fit to the local features")
FLAGS.add_text(
    "weights",
    "weights of the compact or pooled network that made the store; the output is then its weights "
    "file with the whitening built in",
)
FLAGS.add_text("output", "whitening or weights (.npz) to write")
FLAGS.add_switch("overwrite", "replace an existing output")


def main(flags: command_line.Flags) -> None:
    """Runs the tool."""
    store, output = flags.require("store", "output")
    require_absent("The output", output, flags.overwrite)
    vectors = _vectors(FeatureStore(store), flags.local)
    fit = functools.partial(whitening.fit_pca, **flags.pick("dim", "power"))
    if flags.weights:
        # TensorFlow takes seconds to load.
        from delf_tf.models.zoo import whitened  # noqa: PLC0415

        path = whitened.write_weights(flags.weights, vectors, fit, output)
    else:
        path = whitening.save_whitening(output, fit(vectors))
    command_line.write_result(str(path))


def _vectors(store: FeatureStore, local: bool) -> np.ndarray:
    if not local:
        return store.global_descriptors().vectors
    require(bool(store.ids()), "The store must hold images.", path=store.path)
    return np.concatenate([store.read_local(one).descriptors for one in store.ids()])


if __name__ == "__main__":
    sys.exit(command_line.run(main, FLAGS))
