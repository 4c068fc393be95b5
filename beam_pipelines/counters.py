"""`counters.json`: what every row, file, event and user became, and the checks on it."""

import collections
import functools
import json
import pathlib
from typing import Any, NoReturn

from beam_pipelines.errors import InputError
from beam_pipelines.events import READ_BEFORE
from beam_pipelines.output import KeepFailed, failed_folder
from guim_tf import schema

Counters = dict[str, Any]
ROWS_OF_DAY = "rows_of_the_day"  # of the time that is added; a part of `rows`


def count_rows(scans: list[Counters], *, filters: list[str]) -> Counters:
    """Adds up what the scans say: `files`, `rows`, and `events` so far.

    Args:
      scans: the content of the scans' JSON files.
      filters: reasons to filter a row, which are listed even where they dropped none.
    """
    broken = {scan["path"]: scan["broken"] for scan in scans if scan["broken"]}
    files: Counters = {
        "read": len({scan["path"] for scan in scans}),
        "dead": dict(collections.Counter(broken.values())),
    }
    rows: Counters = {name: sum(scan[name] for scan in scans) for name in ("read", "kept")}
    for name, reasons in (("filtered", filters), ("dead", [])):
        counter = collections.Counter(dict.fromkeys(reasons, 0))
        for scan in scans:
            counter.update(scan[name])
        rows[name] = dict(counter)
    events = {"kept": rows["kept"], "capped": sum(scan["capped"] for scan in scans)}
    day = functools.reduce(add, (scan["day"] for scan in scans), {"read": 0, "dead": {}})
    return {"files": files, "rows": rows, ROWS_OF_DAY: day, "events": events}


def add(before: Counters, now: Counters) -> Counters:
    """Adds two dictionaries of numbers and of dictionaries of numbers."""
    added = dict(before)
    for name, value in now.items():
        if isinstance(value, dict):
            added[name] = add(before.get(name, {}), value)
        else:
            added[name] = before.get(name, 0) + value
    return added


def refuse_dead(
    counters: Counters, max_dead_share: float, folder: pathlib.Path, output: pathlib.Path
) -> None:
    """Raises when too many rows or files are unusable; what there is stays to be looked at.

    Of a day that is added both its own rows count and all that are read for the first time.
    """
    for name in ("files", ROWS_OF_DAY, "rows", "item_rows", "label_rows"):
        counted = counters.get(name, {"read": 0, "dead": {}})
        dead = sum(counted["dead"].values())
        read = counted["read"] - counted.get("filtered", {}).get(READ_BEFORE, 0)
        if dead > max_dead_share * read:
            share = f"{dead / read:.2%}, more than max_dead_share = {max_dead_share:.2%}"
            mend = "mend the log or the mapping, or raise --max-dead-share"
            _refuse(f"{dead:,} of {read:,} {name}", share, mend, counters, name, folder, output)


def refuse_broken(counters: Counters, folder: pathlib.Path, output: pathlib.Path) -> None:
    """Raises when any file could not be read to its end: once a day has been added, what such a
    file holds of it can't be added any more."""
    files = counters["files"]
    if dead := sum(files["dead"].values()):
        mend = "mend them, or take them out of the mapping"
        which = f"{dead:,} of {files['read']:,} files"
        _refuse(which, "none may be", mend, counters, "files", folder, output)


def _refuse(
    which: str,
    bound: str,
    mend: str,
    counters: Counters,
    name: str,
    folder: pathlib.Path,
    output: pathlib.Path,
) -> NoReturn:
    write(folder, counters)
    reasons = ", ".join(f"{why}: {count:,}" for why, count in counters[name]["dead"].items())
    raise KeepFailed(
        f"{which.replace('_', ' ')} are unusable ({bound}): {reasons}. "
        f"See them in {failed_folder(output) / schema.DEAD_LETTERS}, and {mend}."
    )


def refuse_empty(counters: Counters) -> None:
    """Raises when no event is left."""
    rows = counters["rows"]
    if not rows["kept"]:
        raise InputError(
            f"The log holds no event: {rows['read']:,} rows read, "
            f"{sum(rows['filtered'].values()):,} filtered, "
            f"{sum(rows['dead'].values()):,} unusable. "
            "Check the files and the filters of the mapping."
        )


def check_counters(counters: Counters, *, users: int) -> None:
    """Raises `RuntimeError` when a row, an event or a user is not accounted for."""
    rows, events = counters["rows"], counters["events"]
    sums = {
        "rows read = kept + filtered + dead": (
            rows["read"],
            rows["kept"] + sum(rows["filtered"].values()) + sum(rows["dead"].values()),
        ),
        "events kept = duplicates + capped + written": (
            events["kept"],
            events["duplicates"] + events["capped"] + events["written"],
        ),
        "users = records": (users, sum(shard["records"] for shard in counters["shards"])),
    }
    wrong = [f"{name}: {a} != {b}" for name, (a, b) in sums.items() if a != b]
    if wrong:
        raise RuntimeError("The counters don't add up, so rows were lost: " + "; ".join(wrong))


def read(folder: pathlib.Path) -> Counters:
    return json.loads((folder / schema.COUNTERS_FILE).read_text(encoding="utf-8"))


def write(folder: pathlib.Path, counters: Counters) -> None:
    text = json.dumps(counters, indent=2, ensure_ascii=False) + "\n"
    (folder / schema.COUNTERS_FILE).write_text(text, encoding="utf-8")
