"""Writes what may be learned from of a data set as one plain table, for recommenders of libraries.

Libraries with other needs than this package's run in environments of their own, where TensorFlow
is not at hand to read records. The table holds the events before `Schema.as_of` of all users, of
both splits: the past that the baselines of `guim evaluate` see. One row an event, each user's rows
together and in time order: user_id, item_id (string), timestamp (int64 seconds). The file's
metadata carry `as_of`, seconds.
"""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pyarrow as pa
import pyarrow.parquet as pq

_EXAMPLES = """\
example:
  python benchmarks/export_events.py --dataset work/dataset --output work/events.parquet
"""


def export_events(*, dataset: str | pathlib.Path, output: str | pathlib.Path) -> int:
    """Writes the table of a data set folder; returns its rows.

    Raises:
      SchemaError, DatasetError, RecordError: the folder is not a data set, or is damaged.
      ValueError: nothing happened before `Schema.as_of`.
    """
    from guim_tf import schema as names
    from guim_tf.catalogue import Catalogue
    from guim_tf.evaluation.protocol import read_events

    schema = names.Schema.load(dataset)
    catalogue = Catalogue(dataset)
    kind = pa.schema(
        [("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())],
        metadata={"as_of": str(schema.as_of)},
    )
    batches = []
    splits = (names.TRAIN, names.VALIDATION)
    for users, events in read_events(dataset, schema=schema, catalogue=catalogue, splits=splits):
        past = events.between(schema.first_timestamp, schema.as_of)
        columns = (
            users.user_ids[past.items.owners],
            catalogue.item_id[past.items.values],
            past.timestamps,
        )
        batches.append(pa.record_batch([*map(pa.array, columns, kind.types)], schema=kind))
    table = pa.Table.from_batches(batches, kind)
    if not table.num_rows:
        raise ValueError(
            f"{dataset} has no event before its as_of, {schema.as_of}. Build it again with a later "
            "`guim build-dataset --as-of`."
        )
    output = pathlib.Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(output.name + ".unfinished")
    pq.write_table(table, unfinished)
    os.replace(unfinished, output)
    return table.num_rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, help="what `guim build-dataset` wrote")
    parser.add_argument("--output", required=True, help="Parquet file to write")
    arguments = parser.parse_args(argv)
    try:
        rows = export_events(dataset=arguments.dataset, output=arguments.output)
    except (ValueError, OSError) as e:
        print(f"export_events: {e}", file=sys.stderr)
        return 2
    print(f"{arguments.output}: {rows:,} events")
    return 0


if __name__ == "__main__":
    sys.exit(main())
