"""Writes vectors that say what is in a user's history and nothing else: yardsticks for encoders.

Of the 365 days before `Schema.as_of`, by which `guim evaluate` knows users. Without
`--item-vectors` it is which items they are: one number an item of the catalogue, 0 or 1, and of
items the unit vectors. With it, the mean of the history's item vectors, each of length one. What an
encoder tells of profiles beyond the first it has learned, and beyond the second it has from more
than the mean.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

HISTORY_DAYS = 365  # as `guim evaluate` has it
_EXAMPLES = """\
examples:
  python benchmarks/history_vectors.py --dataset work/dataset --output work/which
  python benchmarks/history_vectors.py --dataset work/dataset --output work/mean \\
      --item-vectors work/items.parquet
  guim evaluate --dataset work/dataset --score dot --user-vectors work/which/users.npy \\
      --item-vectors work/which/items.npy --output work/which/report

writes OUTPUT/users.npy and items.npy with their ids. The first takes users x items x 4 bytes.
"""


def history_vectors(
    *,
    dataset: str | pathlib.Path,
    output: str | pathlib.Path,
    item_vectors: str | pathlib.Path | None = None,
) -> tuple[int, int]:
    """Writes the vectors of users with a history and of items; returns users and numbers of each.

    Raises:
      SchemaError, DatasetError, RecordError, VectorFileError: a file is missing or damaged.
      ValueError: nobody has a history, or an item has no vector.
    """
    from guim_tf import schema as names
    from guim_tf.catalogue import Catalogue
    from guim_tf.evaluation.protocol import read_events
    from guim_tf.evaluation.vector_files import read_vectors

    schema, catalogue = names.Schema.load(dataset), Catalogue(dataset)
    if item_vectors is None:
        items = np.eye(len(catalogue), dtype=np.float32)
    else:
        vectors_of, given = read_vectors(item_vectors, kind="item").select(catalogue.item_id)
        if not given.all():
            raise ValueError(
                f"{item_vectors} has a vector for {given.sum():,} of the {len(given):,} items of "
                f"{dataset}. Write it again with `guim embed-items` for this data set."
            )
        items = vectors_of[:, 0]
        items /= np.maximum(np.linalg.norm(items, axis=1, keepdims=True), 1e-12)
    ids, vectors = [], []
    splits = (names.TRAIN, names.VALIDATION)
    for users, events in read_events(dataset, schema=schema, catalogue=catalogue, splits=splits):
        past = events.between(schema.as_of - HISTORY_DAYS * names.DAY, schema.as_of).items
        if item_vectors is None:
            past = past.distinct()
        made = np.zeros((len(users.user_ids), items.shape[1]), np.float32)
        np.add.at(made, past.owners, items[past.values])
        known = past.lengths > 0
        if item_vectors is not None:
            made[known] /= past.lengths[known, None]
        ids.append(users.user_ids[known])
        vectors.append(made[known])
    if not sum(map(len, ids)):
        raise ValueError(
            f"no user of {dataset} has an event in the {HISTORY_DAYS} days before its as_of. Build "
            "it again with another `guim build-dataset --as-of`."
        )
    folder = pathlib.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for name, of, array in (
        ("users", np.concatenate(ids), np.concatenate(vectors)),
        ("items", catalogue.item_id, items),
    ):
        np.save(folder / f"{name}.npy", array)
        (folder / f"{name}.ids.txt").write_text("".join(f"{x}\n" for x in of), encoding="utf-8")
    return sum(map(len, ids)), items.shape[1]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, help="what `guim build-dataset` wrote")
    parser.add_argument("--output", required=True, help="folder for the vectors")
    parser.add_argument(
        "--item-vectors", help="of which users are the mean; as of guim embed-items"
    )
    arguments = parser.parse_args(argv)
    try:
        users, numbers = history_vectors(**vars(arguments))
    except (ValueError, OSError) as e:
        print(f"history_vectors: {e}", file=sys.stderr)
        return 2
    print(f"{arguments.output}: {users:,} users of {numbers:,} numbers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
