"""The yardstick of pipeline.py: `guim build-dataset` as a plain script with polars.

One process, everything in memory: the same validation, tokeniser, vocabularies and records (a
test compares them) of a log in Parquet files with times in seconds.

    python benchmarks/pipeline_polars.py --mapping prepared/shop/mapping.json --output work/shop
"""

import argparse
import collections
import dataclasses
import hashlib
import json
import pathlib
import struct
from collections.abc import Iterator

import google_crc32c
import polars as pl

from beam_pipelines.settings import Settings
from guim_tf import schema
from guim_tf.mapping import EventsMapping, Mapping
from guim_tf.strict_json import load

LAST_SECOND = 4_102_444_800


def build(*, mapping_file: pathlib.Path, output: pathlib.Path, settings: Settings) -> int:
    """Writes records, vocabularies, catalogue, dead letters and counters; returns rows read."""
    mapping = load(Mapping, mapping_file)
    base = mapping_file.parent
    rows, dead = validate(read(base, mapping.events), mapping.events)
    output.mkdir(parents=True)
    dead.write_ndjson(output / "dead_letters.jsonl")
    last = rows["timestamp"].max()
    as_of = settings.as_of
    if as_of is None:
        as_of = (last // 86_400 + 1 - settings.holdout_days) * 86_400
    events = compact(rows, settings.max_events_per_user)
    counters = {
        "read": len(rows) + len(dead),
        "kept": len(rows),
        "dead": dict(dead["reason"].value_counts().iter_rows()),
        "written": len(events),
    }
    del rows
    table = read_items(base, mapping)
    catalogue, vocabularies = make_catalogue(events, table, as_of, settings, output)
    write_records(events, catalogue, settings, output)
    (output / schema.COUNTERS_FILE).write_text(json.dumps(counters))
    (output / schema.SCHEMA_FILE).write_text(json.dumps(vocabularies))
    return counters["read"]


def read(base: pathlib.Path, mapping: EventsMapping) -> pl.DataFrame:
    """`user_id`, `item_id`, `timestamp`, file and row of every row of the log."""
    frames = [
        pl.read_parquet(base / name).select(
            user_id=pl.col(mapping.user_id.column),
            item_id=pl.col(mapping.item_id.column),
            timestamp=pl.col(mapping.timestamp.column),
            file=pl.lit(number, pl.Int32),
            row=pl.int_range(1, pl.len() + 1),
        )
        for number, name in enumerate(mapping.files)
    ]
    return pl.concat(frames)


def validate(rows: pl.DataFrame, mapping: EventsMapping) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The sound rows, and the others with a reason."""
    tests = []
    for name in ("user_id", "item_id"):
        text = pl.col(name).fill_null("")
        tests.append((text.str.contains("\x1a", literal=True), "broken encoding"))
        tests.append((text == "", f"{name} missing"))
        tests.append((text.str.contains("[\t\n\r]"), f"{name} holds a tab or a line break"))
    time = pl.col("timestamp")
    tests.append((time.is_null(), "timestamp missing"))
    tests.append(((time < 0) | (time >= LAST_SECOND), "timestamp out of range"))
    reason = pl.coalesce(pl.when(bad).then(pl.lit(text)) for bad, text in tests)
    rows = rows.with_columns(reason=reason)
    return rows.filter(pl.col("reason").is_null()).drop("reason"), rows.filter(
        pl.col("reason").is_not_null()
    )


def compact(rows: pl.DataFrame, max_events: int) -> pl.DataFrame:
    """Distinct events, the most recent of each user, by user, time and place in the log."""
    rows = rows.unique(["user_id", "timestamp", "item_id"], keep="first", maintain_order=True)
    rows = rows.sort("user_id", "timestamp", "item_id")
    left = pl.len().over("user_id") - pl.int_range(pl.len()).over("user_id")
    return rows.filter(left <= max_events).sort("user_id", "timestamp", "file", "row")


def read_items(base: pathlib.Path, mapping: Mapping) -> pl.DataFrame:
    """The item table; of an id that stands twice the last row."""
    own = mapping.items
    assert own is not None
    assert own.category_id is not None
    assert own.title is not None
    columns = {
        "item_id": pl.col(own.item_id.column),
        "category_id": pl.col(own.category_id.column).fill_null(""),
        "title": pl.col(own.title.column).fill_null(""),
    }
    frames = [pl.read_parquet(base / name).select(**columns) for name in own.files]
    return pl.concat(frames).unique("item_id", keep="last")


def make_catalogue(
    events: pl.DataFrame, table: pl.DataFrame, as_of: int, settings: Settings, output: pathlib.Path
) -> tuple[pl.DataFrame, dict[str, object]]:
    """Counts joined with the item table, tokenised; writes the vocabulary files."""
    from guim_tf import text

    before = events.filter(pl.col("timestamp") < as_of)
    recent = before.filter(pl.col("timestamp") >= as_of - schema.RECENT_DAYS * schema.DAY)
    catalogue = (
        pl.concat([events.select("item_id"), table.select("item_id")])
        .unique()
        .join(before.group_by("item_id").agg(count=pl.len()), on="item_id", how="left")
        .join(
            recent.group_by("item_id").agg(recent_buyers=pl.col("user_id").n_unique()),
            on="item_id",
            how="left",
        )
        .join(table, on="item_id", how="left")
        .with_columns(pl.col("count", "recent_buyers").fill_null(0).cast(pl.Int64))
        .with_columns(pl.col("category_id", "title").fill_null(""))
        .sort(["count", "item_id"], descending=[True, False])
    )
    sold = catalogue.filter(pl.col("count") > 0)
    head = sold.head(settings.max_items)
    items = _write(output, "items", head["item_id"].to_list(), head["count"].to_list())
    groups = (
        sold.filter(pl.col("category_id") != "")
        .group_by("category_id")
        .agg(pl.col("count").sum())
        .sort(["count", "category_id"], descending=[True, False])
        .head(settings.max_categories)
    )
    category_ids = groups["category_id"].to_list()
    categories = _write(output, "categories", category_ids, groups["count"].to_list())
    counts: collections.Counter[str] = collections.Counter()
    for tokens in text.token_lists(sold["title"].to_list()):
        counts.update(set(tokens[: settings.max_title_tokens]))
    ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[: settings.max_words]
    words = _write(output, "words", [word for word, _ in ranked], [count for _, count in ranked])
    rows = text.WordTable(
        str(output / schema.VOCABULARY_FILES["words"]),
        size=words.size,
        hash_rows=settings.word_hash_rows,
        max_tokens=settings.max_title_tokens,
    )
    number = pl.int_range(pl.len())
    known = pl.DataFrame(
        {"category_id": category_ids, "category_index": range(2, 2 + len(category_ids))},
        schema={"category_id": pl.String, "category_index": pl.Int64},
    )
    catalogue = catalogue.with_columns(
        item_key=pl.Series(
            [schema.fingerprint64(each) for each in catalogue["item_id"]], dtype=pl.Int64
        ),
        item_index=pl.when(number < items.size)
        .then(number + schema.FIRST_ROW)
        .otherwise(schema.UNKNOWN_ROW),
        title_tokens=pl.Series(
            text.row_lists(rows, catalogue["title"].to_list()), dtype=pl.List(pl.Int64)
        ),
    ).join(known, on="category_id", how="left", maintain_order="left")
    catalogue = catalogue.with_columns(pl.col("category_index").fill_null(schema.UNKNOWN_ROW))
    catalogue.write_parquet(output / schema.ITEMS_FILE)
    made = {"items": items, "categories": categories, "words": words}
    return catalogue, {name: dataclasses.asdict(each) for name, each in made.items()}


def _write(output: pathlib.Path, name: str, tokens: list[str], counts: list[int]) -> object:
    return schema.write_vocabulary(output / schema.VOCABULARY_FILES[name], tokens, counts)


# ------------------------------------------------------------------------------- records


def write_records(
    events: pl.DataFrame, catalogue: pl.DataFrame, settings: Settings, output: pathlib.Path
) -> None:
    """One `tf.train.Example` a user, hashed over shards and splits."""
    columns = ("item_key", "item_index", "category_index", "title_tokens")
    joined = events.lazy().join(
        catalogue.lazy().select("item_id", *columns), on="item_id", maintain_order="left"
    )
    users = (
        joined.group_by("user_id", maintain_order=True)
        .agg(
            "timestamp",
            *columns[:3],
            title_lengths=pl.col("title_tokens").list.len(),
            title_tokens=pl.col("title_tokens").explode().drop_nulls(),  # of no title
        )
        .collect()
    )
    files = {}
    for split in (schema.TRAIN, schema.VALIDATION):
        (output / split).mkdir()
        for shard in range(settings.shards):
            path = output / split / f"part-{shard:05d}-of-{settings.shards:05d}.tfrecord"
            files[split, shard] = path.open("wb")
    bound = settings.validation_share * 2.0**64
    for user, record in examples(users):
        split = schema.VALIDATION if _hash(user, b"split") < bound else schema.TRAIN
        length = struct.pack("<Q", len(record))
        files[split, _hash(user, b"partition") % settings.shards].write(
            b"".join((length, _masked_crc(length), record, _masked_crc(record)))
        )
    for file in files.values():
        file.close()


def examples(users: pl.DataFrame) -> Iterator[tuple[str, bytes]]:
    """User id and serialized example of each row."""
    import tensorflow as tf

    names = [name for name in users.columns if name != "user_id"]
    for part in users.iter_slices(10_000):
        columns = [part[name].to_list() for name in names]
        for user, *values in zip(part["user_id"].to_list(), *columns, strict=True):
            example = tf.train.Example()
            feature = example.features.feature
            feature[schema.USER_ID].bytes_list.value.append(user.encode())
            for name, numbers in zip(names, values, strict=True):
                feature[name].int64_list.value.extend(numbers)
            feature[schema.ACTION_INDEX].int64_list.value.extend(
                [schema.UNKNOWN_ROW] * len(values[0])
            )
            yield user, example.SerializeToString(deterministic=True)


def _hash(user: str, purpose: bytes) -> int:
    digest = hashlib.blake2b(user.encode(), digest_size=8, person=purpose).digest()
    return int.from_bytes(digest, "little")


def _masked_crc(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mapping", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    build(mapping_file=arguments.mapping, output=arguments.output, settings=Settings())


if __name__ == "__main__":
    main()
