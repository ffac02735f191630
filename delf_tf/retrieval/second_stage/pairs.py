"""Rankings to pairs of images with their matches, for COLMAP, hloc and tables.

Each unordered pair is written once, where it ranks best. Matches are the inliers of the stored
verifications; their numbers count the local features of the store, so that keypoints must come from
the same store (`convert_features --export_format=hloc`, or the database that is written here).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from delf_tf import artifacts
from delf_tf.artifacts import StrPath
from delf_tf.checks import invalid, require, require_choice
from delf_tf.features.store import FeatureStore
from delf_tf.retrieval import ranking_file
from delf_tf.retrieval.second_stage.verification_files import load_verifications
from delf_tf.types import Verification


class Pair(NamedTuple):
    """A query and one of its results.

    Attributes:
      query, database: ids.
      rank: place in the query's results, 1 the best.
      score: of the first stage.
      verification: None if the pair was not verified.
    """

    query: str
    database: str
    rank: int
    score: float
    verification: Verification | None

    @property
    def matches(self) -> np.ndarray:
        """The inliers, int64 [M, 2]: features of the query and of the database image."""
        one = self.verification
        return np.zeros((0, 2), np.int64) if one is None else one.matches[one.inlier_mask]


# Gives the features of both sides: the queries', the database's.
Stores = tuple[FeatureStore, FeatureStore]


def write_pairs(
    ranking_path: StrPath,
    output: StrPath,
    format: str,
    *,
    max_results: int = 20,
    min_inliers: int = 0,
    verifications_dir: StrPath | None = None,
    database: FeatureStore | None = None,
    queries: FeatureStore | None = None,
    images_dir: StrPath | None = None,
) -> list[Path]:
    """Writes the pairs of a ranking for another program.

    Args:
      ranking_path: the ranking (.npz).
      output: folder that receives the files.
      format: a key of `FORMATS`.
      max_results: results a query that make pairs.
      min_inliers: pairs with fewer are left out; needs verifications.
      verifications_dir: what `rerank` kept of this ranking; None writes pairs without matches.
      database: features of the database; with verifications, the files need them.
      queries: features of the queries; None if they are images of the database.
      images_dir: of the images, for COLMAP's database; None writes none.

    Returns:
      The files.

    Raises:
      InputError: verifications of another ranking or of other features, names with a space.
    """
    require_choice("format", format, FORMATS)
    verified = verifications_dir is not None
    require(
        not min_inliers or verified,
        "min_inliers needs verifications.",
        hint="Name the folder that rerank kept: --verifications_dir.",
        min_inliers=min_inliers,
    )
    stores = None if database is None or not verified else (queries or database, database)
    require(
        format == "csv" or verified == (stores is not None),
        "Matches need verifications and the features that were verified.",
        hint="Give --verifications_dir and --database_store, or neither for pairs alone.",
    )
    pairs = list(_read_pairs(ranking_path, max_results, min_inliers, verifications_dir))
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    written = FORMATS[format](folder, pairs, stores)
    if format == "colmap" and stores is not None and images_dir is not None:
        written.append(_write_database(folder, pairs, stores, images_dir))
    return written


def _read_pairs(
    path: StrPath, max_results: int, min_inliers: int, verifications_dir: StrPath | None
) -> Iterator[Pair]:
    ranking = ranking_file.load_ranking(path)
    verified = None if verifications_dir is None else load_verifications(verifications_dir)
    require(
        verified is None or verified.query_ids == ranking.query_ids,
        "The verifications must be of this ranking's queries.",
        path=verifications_dir,
    )
    seen: set[frozenset[str]] = set()
    for row, query in enumerate(ranking.query_ids):
        found = {} if verified is None else verified[row]
        head = ranking.indices[row][:max_results].tolist()
        for rank, index in enumerate(head, start=1):
            if index < 0:
                break
            one = found.get(index)
            name = ranking.database_ids[index]
            key = frozenset((query, name))
            strong = not min_inliers or (one is not None and one.num_inliers >= min_inliers)
            if len(key) == 2 and key not in seen and strong:
                seen.add(key)
                yield Pair(query, name, rank, float(ranking.scores[row, rank - 1]), one)


def _write_csv(folder: Path, pairs: Sequence[Pair], stores: Stores | None) -> list[Path]:
    """pairs.csv: query, database, rank, score, num_inliers (empty: not verified)."""
    del stores
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["query", "database", "rank", "score", "num_inliers"])
    for one in pairs:
        num = "" if one.verification is None else one.verification.num_inliers
        writer.writerow([one.query, one.database, one.rank, repr(one.score), num])
    return [artifacts.write_text(folder / "pairs.csv", text.getvalue())]


def _write_list(folder: Path, pairs: Sequence[Pair]) -> Path:
    """pairs.txt, as hloc and COLMAP read it: two names a line."""
    spaced = [name for one in pairs for name in one[:2] if len(name.split()) != 1]
    require(not spaced, "Names in a list of pairs must have no spaces.", names=spaced[:3])
    lines = [f"{one.query} {one.database}\n" for one in pairs]
    return artifacts.write_text(folder / "pairs.txt", "".join(lines))


def _write_hloc(folder: Path, pairs: Sequence[Pair], stores: Stores | None) -> list[Path]:
    """pairs.txt; and matches.h5: for each pair matches0 [N] (-1: none) and matching_scores0 [N]."""
    written = [_write_list(folder, pairs)]
    if stores is None:
        return written
    import h5py  # noqa: PLC0415 - slow to load, and few need it

    path = folder / "matches.h5"
    with artifacts.atomic_path(path) as new, h5py.File(new, "x", libver="latest") as file:
        for one, (sizes, matches) in zip(pairs, _checked(pairs, stores)):
            group = file.create_group("/".join(name.replace("/", "-") for name in one[:2]))
            matches0 = np.full(sizes[0], -1, np.int32)
            matches0[matches[:, 0]] = matches[:, 1]
            group["matches0"] = matches0
            group["matching_scores0"] = (matches0 >= 0).astype(np.float16)
    return [*written, path]


def _write_colmap(folder: Path, pairs: Sequence[Pair], stores: Stores | None) -> list[Path]:
    """pairs.txt; and matches.txt, COLMAP's raw matches: two names, then two numbers a line."""
    written = [_write_list(folder, pairs)]
    if stores is None:
        return written
    parts = []
    for one, (_, matches) in zip(pairs, _checked(pairs, stores)):
        rows = "".join(f"{first} {second}\n" for first, second in matches)
        parts.append(f"{one.query} {one.database}\n{rows}\n")
    return [*written, artifacts.write_text(folder / "matches.txt", "".join(parts))]


