"""Counts and attributes of items -> vocabularies and the catalogue `items.parquet`.

Only events before `as_of` count. Words and categories come from the items that have such an
event, so that nothing sold for the first time later leaves a trace in a vocabulary; the title and
the category of an item are the latest of the whole log.

A vocabulary that goes on from an older one keeps every row of it: tokens that are new stand
behind, in their own order; tokens that are no longer frequent enough stay known, and their rows
are listed in `schema.RETIRED_FILE`, for whoever wants to drop them from a table.
"""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from beam_pipelines.examples import Catalogue
from beam_pipelines.heavy_hitters import HeavyHitters
from beam_pipelines.sequences import codes
from guim_tf import schema

# Of an item: events before the cut-off, and users with such an event in the last days before it.
COUNTS = pa.schema([("item_id", pa.string()), ("count", pa.int64()), ("recent_buyers", pa.int64())])
ATTRIBUTES = pa.schema(
    [
        ("item_id", pa.string()),
        ("field", pa.string()),  # "category_id" or "title"
        ("value", pa.string()),
        ("timestamp", pa.int64()),
        ("order", pa.int64()),
    ]
)
FIELDS = ("category_id", "title")
ROW_GROUP = 65_536  # rows of `items.parquet` that are read together
_TITLES = 65_536  # tokenised at a time: what bounds memory
_SPARE_WORDS = 4  # distinct words counted exactly, in multiples of the vocabulary's limit
_SPARE_ROW = "\x1ahashed"  # begins the name of a row that words were hashed into; no word has it


@dataclasses.dataclass(frozen=True)
class Limits:
    """Sizes of the vocabularies and of a title."""

    max_items: int
    max_categories: int
    max_words: int
    word_hash_rows: int
    max_title_tokens: int


@dataclasses.dataclass(frozen=True)
class Vocabularies:
    """Entries of the schema."""

    items: schema.Vocabulary
    categories: schema.Vocabulary
    words: schema.Vocabulary
    tokenizer: str
    word_count_error: int = 0  # see `HeavyHitters`; 0 where all counts are exact


@dataclasses.dataclass(frozen=True)
class PastTokens:
    """Tokens of the vocabularies that new ones go on from, in row order.

    `words` is None where there is no data set before: one without a word has hashed rows.
    """

    items: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    words: tuple[str, ...] | None = None

    @classmethod
    def load(cls, folder: pathlib.Path) -> "PastTokens":
        """The vocabularies of a data set."""
        return cls(
            **{
                name: tuple(schema.read_vocabulary(folder / file)[0])
                for name, file in schema.VOCABULARY_FILES.items()
            }
        )


# ------------------------------------------------------------------------------- from events


def count_items(events: pa.Table, *, as_of: int) -> pa.Table:
    """`COUNTS` of the items of compacted events; both may be 0.

    Recent buyers of parts of the events add up if each user's events are in one part.
    """
    item, values = codes(events.column("item_id"))
    user, _ = codes(events.column("user_id"))
    time = events.column("timestamp").to_numpy()
    before = time < as_of
    recent = before & (time >= as_of - schema.RECENT_DAYS * schema.DAY)
    pairs = np.unique(user[recent].astype(np.int64) * len(values) + item[recent])
    counts = {
        "count": np.bincount(item[before], minlength=len(values)),
        "recent_buyers": np.bincount(pairs % max(len(values), 1), minlength=len(values)),
    }
    return pa.table({"item_id": values} | counts).cast(COUNTS)


def add_counts(tables: list[pa.Table]) -> pa.Table:
    """Adds up tables of `COUNTS`."""
    numbers = COUNTS.names[1:]
    added = pa.concat_tables(tables).group_by("item_id").aggregate([(x, "sum") for x in numbers])
    return added.select(["item_id", *(f"{x}_sum" for x in numbers)]).rename_columns(COUNTS.names)


def actions_before(events: pa.Table, *, as_of: int) -> list[str]:
    """Sorted distinct action types before `as_of`; the empty one is no type."""
    action, values = codes(events.column("action"))
    used = np.unique(action[events.column("timestamp").to_numpy() < as_of])
    return [value for value in values.take(pa.array(used)).to_pylist() if value]


def make_attributes(validated: pa.Table, order: np.ndarray) -> pa.Table:
    """`ATTRIBUTES`: the latest value of each field of each item in validated events."""
    tables = []
    for field in FIELDS:
        table = pa.table(
            {
                "item_id": validated.column("item_id"),
                "field": pa.repeat(field, validated.num_rows),
                "value": validated.column(field),
                "timestamp": validated.column("timestamp"),
                "order": pa.array(order, pa.int64()),
            },
            schema=ATTRIBUTES,
        )
        tables.append(latest(table.filter(pc.not_equal(table.column("value"), ""))))
    return pa.concat_tables(tables)


