"""Base class of the indexes of global descriptors: ids, vectors, whitening, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from delf_tf.artifacts import StrPath
from delf_tf.checks import InputError, invalid, require
from delf_tf.retrieval.index_file import IndexContent, write_index
from delf_tf.retrieval.rankings import Selves, cut, num_selves, without_self
from delf_tf.retrieval.vectors.table import DTYPES, VectorTable
from delf_tf.retrieval.vectors.whitening import Whitening
from delf_tf.tensor_file import Tensor
from delf_tf.types import GlobalDescriptors, Ranking

Self = TypeVar("Self", bound="VectorIndex")


class VectorIndex:
    """Ids, vectors, whitening and files: all that an index has besides its way of searching."""

    kind = ""
    # Whether `train` learns something, for which a sample is then drawn.
    learns = False

    def __init__(
        self,
        *,
        dtype: str = "float32",
        whitening: Whitening | None = None,
        already_whitened: bool = False,
        fingerprint: str = "",
    ):
        """Makes an empty index.

        Args:
          dtype: how vectors are stored, "float32" or "float16".
          whitening: applied to everything added and to every query, or None.
          already_whitened: the descriptors' model whitens; a second whitening is refused.
          fingerprint: of what made the descriptors; kept in the file and compared when it is read.

        Raises:
          InputError: a whitening for descriptors that are whitened already.
        """
        require(
            whitening is None or not already_whitened,
            "Descriptors must be whitened once, in the model or in the index.",
            hint="Leave out the index's whitening, or extract without the model's.",
        )
        self.whitening = whitening
        self.already_whitened = already_whitened
        self.fingerprint = fingerprint
        # By id which file's content was added; whoever knows it fills it in, and the file keeps it.
        self.contents: dict[str, str] = {}
        self._ids: list[str] = []
        self._known: set[str] = set()
        # As rankings want them: checked once, not with every search.
        self._found_ids: tuple[str, ...] = ()
        self._table = VectorTable(dtype)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> tuple[str, ...]:
        """The database's ids, in row order."""
        if len(self._found_ids) != len(self._ids):
            self._found_ids = Ranking(
                (), tuple(self._ids), np.zeros((0, 0)), np.zeros((0, 0))
            ).database_ids
        return self._found_ids

    @property
    def dim(self) -> int:
        """Width of the descriptors that it takes; 0 while that is open."""
        return self.whitening.input_dim if self.whitening is not None else self._table.dim

    @property
    def vectors(self) -> VectorTable:
        """What it holds, [N, D] after whitening; empty if it keeps codes alone."""
        return self._table

    @property
    def lacks_vectors(self) -> bool:
        """Whether it holds images whose vectors `attach` must give before stages that need them."""
        return False

    def set_effort(self, *, num_probes: int | None = None, num_rescored: int | None = None) -> None:
        """Sets how much of the index a query looks at; None leaves what is set.

        Args:
          num_probes: cells visited a query, where there are cells.
          num_rescored: results that are scored again exactly, where codes approximate them.

        Raises:
          InputError: a count out of range.
        """
        fits = num_probes is None or num_probes >= 1
        require(fits, "num_probes must be 1 or more.", num_probes=num_probes)
        fits = num_rescored is None or num_rescored >= 0
        require(fits, "num_rescored must be 0 or more.", num_rescored=num_rescored)

    def train(self, vectors: np.ndarray) -> None:
        """Learns from a sample, float32 [N, D], of what will be added; most kinds learn nothing."""

    def attach(self, vectors: np.ndarray) -> None:
        """Gives an index that lacks its vectors, [N, D] as it compares them, those vectors.

        Raises:
          InputError: the index lacks none, or these are others.
        """
        raise invalid("The index must lack its vectors to be given them.", vectors=vectors)

    def whiten(self, descriptors: GlobalDescriptors) -> GlobalDescriptors:
        """Returns descriptors as the index compares them; without a whitening, as they are."""
        if self.whitening is None:
            return descriptors
        return GlobalDescriptors(descriptors.ids, self.whitening.apply(descriptors.vectors))

    def add(self, descriptors: GlobalDescriptors, *, whitened: bool = False) -> None:
        """Adds images; their rows follow those added before.

        Args:
          descriptors: of images that it does not hold yet.
          whitened: they come from `whiten`, or were made of what it gave.

        Raises:
          InputError: other width, an id that is there already; nothing is added then.
        """
        vectors = self._prepare("descriptors", descriptors, whitened)
        known = [one for one in descriptors.ids if one in self._known]
        require(not known, "An image must be added once.", repeated=known[:3])
        self._add_vectors(descriptors.ids, vectors)
        self._ids += descriptors.ids
        self._known.update(descriptors.ids)

    def search(
        self,
        queries: GlobalDescriptors,
        k: int,
        *,
        exclude_self: Selves = False,
        whitened: bool = False,
    ) -> Ranking:
        """Returns the `k` best images of each query, the lower row first among equals.

        Args:
          queries: Q descriptors of the index's width; Q may be 0.
          k: results a query, at most the number of images.
          exclude_self: leave out the image whose id is the query's, or those that are named by
            query id; rows that then have too few images end in -1.
          whitened: the queries come from `whiten`, or were made of what it gave.

        Raises:
          InputError: empty index, other width, k out of range.
        """
        require(len(self) > 0, "The index must hold images before it is searched.")
        require(
            1 <= k <= len(self),
            f"k must lie in 1..{len(self)}, the number of images in the index.",
            k=k,
        )
        vectors = self._prepare("queries", queries, whitened)
        depth = min(k + num_selves(exclude_self), len(self))
        rows, scores = self._search_vectors(vectors, depth)
        ranking = Ranking(queries.ids, self.ids, rows, scores)
        return cut(without_self(ranking, exclude_self), k) if exclude_self else ranking

    def save(self, path: StrPath) -> Path:
        """Writes the index to one file, atomically, and returns `path`."""
        arrays = self._arrays()
        if self.whitening is not None:
            arrays["mean"] = self.whitening.mean
            arrays["projection"] = self.whitening.projection
        return write_index(
            path,
            self.kind,
            fingerprint=self.fingerprint,
            ids=self._ids,
            arrays=arrays,
            parameters=self.parameters(),
            contents=self.contents,
        )

    def parameters(self) -> dict[str, Any]:
        """Returns what the index was made with, JSON-able."""
        return {
            "dim": self._table.dim,
            "dtype": self._table.dtype.name,
            "already_whitened": self.already_whitened,
            "whitening": self.whitening.kind if self.whitening is not None else None,
            **self._parameters(),
        }

    def train_as(self, other: VectorIndex) -> bool:
        """Takes over what another index learned; returns whether there is anything of use.

        Most kinds learn nothing.
        """
        del other
        return False

    @classmethod
    def from_content(
        cls: type[Self], content: IndexContent, *, fingerprint: str | None = None
    ) -> Self:
        """Makes an index of an open file; see `index.load_index`."""
        require(
            fingerprint is None or content.fingerprint == fingerprint,
            "The index must be made of the features that it is searched with.",
            hint="Build the index from this store, or extract the queries with its config.",
            expected=fingerprint,
            fingerprint=content.fingerprint,
            path=content.path,
        )
        try:
            index = cls._from_parameters(content)
            index._ids, index._known = list(content.ids), set(content.ids)
            index.contents = content.contents
            index._restore(content)
        except InputError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise invalid(
                "The index's header must be complete.", path=content.path, fault=repr(error)
            ) from None
        return index

    def _prepare(self, name: str, descriptors: GlobalDescriptors, whitened: bool) -> np.ndarray:
        width = descriptors.vectors.shape[1]
        expected = self.dim
        if whitened and self.whitening is not None:
            expected = self.whitening.output_dim
        require(
            expected in (0, width),
            f"{name} must have the index's width, {expected}.",
            hint="They were extracted with another model or whitening.",
            width=width,
        )
        return descriptors.vectors if whitened else self.whiten(descriptors).vectors

    @classmethod
    def _from_parameters(cls: type[Self], content: IndexContent) -> Self:
        parameters, whitening = content.parameters, None
        if parameters["whitening"] is not None:
            mean = content.array("mean", np.float32, (None,))
            projection = content.array("projection", np.float32, (None, None))
            whitening = Whitening(np.array(mean), np.array(projection), parameters["whitening"])
        return cls(
            dtype=parameters["dtype"],
            whitening=whitening,
            already_whitened=parameters["already_whitened"],
            fingerprint=content.fingerprint,
            **cls._arguments(parameters),
        )

    @classmethod
    def _arguments(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """Constructor arguments that only this kind has, from a file's parameters."""
        return {}

    def _parameters(self) -> dict[str, Any]:
        """Parameters that only this kind keeps."""
        return {}

    def _arrays(self) -> dict[str, Tensor]:
        """Arrays that this kind keeps."""
        return {"vectors": self._table}

    def _restore(self, content: IndexContent) -> None:
        """Takes the arrays of a file up again."""
        dtype = DTYPES[content.parameters["dtype"]]
        dim = content.parameter("dim", int) if len(self) else None
        vectors = content.array("vectors", dtype, (len(self), dim))
        if len(self):
            self._table.append(vectors)

    def _add_vectors(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        self._table.append(vectors)

    def _search_vectors(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        raise invalid("An index must say how it searches.", kind=self.kind)