def _write_database(
    folder: Path, pairs: Sequence[Pair], stores: Stores, images_dir: StrPath
) -> Path:
    """Writes database.db: cameras as the files tell them, keypoints and matches.

    A keypoint's (x, y) has the first pixel's centre at (0.5, 0.5), as COLMAP's do. Without two-view
    geometries: COLMAP verifies the matches itself.

    Raises:
      InputError: pycolmap is not installed, or cannot read an image.
    """
    try:
        import pycolmap  # noqa: PLC0415 - few have it
    except ImportError:
        raise invalid(
            "COLMAP's database is written by pycolmap, which must be installed.",
            hint="pip install 'delf_tf[colmap]', or leave out images_dir.",
        ) from None

    owners = {name: store for one in pairs for name, store in zip(one[:2], stores)}
    path = folder / "database.db"
    with artifacts.atomic_path(path) as new:
        # An empty one must be there first.
        pycolmap.Database.open(new).close()
        pycolmap.import_images(new, images_dir, image_names=sorted(owners))
        database = pycolmap.Database.open(new)
        numbers = {image.name: image.image_id for image in database.read_all_images()}
        unread = sorted(owners.keys() - numbers.keys())
        require(not unread, "Images must be readable by COLMAP.", images=unread[:3])
        for name, store in owners.items():
            points = store.read_local(name).locations[:, ::-1] + 0.5
            database.write_keypoints(numbers[name], points.astype(np.float32))
        for one, (_, matches) in zip(pairs, _checked(pairs, stores)):
            ids = numbers[one.query], numbers[one.database]
            database.write_matches(*ids, matches.astype(np.uint32))
        database.close()
    return path


def _checked(pairs: Sequence[Pair], stores: Stores) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """Yields each pair's numbers of features and its matches, which must be of these features."""
    sizes: dict[str, int] = {}
    for one in pairs:
        for name, store in zip(one[:2], stores):
            if name not in sizes:
                sizes[name] = len(store.read_local(name))
        both = sizes[one.query], sizes[one.database]
        if len(one.matches) and (one.matches.max(axis=0) >= both).any():
            raise invalid(
                "Verifications must be of the features of the store.",
                hint="Name the stores that were re-ranked with.",
                query=one.query,
                database=one.database,
            )
        yield both, one.matches


# Format -> (folder, pairs, stores or None) -> files.
FORMATS: dict[str, Callable[[Path, Sequence[Pair], Stores | None], list[Path]]] = {
    "hloc": _write_hloc,
    "colmap": _write_colmap,
    "csv": _write_csv,
}
