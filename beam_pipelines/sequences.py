"""Events -> user sequences: hashing users, dropping duplicates, capping, time order.

Tables of this module have the columns of `SCHEMA`. A compacted table may be concatenated with
others and compacted again: the result is the same as compacting everything at once, so a heavy
user is cut down before the shuffle and the order of batches doesn't matter.
"""

import dataclasses
import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

IDS = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("user_id", IDS),
        ("item_id", IDS),
        ("action", IDS),
        ("timestamp", pa.int64()),  # seconds
        ("order", pa.int64()),  # place in the input: keeps equal times stable
        ("copies", pa.int64()),  # exact duplicates that this row stands for, itself included
    ]
)
_FILE_ROWS = 1 << 40  # room for the rows of a file in `order`


@dataclasses.dataclass(frozen=True)
class Compacted:
    """Distinct recent events by user (id order) and time, and how many rows the cap dropped."""

    events: pa.Table
    capped: int


@dataclasses.dataclass(frozen=True)
class Users:
    """The users of a compacted table: user i has the rows `starts[i]` to `starts[i + 1]`."""

    ids: list[str]
    starts: np.ndarray  # int64, [users + 1]


def make_events(validated: pa.Table, rows: np.ndarray, *, file_index: int) -> pa.Table:
    """`SCHEMA` from validated events and their row numbers in file number `file_index`."""
    columns = [
        *(_encode(validated.column(name)) for name in ("user_id", "item_id", "action")),
        validated.column("timestamp").combine_chunks(),
        pa.array(file_index * _FILE_ROWS + rows, pa.int64()),
        pa.array(np.ones(len(rows), np.int64)),
    ]
    return pa.table(columns, schema=SCHEMA)


def _encode(column: pa.ChunkedArray) -> pa.DictionaryArray:
    array = column.combine_chunks()
    return array.dictionary_encode() if len(array) else pa.array([], pa.string()).cast(IDS)


def concatenate(tables: list[pa.Table]) -> pa.Table:
    """One table with one dictionary a column."""
    return pa.concat_tables([SCHEMA.empty_table(), *tables]).unify_dictionaries().combine_chunks()


def codes(column: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """A dictionary column as ranks `[n]` in its sorted distinct values, and those values."""
    if not len(column):
        return np.zeros(0, np.int64), pa.array([], pa.string())
    array = column.combine_chunks() if column.num_chunks > 1 else column.chunk(0)
    indices = array.indices.to_numpy()
    used = np.zeros(len(array.dictionary), bool)
    used[indices] = True
    values = array.dictionary.filter(pa.array(used))
    order = pc.sort_indices(values).to_numpy()
    rank = np.empty(len(values), np.int64)
    rank[order] = np.arange(len(values))
    lookup = np.full(len(used), -1, np.int64)
    lookup[used] = rank
    return lookup[indices], values.take(pa.array(order))


# ------------------------------------------------------------------------------- hashing


def stable_hashes(ids: list[str], *, purpose: bytes) -> np.ndarray:
    """uint64 `[n]`: the same in every process and release; independent between purposes."""
    digests = b"".join(
        hashlib.blake2b(each.encode("utf-8"), digest_size=8, person=purpose).digest()
        for each in ids
    )
    return np.frombuffer(digests, np.dtype("<u8"))


def in_validation(user_ids: list[str], *, share: float) -> np.ndarray:
    """Which users are in the validation split, bool `[n]`: a fixed property of the id."""
    return stable_hashes(user_ids, purpose=b"split") < np.float64(share) * 2.0**64


def partition(events: pa.Table, partitions: int) -> list[pa.Table]:
    """Splits events by user, all of a user's in one part; parts carry only the ids they use."""
    if partitions == 1:
        return [events]
    users, values = codes(events.column("user_id"))
    part_of_user = stable_hashes(values.to_pylist(), purpose=b"partition") % np.uint64(partitions)
    parts = part_of_user[users]
    return [_shrink(events.filter(pa.array(parts == part))) for part in range(partitions)]


def _shrink(events: pa.Table) -> pa.Table:
    """The same rows with dictionaries of the values in use."""
    for i, name in enumerate(("user_id", "item_id", "action")):
        ranks, values = codes(events.column(name))
        array = pa.DictionaryArray.from_arrays(pa.array(ranks, pa.int32()), values)
        events = events.set_column(i, SCHEMA.field(name), array)
    return events


# ------------------------------------------------------------------------------- compaction


def heavy_users(events: pa.Table, max_events: int) -> bool:
    """Whether any user has more than `max_events` rows, duplicates included."""
    users, _ = codes(events.column("user_id"))
    return bool(len(users)) and int(np.bincount(users).max()) > max_events


def compact(events: pa.Table, *, max_events: int) -> Compacted:
    """Drops exact duplicates, then all but each user's `max_events` most recent events.

    An exact duplicate has the same user, item, timestamp and action; the first one in the input
    stays. Events come out by user id, time and place in the input. Where the cap cuts through
    events of the same second, the greater item ids stay: that rule, unlike one by place, doesn't
    depend on how the input was cut into batches.
    """
    user, _ = codes(events.column("user_id"))
    if not len(user):
        return Compacted(events, 0)
    item, _ = codes(events.column("item_id"))
    action, _ = codes(events.column("action"))
    time, place, copies = (
        events.column(name).to_numpy() for name in ("timestamp", "order", "copies")
    )
    rows = _sort_rows([user, time, item, action, place])
    key = [values[rows] for values in (user, time, item, action)]
    first = np.ones(len(rows), bool)
    first[1:] = np.logical_or.reduce([values[1:] != values[:-1] for values in key])
    copies = np.add.reduceat(copies[rows], np.flatnonzero(first))
    rows = rows[first]

    owner = user[rows]
    ends = np.cumsum(np.bincount(owner))
    recent = ends[owner] - np.arange(len(rows)) <= max_events
    capped = int(copies[~recent].sum())
    rows, copies = rows[recent], copies[recent]

    order = _sort_rows([user[rows], time[rows], place[rows]])
    table = events.take(pa.array(rows[order]))
    return Compacted(table.set_column(5, "copies", pa.array(copies[order])), capped)


def _sort_rows(keys: list[np.ndarray]) -> np.ndarray:
    """Row order by the keys, the first one counting most; keys are packed where they fit."""
    packed: list[np.ndarray] = []
    bits = 64
    for key in keys:
        low = int(key.min())
        width = (int(key.max()) - low).bit_length()
        if bits + width > 63:
            packed.append(key - low)
            bits = width
        else:
            packed[-1] = (packed[-1] << width) | (key - low)
            bits += width
    if len(packed) == 1:
        return np.argsort(packed[0], kind="stable")
    return np.lexsort(packed[::-1])


def users_of(events: pa.Table) -> Users:
    """The users of a compacted table."""
    user, values = codes(events.column("user_id"))
    starts = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(values)))])
    return Users(ids=values.to_pylist(), starts=starts.astype(np.int64))
