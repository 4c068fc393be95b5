"""What one worker does: plain functions from files to files.

Beam moves only names of files between them, so that what crosses the network is (sources x
partitions) short elements and memory is bounded by a chunk of rows or by one partition. Each
function may be repeated: it writes to a name of its own and renames. Folders must be visible to
all workers.
"""

import collections
import contextlib
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_pipelines import progress, sequences, vocabulary
from beam_pipelines.events import Window, mapped_columns, validate_events
from beam_pipelines.examples import RecordWriter, UserEvents, encode_examples
from beam_pipelines.files import (
    DeadLetters,
    arrow_stream,
    dead_letter_file,
    read_arrow,
    read_arrow_batches,
    write_json,
)
from beam_pipelines.output import WORK
from beam_pipelines.readers import Source, read_batches
from guim_tf import schema
from guim_tf.mapping import EventsMapping

CHUNK_ROWS = 250_000  # rows between two writes of a scan
PARTITION_ROWS = 1_000_000  # rows of the log to a partition, about
MAX_PARTITIONS = 512  # a scan holds a file of each open
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
    as_of: int | None = None
    holdout_days: int = 30
    partitions_per_shard: int = 1
    window: Window | None = None
    first_file: int = 0  # files that older runs have read, each as often as it was read
    rows_before: Mapping[str, int] = dataclasses.field(default_factory=dict)  # of them, by path
    letters: str = "events"  # begins the names of the files of dead letters
    chunk_rows: int = CHUNK_ROWS

    @property
    def partitions(self) -> int:
        """A multiple of the shards; partition p belongs to shard `p % shards`."""
        return self.shards * self.partitions_per_shard

    @property
    def work(self) -> pathlib.Path:
        return self.folder / WORK

    def progress(self, stage: str) -> pathlib.Path:
        return self.work / "progress" / stage

    def cut_off(self, last_timestamp: int) -> int:
        """The end of what may be learned from, given the log's last event."""
        return as_of_after(last_timestamp, self.holdout_days) if self.as_of is None else self.as_of

    def sequences(self, partition: int) -> pathlib.Path:
        return self.work / f"sequences-{partition:05d}.arrow"


