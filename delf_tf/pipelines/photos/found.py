"""What a search with one picture found: a sequence of hits that re-ranks and draws itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from delf_tf.checks import require
from delf_tf.datasets import images
from delf_tf.features.blocks import ImageFeatures
from delf_tf.types import Ranking, Verification

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from delf_tf.pipelines.photos.photos import Photos

_NUM_SHOWN = 9


class Hit(NamedTuple):
    """One result: its id, file, first-stage score, and inliers; None if it was not verified."""

    id: str
    path: Path
    score: float
    num_inliers: int | None


class Found(Sequence[Hit]):
    """What a search found, best first; in a notebook it shows itself.

    Attributes:
      ranking: of the one query.
    """

    def __init__(
        self,
        photos: Photos,
        image: np.ndarray,
        features: ImageFeatures,
        ranking: Ranking,
        verifications: Mapping[int, Verification] | None = None,
    ):
        """Keeps what was searched with and what was found; see `Photos.search`."""
        self.ranking = ranking
        self._photos, self._image, self._features = photos, image, features
        self._verifications = verifications or {}
        self._rows = [row for row in ranking.indices[0].tolist() if row >= 0]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int | slice) -> Hit | list[Hit]:
        """Returns the result at a place, 0 the best."""
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        row = self._rows[place]
        ref = self._photos.ref(self.ranking.database_ids[row])
        verified = self._verifications.get(row)
        score = float(self.ranking.scores[0][range(len(self))[place]])
        return Hit(ref.id, ref.path, score, None if verified is None else verified.num_inliers)

    def rerank(self) -> Found:
        """Verifies the head geometrically and puts it in a new order.

        Raises:
          InputError: the model has no local features.
        """
        local = self._features.local
        require(
            local is not None,
            "Re-ranking needs local features.",
            hint="Open a model whose config extracts them, such as compact.",
        )
        return Found(
            self._photos, self._image, self._features, *self._photos.verify(self.ranking, local)
        )

    def show(self, num_results: int = _NUM_SHOWN) -> Figure:
        """Returns a figure of the query and its best results; `figure.savefig(path)` keeps it."""
        from delf_tf.report import hits  # noqa: PLC0415 - loads matplotlib

        return hits.hits_figure(
            self._image,
            [
                (images.read_image(self._photos.ref(hit.id)), f"{hit.id}\n{_figures(hit)}")
                for hit in self[:num_results]
            ],
        )

    def _repr_html_(self) -> str:
        """A notebook's view: the figure."""
        from delf_tf.report import html, plots  # noqa: PLC0415 - loads matplotlib

        picture = html.data_uri(plots.figure_bytes(self.show()), "image/png")
        return f'<img src="{picture}" alt="The query and its {len(self)} results, best first">'

    def __repr__(self) -> str:
        shown = ", ".join(f"{hit.id} ({_figures(hit)})" for hit in self[:3])
        return f"<{len(self)} results: {shown}{', …' if len(self) > 3 else ''}>"


def _figures(hit: Hit) -> str:
    verified = "" if hit.num_inliers is None else f", {hit.num_inliers} inliers"
    return f"similarity {hit.score:.3f}{verified}"