def latest(attributes: pa.Table) -> pa.Table:
    """The last row of each item and field, by time and then by place in the input."""
    if not attributes.num_rows:
        return attributes
    key = pc.binary_join_element_wise(attributes["item_id"], attributes["field"], "\t")
    group = key.combine_chunks().dictionary_encode()
    time, place = (attributes.column(name).to_numpy() for name in ("timestamp", "order"))
    rows = np.lexsort((place, time))
    last = np.empty(len(group.dictionary), np.int64)
    last[group.indices.to_numpy()[rows]] = rows  # of equal indices the last one stays
    return attributes.take(pa.array(np.sort(last)))


# ------------------------------------------------------------------------------- the catalogue


def join_catalogue(
    counts: pa.Table, *, attributes: pa.Table, item_table: pa.Table | None
) -> pa.Table:
    """Every known item once, most bought first and then by id.

    Args:
      counts: `COUNTS` of the items in the events.
      attributes: `ATTRIBUTES` of the events.
      item_table: `item_id`, `category_id`, `title` of the user's own table, whose fields come
        first; its last row wins where an id stands twice.

    Returns:
      `item_id`, `category_id`, `title` and the other columns of `COUNTS`; text never null.
    """
    ids = counts.column("item_id").combine_chunks()
    if item_table is not None:
        ids = pc.unique(pa.concat_arrays([ids, item_table["item_id"].combine_chunks()]))
    columns = {"item_id": ids} | {
        name: _lookup(ids, counts["item_id"], counts[name], pa.scalar(0, pa.int64()))
        for name in COUNTS.names[1:]
    }
    for field in FIELDS:
        seen = attributes.filter(pc.equal(attributes["field"], field))
        columns[field] = _lookup(ids, seen["item_id"], seen["value"], pa.scalar(""))
        if item_table is not None:
            own = _lookup(ids, item_table["item_id"], item_table[field], pa.scalar(""))
            columns[field] = pc.if_else(pc.equal(own, ""), columns[field], own)
    table = pa.table(columns)
    return table.sort_by([("count", "descending"), ("item_id", "ascending")])


def _lookup(
    ids: pa.Array, keys: pa.ChunkedArray, values: pa.ChunkedArray, default: pa.Scalar
) -> pa.Array:
    """The last of `values` whose key is each id, or the default."""
    group = keys.combine_chunks().dictionary_encode()
    last = np.empty(len(group.dictionary), np.int64)
    last[group.indices.to_numpy()] = np.arange(len(keys))
    position = pc.index_in(ids, value_set=group.dictionary)
    rows = pa.array(last).take(position)
    return pc.fill_null(values.combine_chunks().take(rows), default)


def top(counts: dict[str, int], limit: int) -> list[str]:
    """The most frequent tokens, most frequent first and then by token."""
    pairs = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]
    return [token for token, _ in pairs]


def go_on(past: tuple[str, ...], frequent: list[str]) -> tuple[list[str], list[int]]:
    """Tokens in row order, none of which moves: the past ones, then those that are new.

    Returns:
      the tokens, and the places of those that are not among the `frequent` ones.
    """
    known, wanted = set(past), set(frequent)
    tokens = [*past, *(token for token in frequent if token not in known)]
    return tokens, [place for place, token in enumerate(past) if token not in wanted]


def go_on_words(
    past: tuple[str, ...] | None, frequent: list[str], *, hash_rows: int
) -> tuple[list[str], list[int]]:
    """`go_on`, where the rows behind the past words were those that unknown words shared.

    They retire too: no word may get a row that has meant others. A past of None has no rows.
    """
    if past is None:
        return go_on((), frequent)
    if set(frequent) - set(past):
        spare = range(len(past), len(past) + hash_rows)
        past = (*past, *(f"{_SPARE_ROW} {place}" for place in spare))
    return go_on(past, frequent)