def partitions_per_shard(rows: int, *, shards: int) -> int:
    """So many that a partition, which one worker holds in memory, has bounded rows."""
    wanted = -(-rows // (shards * PARTITION_ROWS))
    return max(1, min(wanted, MAX_PARTITIONS // shards))


def as_of_after(last_timestamp: int, holdout_days: int) -> int:
    """Midnight UTC after the last event, minus the holdout."""
    return (last_timestamp // schema.DAY + 1 - holdout_days) * schema.DAY


# ------------------------------------------------------------------------------- scan


@dataclasses.dataclass(frozen=True)
class PastSequences:
    """A file of compacted sequences that an older run has left."""

    path: str


Spilled = tuple[str, int]  # a file of events of one partition, and the input's last timestamp


def scan(element: tuple[int, Source | PastSequences], plan: Plan) -> list[tuple[int, Spilled]]:
    """Spills the events of one numbered input by partition.

    Every input has something for each partition, so that each learns the log's last timestamp.
    """
    number, source = element
    if isinstance(source, Source):
        return scan_source((number, source), plan)
    spill = _Spill(plan, number)
    with spill:
        for table in read_arrow_batches(source.path):
            for start in range(0, table.num_rows, plan.chunk_rows):
                spill.add(table.slice(start, plan.chunk_rows))
    return spill.files()


def scan_source(element: tuple[int, Source], plan: Plan) -> list[tuple[int, Spilled]]:
    """Reads and validates one (number, source); spills its events by partition.

    Returns:
      as `scan`. Beside it, `scan-<number>.json` says what the rows became,
      `attributes-<number>.arrow` what the source says about items, and a file in
      `dead_letters/` holds the rows and the file that can't be used.
    """
    number, source = element
    counters: dict[str, Any] = {
        "path": source.path,
        "broken": "",
        "last_row": 0,
        "read": 0,
        "kept": 0,
    }
    filtered: collections.Counter[str] = collections.Counter()
    dead: collections.Counter[str] = collections.Counter()
    day: dict[str, Any] = {"read": 0, "dead": collections.Counter()}
    spill = _Spill(plan, number)
    columns, ids = mapped_columns(plan.events)
    attributes = vocabulary.ATTRIBUTES.empty_table()
    letters = dead_letter_file(plan.folder, f"{plan.letters}-{number:05d}")
    with spill, DeadLetters(letters, source.path) as dead_letters:
        for raw in read_batches(source, columns, ids=ids):
            if raw.broken is not None:
                dead_letters.write([raw.broken])
                counters["broken"] = raw.broken.reason
            valid = validate_events(
                raw,
                plan.events,
                window=plan.window,
                rows_before=plan.rows_before.get(source.path, 0),
            )
            dead_letters.write(valid.dead)
            dead.update(letter.reason for letter in valid.dead)
            of_day = set(valid.of_window.tolist())
            day["read"] += len(of_day)
            day["dead"].update(letter.reason for letter in valid.dead if letter.row in of_day)
            counters["read"] += raw.table.num_rows + len(raw.dead)
            dead_rows = (row.row for row in raw.dead)
            counters["last_row"] = max([counters["last_row"], *raw.rows[-1:].tolist(), *dead_rows])
            progress.report(plan.progress("read"), f"{number:05d}", counters["read"])
            filtered.update(valid.filtered)
            if not valid.table.num_rows:
                continue
            counters["kept"] += valid.table.num_rows
            file_index = plan.first_file + source.index
            events = sequences.make_events(valid.table, valid.rows, file_index=file_index)
            spill.add(events)
            seen = vocabulary.make_attributes(valid.table, events["order"].to_numpy())
            attributes = vocabulary.latest(pa.concat_tables([attributes, seen]))
    with arrow_stream(
        plan.work / f"attributes-{number:05d}.arrow", vocabulary.ATTRIBUTES
    ) as writer:
        writer.write_table(attributes)
    counters |= {"filtered": dict(filtered), "dead": dict(dead), "capped": spill.capped, "day": day}
    write_json(plan.work / f"scan-{number:05d}.json", counters)
    return spill.files()


class _Spill:
    """Collects events and writes them, in chunks, to one Arrow stream a partition."""

    def __init__(self, plan: Plan, number: int) -> None:
        self._plan = plan
        self._paths = [
            plan.work / f"spill-{number:05d}-{part:05d}.arrow" for part in range(plan.partitions)
        ]
        self.capped = self._last = 0
        self._waiting: list[pa.Table] = []
        self._files = contextlib.ExitStack()

    def __enter__(self) -> "_Spill":
        self._writers = [
            self._files.enter_context(arrow_stream(path, sequences.SCHEMA)) for path in self._paths
        ]
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._flush()
        self._files.__exit__(*error)

    def files(self) -> list[tuple[int, Spilled]]:
        """What there is for each partition, when all is written."""
        return [(partition, (str(path), self._last)) for partition, path in enumerate(self._paths)]

    def add(self, events: pa.Table) -> None:
        self._last = max(self._last, pc.max(events["timestamp"]).as_py() or 0)
        self._waiting.append(events)
        if sum(table.num_rows for table in self._waiting) >= self._plan.chunk_rows:
            self._flush()

    def _flush(self) -> None:
        events = sequences.concatenate(self._waiting)
        self._waiting = []
        if sequences.heavy_users(events, self._plan.max_events_per_user):
            compacted = sequences.compact(events, max_events=self._plan.max_events_per_user)
            events, self.capped = compacted.events, self.capped + compacted.capped
        parts = sequences.partition(events, self._plan.partitions)
        for writer, part in zip(self._writers, parts, strict=True):
            writer.write_table(part)


# ------------------------------------------------------------------------------- merge


def merge_partition(element: tuple[int, Iterable[Spilled]], plan: Plan) -> int:
    """All spilled events of a partition -> compacted sequences, and counts of their items."""
    partition, spilled = element
    paths, lasts = zip(*spilled, strict=True)
    waiting: list[pa.Table] = []
    rows, limit, capped = 0, COMPACT_ROWS, 0
    for path in sorted(paths):
        for table in read_arrow_batches(path):
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
    with arrow_stream(plan.sequences(partition), sequences.SCHEMA) as writer:
        writer.write_table(merged.events)
    copies = int(pc.sum(merged.events["copies"]).as_py() or 0)
    write_json(
        plan.work / f"merge-{partition:05d}.json",
        {
            "capped": capped + merged.capped,
            "duplicates": copies - merged.events.num_rows,
            "first": int(pc.min(merged.events["timestamp"]).as_py() or 0),
            "last": int(pc.max(merged.events["timestamp"]).as_py() or 0),
            "events": merged.events.num_rows,
            "users": len(sequences.users_of(merged.events).ids),
        },
    )
    as_of = plan.cut_off(max(lasts))
    with arrow_stream(plan.work / f"counts-{partition:05d}.arrow", vocabulary.COUNTS) as writer:
        writer.write_table(vocabulary.count_items(merged.events, as_of=as_of))
    actions = vocabulary.actions_before(merged.events, as_of=as_of)
    write_json(plan.work / f"actions-{partition:05d}.json", {"actions": actions})
    progress.report(plan.progress("merge"), f"{partition:05d}", merged.events.num_rows)
    return partition


# ------------------------------------------------------------------------------- encode


def encode_shard(shard: int, plan: Plan, actions: tuple[str, ...]) -> int:
    """Writes the records of a shard's partitions, one after another: one file of each split."""
    item_ids, catalogue = vocabulary.load_catalogue(plan.folder)
    ending = ".tfrecord.gz" if plan.compression else ".tfrecord"
    name = f"part-{shard:05d}-of-{plan.shards:05d}{ending}"
    with contextlib.ExitStack() as files:
        writers = {
            split: files.enter_context(
                RecordWriter(plan.folder / split / name, compression=plan.compression)
            )
            for split in (schema.TRAIN, schema.VALIDATION)
        }
        written = 0
        for partition in range(shard, plan.partitions, plan.shards):
            events = read_arrow(plan.sequences(partition))
            for users in user_batches(events, item_ids, actions):
                held = sequences.in_validation(users.user_ids, share=plan.validation_share)
                for record, is_held in zip(encode_examples(users, catalogue), held, strict=True):
                    writers[schema.VALIDATION if is_held else schema.TRAIN].write(record)
                written += len(users.item)
                progress.report(plan.progress("write"), f"{shard:05d}", written)
    shards = [
        {
            "file": f"{split}/{name}",
            "records": writer.records,
            "bytes": (plan.folder / split / name).stat().st_size,
        }
        for split, writer in writers.items()
    ]
    write_json(plan.work / f"encode-{shard:05d}.json", {"shards": shards, "written": written})
    return shard


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
