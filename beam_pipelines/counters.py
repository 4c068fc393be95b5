"""`counters.json`: what every row, file, event and user became, and the checks on it."""

import collections
import json
import pathlib
from typing import Any

from beam_pipelines.errors import InputError
from beam_pipelines.events import READ_BEFORE, Window
from beam_pipelines.output import KeepFailed, failed_folder
from guim_tf import schema

Counters = dict[str, Any]


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
    return {"files": files, "rows": rows, "events": events}


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
    counters: Counters,
    max_dead_share: float,
    folder: pathlib.Path,
    output: pathlib.Path,
    *,
    window: Window | None,
) -> None:
    """Raises when too many rows or files are unusable; what there is stays to be looked at.

    Args:
      counters: what was read now.
      max_dead_share: of the rows or files.
      folder: the unfinished output.
      output: the name that it would get.
      window: rows that were read for an earlier one and are not of this do not count; and none of
        the files may be broken, for once the day has been added the rows that could not be read
        can't be added any more.
    """
    for name in ("files", "rows", "item_rows", "label_rows"):
        counted = counters.get(name, {"read": 0, "dead": {}})
        dead, read = sum(counted["dead"].values()), counted["read"]
        share, remedy = max_dead_share, "mend the log or the mapping, or raise --max-dead-share"
        if window is not None:
            read -= counted.get("filtered", {}).get(READ_BEFORE, 0)
            if name == "files":
                share, remedy = 0.0, "mend them, or take them out of the mapping"
        if dead > share * read:
            write(folder, counters)
            reasons = ", ".join(f"{why}: {count:,}" for why, count in counted["dead"].items())
            bound = f"more than max_dead_share = {share:.2%}" if share else "none may be"
            raise KeepFailed(
                f"{dead:,} of {read:,} {name.replace('_', ' ')} are unusable "
                f"({dead / read:.2%}, {bound}): {reasons}. See them in "
                f"{failed_folder(output) / schema.DEAD_LETTERS}, and {remedy}."
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
