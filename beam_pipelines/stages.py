"""What one worker does: plain functions from files to files.

Beam moves only names of files between them, so that what crosses the network is (sources x
partitions) short elements and memory is bounded by a chunk of rows or by one partition. Each
function may be repeated: it writes to a name of its own and renames. Folders must be visible to
all workers.
"""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines import progress, sequences, vocabulary
from beam_pipelines.errors import InputError
from beam_pipelines.events import mapped_columns, validate_events
from beam_pipelines.examples import RecordWriter, UserEvents, encode_examples
from beam_pipelines.readers import DeadRow, Source, read_batches
from guim_tf import schema
from guim_tf.mapping import EventsMapping

CHUNK_ROWS = 250_000  # rows between two writes of a scan
COMPACT_ROWS = 4_000_000  # rows of a partition that are worth compacting before more are read
ENCODE_ROWS = 100_000  # events encoded at a time


@dataclasses.dataclass(frozen=True)
class Plan:
    """What every worker must know. `folder` is the unfinished output."""

    folder: pathlib.Path
    events: EventsMapping
    shards: int
    max_events_per_user: int
    validation_share: float
    compression: str
    chunk_rows: int = CHUNK_ROWS

    @property
    def work(self) -> pathlib.Path:
        return self.folder / "work"

    def progress(self, stage: str) -> pathlib.Path:
        return self.work / "progress" / stage

    def sequences(self, partition: int) -> pathlib.Path:
        return self.work / f"sequences-{partition:05d}.arrow"


