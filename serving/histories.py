"""Users of a data set folder as a shop would send them: ids, categories and titles in time order.

The server takes what a shop knows, not vocabulary rows; records hold fingerprints of item ids, and
`items.parquet` turns them back.
"""

import dataclasses
import datetime
import functools
import hashlib
import heapq
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow as tf

from guim_tf import schema

UNFINISHED = "is not a finished data set. Make one with `guim build-dataset`."


class HistoryError(ValueError):
    """A data set folder or a user in it can't be read; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class Item:
    """An item as a shop knows it."""

    item_id: str
    category_id: str = ""
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Event:
    """One purchase (or click ...); `timestamp` in seconds since the epoch.

    `action` is its type by the data set's vocabulary, "" where there is none.
    """

    item: Item
    timestamp: int
    action: str = ""


@dataclasses.dataclass(frozen=True)
class History:
    """What a user did before `as_of`, in time order; may be empty."""

    user_id: str
    as_of: int
    events: tuple[Event, ...]


@dataclasses.dataclass(frozen=True)
class _Record:
    user_id: str
    timestamps: tuple[int, ...]
    item_keys: tuple[int, ...]
    action_rows: tuple[int, ...]

    def before(self, as_of: int, max_length: int) -> list[tuple[int, int, int]]:
        """(timestamp, item key, action row) of the last `max_length` events before `as_of`."""
        events = zip(self.timestamps, self.item_keys, self.action_rows, strict=True)
        return [event for event in events if event[0] < as_of][-max_length:]


class Catalogue:
    """`items.parquet`: items by fingerprint, by id and by what is written of them."""

    def __init__(self, dataset: str | pathlib.Path) -> None:
        path = pathlib.Path(dataset, schema.ITEMS_FILE)
        if not path.is_file():
            raise HistoryError(f"{path} does not exist: {dataset} {UNFINISHED}")
        columns = ["item_id", "item_key", "category_id", "title"]
        try:
            self._table = pq.read_table(path, columns=columns)
        except (pa.ArrowInvalid, OSError) as e:
            raise HistoryError(f"{path} can't be read: {e}. Rebuild the data set.") from e

    def by_key(self, keys: Iterable[int]) -> dict[int, Item]:
        """Items by `item_key`; unknown ones are left out."""
        rows = self._rows("item_key", pa.array(set(keys), pa.int64()))
        return {row["item_key"]: _item(row) for row in rows}

    def by_id(self, item_ids: Iterable[str]) -> dict[str, Item]:
        """Items by id; unknown ones are left out."""
        rows = self._rows("item_id", pa.array(set(item_ids), self._table["item_id"].type))
        return {row["item_id"]: _item(row) for row in rows}

    def __len__(self) -> int:
        return self._table.num_rows

    def first(self, count: int) -> list[Item]:
        """The most bought items."""
        return [_item(row) for row in self._table.slice(0, count).to_pylist()]

    def search(self, text: str, count: int) -> list[Item]:
        """Items whose title holds every word, or whose id begins with the text, most bought first.

        The item with exactly that id comes before all others; upper and lower case are one.
        """
        words = text.split()
        if not words:
            return []
        ids, titles = self._table["item_id"], self._table["title"]
        holds = [pc.match_substring(titles, word, ignore_case=True) for word in words]
        titled = functools.reduce(pc.and_, (pc.fill_null(hit, False) for hit in holds))
        named = pc.starts_with(ids, text.strip(), ignore_case=True)
        found = self._table.filter(pc.or_(titled, named)).slice(0, count).to_pylist()
        exact = self.by_id([text.strip()])
        others = [item for row in found if (item := _item(row)).item_id not in exact]
        return [*exact.values(), *others][:count]

    def _rows(self, column: str, wanted: pa.Array) -> list[dict]:
        return self._table.filter(pc.is_in(self._table[column], value_set=wanted)).to_pylist()


def _item(row: dict) -> Item:
    return Item(row["item_id"], row["category_id"] or "", row["title"] or "")


def load_histories(
    *,
    dataset: str | pathlib.Path,
    user_ids: Sequence[str] = (),
    random: int = 0,
    seed: int = 0,
    as_of: int | None = None,
    max_length: int = 512,
    catalogue: Catalogue | None = None,
) -> tuple[History, ...]:
    """Histories of the users asked for, then of some that chance picks.

    Args:
      dataset: folder of `guim build-dataset`; both splits are searched.
      user_ids: users by id.
      random: how many more to draw among users with a history. The draw depends on `seed` and the
        ids alone, not on how the data set is divided into files.
      as_of: only events before it; the data set's own moment by default.
      max_length: only so many of the most recent events.
      catalogue: that of the data set, where it is at hand; read here otherwise.

    Raises:
      HistoryError: unfinished or damaged data set, unknown user.
      guim_tf.schema.SchemaError: no schema, or one of another version.
    """
    found = schema.Schema.load(dataset)
    moment = found.as_of if as_of is None else as_of
    files = _record_files(dataset)
    named = _named_records(files, found.compression, user_ids)
    drawn = _draw(files, found.compression, random, seed, moment) if random else []
    if len(drawn) < random:
        raise HistoryError(
            f"{random} random users asked for, but {len(drawn)} have events before "
            f"{format_time(moment)}."
        )
    records = [named[user_id] for user_id in user_ids] + drawn
    kept = {r.user_id: r.before(moment, max_length) for r in records}
    known = Catalogue(dataset) if catalogue is None else catalogue
    items = known.by_key(key for events in kept.values() for _, key, _ in events)
    actions = dict(enumerate(found.actions, schema.FIRST_ROW))
    histories = []
    for record in records:
        unknown = [key for _, key, _ in kept[record.user_id] if key not in items]
        if unknown:
            raise HistoryError(
                f"User {record.user_id!r} has an item with item_key {unknown[0]} that "
                f"{schema.ITEMS_FILE} of {dataset} lacks. Rebuild the data set."
            )
        events = tuple(
            Event(items[key], timestamp, actions.get(row, ""))
            for timestamp, key, row in kept[record.user_id]
        )
        histories.append(History(record.user_id, moment, events))
    return tuple(histories)


def draw_users(dataset: str | pathlib.Path, *, number: int, seed: int = 0) -> tuple[str, ...]:
    """At most so many users by chance, among those with a history at the data set's own moment.

    Raises:
      HistoryError: unfinished or damaged data set.
      guim_tf.schema.SchemaError: no schema, or one of another version.
    """
    found = schema.Schema.load(dataset)
    drawn = _draw(_record_files(dataset), found.compression, number, seed, found.as_of)
    return tuple(record.user_id for record in drawn)


def _record_files(dataset: str | pathlib.Path) -> list[str]:
    files = [
        str(file)
        for split in (schema.TRAIN, schema.VALIDATION)
        for file in sorted(pathlib.Path(dataset, split).glob("part-*.tfrecord*"))
    ]
    if not files:
        raise HistoryError(f"{dataset} has no record files: it {UNFINISHED}")
    return files


def _records(files: list[str], compression: str, batch_size: int = 256) -> Iterator[_Record]:
    """Users of record files in order, with the features that a history needs."""
    features = {
        schema.USER_ID: tf.io.FixedLenFeature([], tf.string),
        schema.TIMESTAMP: tf.io.RaggedFeature(tf.int64),
        schema.ITEM_KEY: tf.io.RaggedFeature(tf.int64),
        schema.ACTION_INDEX: tf.io.RaggedFeature(tf.int64),
    }
    for file in files:
        batches = tf.data.TFRecordDataset(file, compression_type=compression).batch(batch_size)
        try:
            for batch in batches:
                parsed = tf.io.parse_example(batch, features)
                for user_id, *events in zip(
                    parsed[schema.USER_ID].numpy(),
                    parsed[schema.TIMESTAMP].to_list(),
                    parsed[schema.ITEM_KEY].to_list(),
                    parsed[schema.ACTION_INDEX].to_list(),
                    strict=True,
                ):
                    yield _Record(user_id.decode("utf-8"), *map(tuple, events))
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as e:
            raise HistoryError(f"{file} is damaged: {e.message}. Rebuild the data set.") from e


def _named_records(
    files: list[str], compression: str, user_ids: Sequence[str]
) -> dict[str, _Record]:
    wanted = set(user_ids)
    named: dict[str, _Record] = {}
    some: list[str] = []  # for the message
    for record in _records(files, compression) if wanted else ():
        if len(some) < 5:
            some.append(record.user_id)
        if record.user_id in wanted:
            named[record.user_id] = record
            if len(named) == len(wanted):
                break
    unknown = [user_id for user_id in user_ids if user_id not in named]
    if unknown:
        raise HistoryError(
            f"No user {', '.join(map(repr, unknown))} in the data set; "
            f"some that it has: {', '.join(map(repr, some)) or 'none'}."
        )
    return named


def _draw(files: list[str], compression: str, number: int, seed: int, as_of: int) -> list[_Record]:
    """The users whose seeded hash is smallest: a uniform draw in one pass, order-independent.

    Fewer where the data set has not so many.
    """

    def rank(record: _Record) -> bytes:
        return hashlib.blake2b(f"{seed}:{record.user_id}".encode(), digest_size=8).digest()

    candidates = (r for r in _records(files, compression) if any(t < as_of for t in r.timestamps))
    return heapq.nsmallest(number, candidates, key=rank)


def parse_time(text: str) -> int:
    """Seconds since the epoch from seconds or ISO text; without a zone it is UTC.

    Raises:
      ValueError: neither.
    """
    try:
        return int(text)
    except ValueError:
        moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp())


def format_time(timestamp: int) -> str:
    """A moment as `2011-11-10 08:26` (UTC)."""
    moment = datetime.datetime.fromtimestamp(timestamp, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M")
