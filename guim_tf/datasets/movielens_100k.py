"""MovieLens 100K (F. M. Harper and J. A. Konstan, 2015), with the age bands of MovieLens 1M."""

import pathlib

from guim_tf.datasets import movielens
from guim_tf.datasets.files import published_file, write_delimited

SOURCE = "https://grouplens.org/datasets/movielens/100k/"


def prepare(*, data_dir: str | pathlib.Path, output: str | pathlib.Path) -> pathlib.Path:
    """Writes `events.csv`, `items.csv`, `labels.csv` and their mapping; returns the mapping.

    Raises:
      ValueError: a published file is missing or has other fields.
    """
    ratings, movies, genres, users = (
        published_file(data_dir, "movielens_100k", name, source=SOURCE)
        for name in ("u.data", "u.item", "u.genre", "u.user")
    )
    output = pathlib.Path(output)
    names = [name for name, _ in movielens.split_lines(genres, "|", 2)]
    items = []
    for movie, title, _, _, _, *flags in movielens.split_lines(movies, "|", 5 + len(names)):
        held = [name for name, flag in zip(names, flags, strict=True) if flag == "1"]
        items.append((movie, title, "|".join(held)))
    labels = [
        (user, gender, movielens.age_group(int(age)), occupation)
        for user, age, gender, occupation, _ in movielens.split_lines(users, "|", 5)
    ]
    with ratings.open("rb") as source:
        write_delimited(output / "events.csv", movielens.EVENT_HEADER, source, delimiter=b"\t")
    return movielens.write_tables(output, items=items, labels=labels)