def as_of_after(last_timestamp: int, holdout_days: int) -> int:
    """Midnight UTC after the last event, minus the holdout."""
    return (last_timestamp // 86_400 + 1 - holdout_days) * 86_400


# ------------------------------------------------------------------------------- scan


def scan_source(element: tuple[int, Source], plan: Plan) -> list[tuple[int, str]]:
    """Reads and validates one (number, source); spills its events by partition.

    Returns:
      (partition, file) pairs. Beside them, `scan-<number>.json` says what the rows became,
      `attributes-<number>.arrow` what the source says about items, and a file in
      `dead_letters/` holds the rows that can't be used. An input that can't be read is reported
      in the JSON file, to be raised where a runner doesn't wrap it in its own errors.
    """
    number, source = element
    counters: dict[str, Any] = {"read": 0, "kept": 0, "capped": 0, "last": 0, "error": ""}
    filtered: collections.Counter[str] = collections.Counter()
    dead: collections.Counter[str] = collections.Counter()
    spill = _Spill(plan, number)
    columns, ids = mapped_columns(plan.events)
    letters = dead_letter_file(plan.folder, f"events-{number:05d}")
    try:
        with spill, DeadLetters(letters, source.path) as dead_letters:
            for raw in read_batches(source, columns, ids=ids):
                valid = validate_events(raw, plan.events)
                dead_letters.write(valid.dead)
                counters["read"] += raw.table.num_rows + len(raw.dead)
                counters["kept"] += valid.table.num_rows
                filtered.update(valid.filtered)
                dead.update(letter.reason for letter in valid.dead)
                if valid.table.num_rows:
                    counters["last"] = max(
                        counters["last"], pc.max(valid.table["timestamp"]).as_py()
                    )
                    spill.add(valid.table, valid.rows, source.index)
                progress.report(plan.progress("read"), f"{number:05d}", counters["read"])
    except InputError as e:
        counters["error"] = str(e)
    counters |= {"filtered": dict(filtered), "dead": dict(dead), "capped": spill.capped}
    write_json(plan.work / f"scan-{number:05d}.json", counters)
    if counters["error"]:
        return []
    return [(partition, str(path)) for partition, path in enumerate(spill.paths)]


class _Spill:
    """Collects events and writes them, in chunks, to one Arrow stream a partition."""

    def __init__(self, plan: Plan, number: int) -> None:
        self._plan, self._number = plan, number
        self.paths = [
            plan.work / f"spill-{number:05d}-{part:05d}.arrow" for part in range(plan.shards)
        ]
        self.capped = 0
        self._waiting: list[pa.Table] = []
        self._attributes = vocabulary.ATTRIBUTES.empty_table()
        self._files = contextlib.ExitStack()

    def __enter__(self) -> "_Spill":
        self._writers = [
            self._files.enter_context(_arrow_stream(path, sequences.SCHEMA)) for path in self.paths
        ]
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._flush()
            path = self._plan.work / f"attributes-{self._number:05d}.arrow"
            with _arrow_stream(path, vocabulary.ATTRIBUTES) as writer:
                writer.write_table(self._attributes)
        self._files.__exit__(*error)

    def add(self, valid: pa.Table, rows: np.ndarray, file_index: int) -> None:
        events = sequences.make_events(valid, rows, file_index=file_index)
        self._waiting.append(events)
        seen = vocabulary.make_attributes(valid, events["order"].to_numpy())
        self._attributes = vocabulary.latest(pa.concat_tables([self._attributes, seen]))
        if sum(table.num_rows for table in self._waiting) >= self._plan.chunk_rows:
            self._flush()

    def _flush(self) -> None:
        events = sequences.concatenate(self._waiting)
        self._waiting = []
        if sequences.heavy_users(events, self._plan.max_events_per_user):
            compacted = sequences.compact(events, max_events=self._plan.max_events_per_user)
            events, self.capped = compacted.events, self.capped + compacted.capped
        parts = sequences.partition(events, self._plan.shards)
        for writer, part in zip(self._writers, parts, strict=True):
            writer.write_table(part)


# ------------------------------------------------------------------------------- merge, count


def merge_partition(element: tuple[int, Iterable[str]], plan: Plan) -> tuple[int, int]:
    """All spilled events of a partition -> one file of compacted sequences.

    Returns:
      the partition and its last timestamp, 0 without events.
    """
    partition, paths = element
    waiting: list[pa.Table] = []
    rows, limit, capped = 0, COMPACT_ROWS, 0
    for path in sorted(paths):
        for table in _read_arrow_stream(path):
            waiting.append(table)
            rows += table.num_rows
            if rows > limit:  # a heavy user in many sources is cut down on the way
                part = sequences.compact(
                    sequences.concatenate(waiting), max_events=plan.max_events_per_user
                )
                waiting, capped = [part.events], capped + part.capped
                rows = part.events.num_rows
                limit = max(limit, 2 * rows)
    merged = sequences.compact(sequences.concatenate(waiting), max_events=plan.max_events_per_user)
    with _arrow_stream(plan.sequences(partition), sequences.SCHEMA) as writer:
        writer.write_table(merged.events)
    copies = int(pc.sum(merged.events["copies"]).as_py() or 0)
    write_json(
        plan.work / f"merge-{partition:05d}.json",
        {
            "capped": capped + merged.capped,
            "duplicates": copies - merged.events.num_rows,
            "first": int(pc.min(merged.events["timestamp"]).as_py() or 0),
            "events": merged.events.num_rows,
            "users": len(sequences.users_of(merged.events).ids),
        },
    )
    progress.report(plan.progress("merge"), f"{partition:05d}", merged.events.num_rows)
    return partition, int(pc.max(merged.events["timestamp"]).as_py() or 0)


def latest(timestamps: Iterable[int]) -> int:
    """A combiner: the last of the partitions' timestamps."""
    return max(timestamps, default=0)


def count_partition(
    element: tuple[int, int], last_timestamp: int, plan: Plan, as_of: int | None, holdout_days: int
) -> int:
    """Counts the items of a partition before the cut-off, which the whole log decides."""
    partition, _ = element
    if as_of is None:
        as_of = as_of_after(last_timestamp, holdout_days)
    events = read_arrow(plan.sequences(partition))
    with _arrow_stream(plan.work / f"counts-{partition:05d}.arrow", vocabulary.COUNTS) as writer:
        writer.write_table(vocabulary.count_items(events, as_of=as_of))
    actions = vocabulary.actions_before(events, as_of=as_of)
    write_json(plan.work / f"actions-{partition:05d}.json", {"actions": actions})
    return partition


# ------------------------------------------------------------------------------- encode


def encode_partition(partition: int, plan: Plan, actions: tuple[str, ...]) -> int:
    """Writes the records of a partition: one shard of each split."""
    item_ids, catalogue = vocabulary.load_catalogue(plan.folder)
    ending = ".tfrecord.gz" if plan.compression else ".tfrecord"
    name = f"part-{partition:05d}-of-{plan.shards:05d}{ending}"
    events = read_arrow(plan.sequences(partition))
    with contextlib.ExitStack() as files:
        writers = {
            split: files.enter_context(
                RecordWriter(plan.folder / split / name, compression=plan.compression)
            )
            for split in (schema.TRAIN, schema.VALIDATION)
        }
        written = 0
        for users in user_batches(events, item_ids, actions):
            held = sequences.in_validation(users.user_ids, share=plan.validation_share)
            for record, is_held in zip(encode_examples(users, catalogue), held, strict=True):
                writers[schema.VALIDATION if is_held else schema.TRAIN].write(record)
            written += len(users.item)
            progress.report(plan.progress("write"), f"{partition:05d}", written)
    shards = [
        {
            "file": f"{split}/{name}",
            "records": writer.records,
            "bytes": (plan.folder / split / name).stat().st_size,
        }
        for split, writer in writers.items()
    ]
    write_json(plan.work / f"encode-{partition:05d}.json", {"shards": shards, "written": written})
    return partition


def user_batches(
    events: pa.Table, item_ids: pa.Array, actions: tuple[str, ...], *, rows: int = ENCODE_ROWS
) -> Iterator[UserEvents]:
    """Compacted events as whole users of about `rows` events together."""
    users = sequences.users_of(events)
    item, values = sequences.codes(events["item_id"])
    catalogue_row = pc.index_in(values, value_set=item_ids).to_numpy(zero_copy_only=False)
    item = catalogue_row[item].astype(np.int64)
    action, values = sequences.codes(events["action"])
    known = pc.index_in(values, value_set=pa.array(actions, pa.string()))
    action_row = pc.fill_null(pc.add(known.cast(pa.int64()), schema.FIRST_ROW), schema.UNKNOWN_ROW)
    action = action_row.to_numpy()[action]
    time = events["timestamp"].to_numpy()
    begin = 0
    while begin < len(users.ids):
        wanted = users.starts[begin] + rows
        end = max(begin + 1, int(np.searchsorted(users.starts, wanted, side="right")) - 1)
        start, stop = users.starts[begin], users.starts[end]
        yield UserEvents(
            user_ids=users.ids[begin:end],
            starts=users.starts[begin : end + 1] - start,
            timestamp=time[start:stop],
            item=item[start:stop],
            action_index=action[start:stop],
        )
        begin = end


# ------------------------------------------------------------------------------- files


def dead_letter_file(folder: pathlib.Path, name: str) -> pathlib.Path:
    return folder / schema.DEAD_LETTERS / f"{name}.jsonl"


class DeadLetters:
    """A file of dead letters, one JSON object a row: file, row, reason and what it held."""

    def __init__(self, path: pathlib.Path, source: str) -> None:
        self._path, self._source = path, source
        self._file: Any = None

    def __enter__(self) -> "DeadLetters":
        return self

    def write(self, dead: Iterable[DeadRow]) -> None:
        for letter in dead:
            if self._file is None:  # no file without a letter
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("w", encoding="utf-8")
            line = {"file": self._source, **dataclasses.asdict(letter)}
            self._file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def write_json(path: pathlib.Path, value: Any) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(value), encoding="utf-8")
    os.replace(part, path)


@contextlib.contextmanager
def _arrow_stream(path: pathlib.Path, kind: pa.Schema) -> Iterator[pa.RecordBatchStreamWriter]:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with pa.OSFile(str(part), "wb") as file, pa.ipc.new_stream(file, kind) as writer:
        yield writer
    os.replace(part, path)


def _read_arrow_stream(path: str) -> Iterator[pa.Table]:
    with pa.memory_map(path) as file, pa.ipc.open_stream(file) as reader:
        for batch in reader:
            yield pa.Table.from_batches([batch])


def read_arrow(path: pathlib.Path) -> pa.Table:
    """A whole Arrow stream, memory-mapped."""
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as reader:
        return reader.read_all()
