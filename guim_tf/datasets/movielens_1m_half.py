"""MovieLens 1M, the ratings of users 1 to 2998 (F. M. Harper and J. A. Konstan, 2015)."""

import gzip
import pathlib
from typing import BinaryIO, cast

from guim_tf.datasets import movielens
from guim_tf.datasets.files import published_file, write_delimited

SOURCE = (
    "https://grouplens.org/datasets/movielens/1m/ (ratings of users 1 to 2998, gzipped; "
    "movies.dat and users.dat as published)"
)
OCCUPATIONS = (
    "other",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)


def prepare(*, data_dir: str | pathlib.Path, output: str | pathlib.Path) -> pathlib.Path:
    """Writes `events.csv`, `items.csv`, `labels.csv` and their mapping; returns the mapping.

    Raises:
      ValueError: a published file is missing or has other fields.
    """
    ratings, movies, users = (
        published_file(data_dir, "movielens_1m_half", name, source=SOURCE)
        for name in ("ratings.dat.gz", "movies.dat", "users.dat")
    )
    output = pathlib.Path(output)
    items = [(movie, title, genres) for movie, title, genres in _fields(movies, 3)]
    labels = [
        (user, gender, movielens.age_group(int(age)), OCCUPATIONS[int(occupation)])
        for user, gender, age, occupation, _ in _fields(users, 5)
    ]
    with gzip.open(ratings) as source:
        write_delimited(
            output / "events.csv",
            movielens.EVENT_HEADER,
            cast(BinaryIO, source),
            delimiter=b"::",
        )
    return movielens.write_tables(output, items=items, labels=labels)


def _fields(path: pathlib.Path, count: int) -> list[list[str]]:
    return movielens.split_lines(path, "::", count)
