"""What the JSON API answers, beside `answers.Answer`."""

from __future__ import annotations

from pydantic import BaseModel

from delf_tf.serving.answers import Matches


class ItemModel(BaseModel):
    """An image of the collection."""

    number: int
    id: str


class CollectionModel(BaseModel):
    """A page of the collection."""

    name: str
    num_images: int
    two_stages: bool
    methods: list[str]
    images: list[ItemModel]


class MatchesModel(BaseModel):
    """A verified pair: which of the query's pictures, and [y, x] pixels, one row a match."""

    picture: int
    query_points: list[tuple[float, float]]
    database_points: list[tuple[float, float]]
    inliers: list[bool]
    num_inliers: int
    database_height: int

    @classmethod
    def of(cls, found: Matches, database_height: int) -> MatchesModel:
        """Returns matches as the API gives them."""
        return cls(
            picture=found.picture,
            query_points=found.query_points.tolist(),
            database_points=found.database_points.tolist(),
            inliers=found.inliers.tolist(),
            num_inliers=int(found.inliers.sum()),
            database_height=database_height,
        )


class ChangedModel(BaseModel):
    """An image that was added or taken out, and how many there are now."""

    id: str
    num_images: int


class ErrorModel(BaseModel):
    """Why a request was refused."""

    error: str
