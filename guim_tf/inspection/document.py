"""What `guim inspect` says of a data set: plain values, for the terminal and the page."""

from __future__ import annotations

import datetime
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from guim_tf import schema as names
from guim_tf.inspection.statistics import Statistics, count_records
from guim_tf.schema import Schema, read_vocabulary

QUANTILES = {"min": 0.0, "25 %": 0.25, "50 %": 0.5, "75 %": 0.75, "99 %": 0.99, "max": 1.0}
ROBOT_EVENTS_A_DAY = 300  # more than a person does
TOP_CATEGORIES, TOP_USERS = 15, 10

Document = dict[str, Any]


def inspect_dataset(dataset: str | pathlib.Path) -> tuple[Document, Statistics]:
    """Reads a data set folder once.

    Returns:
      the document, and the arrays that plots are drawn from.

    Raises:
      SchemaError, DatasetError: there is no finished data set, or it is damaged.
    """
    folder = pathlib.Path(dataset)
    schema = Schema.load(folder)
    found = count_records(folder, schema)
    counters = json.loads((folder / names.COUNTERS_FILE).read_text(encoding="utf-8"))
    document = {
        "dataset": str(folder),
        "fingerprint": schema.fingerprint,
        "time": {
            "first": _date(schema.first_timestamp),
            "as_of": _date(schema.as_of),
            "last": _date(schema.last_timestamp),
        },
        "users": {"train": found.train_users, "validation": len(found.users) - found.train_users},
        "events": counters["events"],
        "events_before": int(found.before.sum()),
        "events_after": int(found.after.sum()),
        "items": counters["items"],
        "vocabularies": counters["vocabularies"],
        "rows": {
            name: counters[name]
            for name in ("files", "rows", "item_rows", "label_rows")
            if name in counters
        },
        "per_user": {
            "before the cut-off": _quantiles(found.before[found.before > 0]),
            "from the cut-off on": _quantiles(found.after[found.after > 0]),
        },
        "categories": _top_categories(folder, found),
        "unknown": _unknown(found),
        "robots": _robots(found),
        "dead_letters": _dead_letters(folder),
        "checks": list(_checks(folder, schema, found)),
    }
    return document, found


def _date(seconds: int) -> str:
    time = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{time:%Y-%m-%d %H:%M}"


def _quantiles(counts: np.ndarray) -> dict[str, float]:
    """The columns of Table 1 of the paper, over users with an event in the period."""
    made: dict[str, float] = {"users": len(counts)}
    if len(counts):
        made |= {"mean": float(counts.mean()), "std": float(counts.std())}
        values = np.quantile(counts, list(QUANTILES.values()), method="inverted_cdf")
        made |= dict(zip(QUANTILES, map(int, values), strict=True))
    return made


def _top_categories(folder: pathlib.Path, found: Statistics) -> list[dict[str, Any]]:
    """The most bought categories before the cut-off, and their shares of these events."""
    tokens = read_vocabulary(folder / names.VOCABULARY_FILES["categories"])[0]
    counts = found.categories[names.FIRST_ROW :]
    rows = np.argsort(-counts, kind="stable")[:TOP_CATEGORIES]
    total = max(int(found.categories.sum()), 1)
    return [
        {"category": tokens[row], "events": int(counts[row]), "share": counts[row] / total}
        for row in rows
        if counts[row]
    ]


def _unknown(found: Statistics) -> dict[str, float]:
    """Shares of what has no row of its own in a table."""

    def share(part: float, whole: float) -> float:
        return float(part) / max(float(whole), 1.0)

    unknown = names.UNKNOWN_ROW
    return {
        "events before the cut-off of an unknown item": share(
            found.items[unknown], found.items.sum()
        ),
        "events from the cut-off on of an unknown item": share(
            found.items_after[unknown], found.items_after.sum()
        ),
        "events before the cut-off of an unknown category": share(
            found.categories[unknown], found.categories.sum()
        ),
        "words of titles that are hashed": share(found.hashed_words, found.words),
        "events without a title": share(found.untitled, found.days.sum()),
    }


def _robots(found: Statistics) -> dict[str, Any]:
    """Users with more events on a day than people have, and the busiest users."""
    events = found.before + found.after
    rows = np.argsort(-events, kind="stable")[:TOP_USERS]
    return {
        "users": int((found.busiest_day > ROBOT_EVENTS_A_DAY).sum()),
        "events": int(events[found.busiest_day > ROBOT_EVENTS_A_DAY].sum()),
        "busiest": [
            {
                "user_id": found.users[row],
                "events": int(events[row]),
                "distinct_items": int(found.distinct_items[row]),
                "busiest_day": int(found.busiest_day[row]),
                "robot": bool(found.busiest_day[row] > ROBOT_EVENTS_A_DAY),
            }
            for row in rows
        ],
    }


def _dead_letters(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Each reason with its number of letters and its first one, most frequent first."""
    reasons: dict[str, dict[str, Any]] = {}
    for path in sorted((folder / names.DEAD_LETTERS).glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                letter = json.loads(line)
                first = {"reason": letter["reason"], "letters": 0, "first": letter}
                reasons.setdefault(letter["reason"], first)["letters"] += 1
    return sorted(reasons.values(), key=lambda each: -each["letters"])


# ------------------------------------------------------------------------------- the time split


def _checks(folder: pathlib.Path, schema: Schema, found: Statistics) -> Iterator[dict[str, Any]]:
    """Whether anything at or after the cut-off can have been learned from."""
    counts = np.array(read_vocabulary(folder / names.VOCABULARY_FILES["items"])[1], np.int64)
    differ = int((counts != found.items[names.FIRST_ROW :]).sum())
    yield _check(
        "Counts of the item vocabulary are those of the events before the cut-off",
        not differ,
        f"{differ:,} of {len(counts):,} items differ" if differ else f"{len(counts):,} items",
    )
    table = pq.read_table(folder / names.ITEMS_FILE, columns=["item_index", "count"])
    index, count = (table[name].to_numpy() for name in ("item_index", "count"))
    retired = _retired(folder)
    early = (index != names.UNKNOWN_ROW) & (count == 0) & ~np.isin(index, retired)
    yield _check(
        "No item has a row of its own that was first seen at or after the cut-off",
        not early.any(),
        f"{int(early.sum()):,} items",
    )
    train, held = found.users[: found.train_users], found.users[found.train_users :]
    both = len(set(train) & set(held))
    yield _check("No user is in both splits", not both, f"{both:,} users")
    before, after = int(found.before.sum()), int(found.after.sum())
    if schema.as_of > schema.last_timestamp:
        text, passed = "There are events before the cut-off, and nothing is held out", before > 0
    else:
        text = "There are events on both sides of the cut-off"
        passed = before > 0 and after > 0
    yield _check(text, passed, f"{before:,} before and {after:,} after")


def _retired(folder: pathlib.Path) -> list[int]:
    """Rows of items that are kept though they are no longer frequent; see `--append`."""
    path = folder / names.RETIRED_FILE
    return json.loads(path.read_text(encoding="utf-8"))["items"] if path.is_file() else []


def _check(text: str, passed: bool, detail: str) -> dict[str, Any]:
    return {"text": text, "passed": passed, "detail": detail}
