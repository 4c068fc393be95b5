"""The table of `counters.json` that a job ends with."""

import datetime
import pathlib
from typing import Any

from rich.console import Console
from rich.table import Table


def print_summary(output: pathlib.Path, counters: dict[str, Any]) -> None:
    """Prints what became of the rows, and what the data set holds."""
    table = Table(title=str(output), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name in ("files", "rows", "item_rows", "label_rows"):
        rows = counters.get(name)
        if rows is None:
            continue
        table.add_row(f"{name.replace('_', ' ')} read", f"{rows['read']:,}")
        for kind in ("filtered", "dead"):
            for reason, count in rows.get(kind, {}).items():
                table.add_row(f"  {kind}: {reason}", f"{count:,}")
        if "kept" in rows:
            table.add_row("  kept", f"{rows['kept']:,}", end_section=True)
    for name in ("duplicates", "capped", "written"):
        table.add_row(f"events {name}", f"{counters['events'][name]:,}")
    for split, users in counters["users"].items():
        table.add_row(f"users, {split}", f"{users:,}")
    table.add_row("items", f"{counters['items']:,}", end_section=True)
    for name, size in counters["vocabularies"].items():
        table.add_row(f"vocabulary of {name}", f"{size:,}")
    for name, second in counters["time"].items():
        time = datetime.datetime.fromtimestamp(second, datetime.UTC)
        table.add_row(f"{name.replace('_', ' ')} (UTC)", f"{time:%Y-%m-%d %H:%M:%S}")
    table.add_row("bytes of records", f"{sum(s['bytes'] for s in counters['shards']):,}")
    Console(soft_wrap=True).print(table)