def write_catalogue(
    catalogue: pa.Table, *, folder: pathlib.Path, limits: Limits, past: PastTokens | None = None
) -> Vocabularies:
    """Writes the vocabulary files and `items.parquet`; `catalogue` is from `join_catalogue`.

    With a `past`, the new vocabularies go on from it. This is where titles are tokenised, each
    item once: importing TensorFlow takes seconds, so it happens here and in no worker.
    """
    from guim_tf import text

    sold = catalogue.filter(pc.greater(catalogue["count"], 0))
    before = past or PastTokens()
    item_ids, old_items = go_on(before.items, sold["item_id"][: limits.max_items].to_pylist())
    known = _lookup(
        pa.array(item_ids, pa.string()), catalogue["item_id"], catalogue["count"], pa.scalar(0)
    )
    items = _write(folder, "items", item_ids, known.to_pylist())

    grouped = sold.group_by("category_id").aggregate([("count", "sum")]).to_pydict()
    category_counts = dict(zip(grouped["category_id"], grouped["count_sum"], strict=True))
    category_counts.pop("", None)
    frequent = top(category_counts, limits.max_categories)
    category_ids, old_categories = go_on(before.categories, frequent)
    counts = [category_counts.get(each, 0) for each in category_ids]
    categories = _write(folder, "categories", category_ids, counts)

    held = HeavyHitters(_SPARE_WORDS * max(limits.max_words, 1))
    for titles in _batches(sold["title"]):
        lists = (set(tokens[: limits.max_title_tokens]) for tokens in text.token_lists(titles))
        held.add(itertools.chain.from_iterable(lists))
    frequent = top(held.counts, limits.max_words)
    tokens, old_words = go_on_words(before.words, frequent, hash_rows=limits.word_hash_rows)
    words = _write(folder, "words", tokens, [held.counts[each] for each in tokens])
    if past is not None:
        retired = {
            "items": [schema.FIRST_ROW + place for place in old_items],
            "categories": [schema.FIRST_ROW + place for place in old_categories],
            "words": [1 + place for place in old_words],
        }
        (folder / schema.RETIRED_FILE).write_text(json.dumps(retired) + "\n", encoding="utf-8")

    table = text.WordTable(
        str(folder / schema.VOCABULARY_FILES["words"]),
        size=words.size,
        hash_rows=limits.word_hash_rows,
        max_tokens=limits.max_title_tokens,
    )
    rows_of_titles = pa.chunked_array(
        [
            pa.array(text.row_lists(table, titles), pa.list_(pa.int64()))
            for titles in _batches(catalogue["title"])
        ],
        pa.list_(pa.int64()),
    )
    _write_items(catalogue, rows_of_titles, item_ids, category_ids, folder)
    return Vocabularies(items, categories, words, text.TOKENIZER, held.error)


def _batches(titles: pa.ChunkedArray) -> Iterator[list[str]]:
    for start in range(0, len(titles), _TITLES):
        yield titles.slice(start, _TITLES).to_pylist()


def _write(
    folder: pathlib.Path, name: str, tokens: list[str], counts: list[int]
) -> schema.Vocabulary:
    return schema.write_vocabulary(folder / schema.VOCABULARY_FILES[name], tokens, counts)


def _write_items(
    catalogue: pa.Table,
    tokens: pa.ChunkedArray,
    item_ids: list[str],
    category_ids: list[str],
    folder: pathlib.Path,
) -> None:
    keys = [schema.fingerprint64(each) for each in catalogue["item_id"].to_pylist()]
    columns = {
        "item_key": pa.array(keys, pa.int64()),
        "item_index": _rows(catalogue["item_id"], item_ids),
        "category_index": _rows(catalogue["category_id"], category_ids),
        "title_tokens": tokens,
    } | {name: catalogue[name] for name in ("category_id", "title", *COUNTS.names)}
    table = pa.table({name: columns[name] for name in schema.ITEM_COLUMNS})
    index = table["item_index"].to_numpy()
    unknown = index == schema.UNKNOWN_ROW
    if not np.all(np.diff(index[~unknown]) == 1):  # it went on: back into vocabulary order
        table = table.take(pa.array(np.lexsort((index, unknown))))
    pq.write_table(table, folder / schema.ITEMS_FILE, row_group_size=ROW_GROUP)


def _rows(tokens: pa.ChunkedArray, vocabulary: list[str]) -> pa.ChunkedArray:
    """Rows of the table that a vocabulary stands for: int64 `[n]`."""
    place = pc.index_in(tokens, value_set=pa.array(vocabulary, pa.string()))
    return pc.fill_null(pc.add(place.cast(pa.int64()), schema.FIRST_ROW), schema.UNKNOWN_ROW)


def load_catalogue(folder: pathlib.Path) -> tuple[pa.Array, Catalogue]:
    """Item ids and what records say about them, from `items.parquet`."""
    table = pq.read_table(folder / schema.ITEMS_FILE).combine_chunks()
    tokens = table["title_tokens"].combine_chunks()
    lengths = pc.list_value_length(tokens).to_numpy(zero_copy_only=False).astype(np.int64)
    return table["item_id"].combine_chunks(), Catalogue(
        item_key=table["item_key"].to_numpy(),
        item_index=table["item_index"].to_numpy(),
        category_index=table["category_index"].to_numpy(),
        token_starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        tokens=tokens.flatten().to_numpy(),
    )
