"""The command: a page, and its main tables on the terminal."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from guim_tf.evaluation.pages import template
from guim_tf.inspection.document import QUANTILES, ROBOT_EVENTS_A_DAY, Document, inspect_dataset
from guim_tf.inspection.plots import plot_categories, plot_days, plot_users
from guim_tf.inspection.statistics import Statistics
from guim_tf.schema import DatasetError, Schema, SchemaError

_TEMPLATE = pathlib.Path(__file__).with_name("page.html")
_COLUMNS = ["users", "mean", "std", *QUANTILES]


def render(document: Document, found: Statistics, *, as_of: int) -> str:
    """The page, which needs no other file."""
    plots = {"days": plot_days(found, as_of), "users": plot_users(found), "categories": ""}
    if document["categories"]:
        plots["categories"] = plot_categories(document["categories"])
    return template(_TEMPLATE).render(
        document=document,
        plots=plots,
        columns=_COLUMNS,
        robot_events=ROBOT_EVENTS_A_DAY,
        filters=document["rows"]["rows"]["filtered"],
    )


def print_document(document: Document) -> None:
    """The checks, the quantiles and what was lost."""
    console = Console(soft_wrap=True)
    title = f"events a user of {escape(document['dataset'])}"
    table = Table("", *document["per_user"], title=title)
    for name in _COLUMNS:
        values = [of.get(name, 0) for of in document["per_user"].values()]
        form = "{:,.2f}" if name in ("mean", "std") else "{:,}"
        table.add_row(name, *(form.format(value) for value in values))
    for column in table.columns[1:]:
        column.justify = "right"
    console.print(table)

    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in document["unknown"].items():
        table.add_row(name, f"{value:.2%}")
    robots = document["robots"]
    table.add_row(f"users with more than {ROBOT_EVENTS_A_DAY} events a day", f"{robots['users']:,}")
    table.add_row("exact duplicates", f"{document['events']['duplicates']:,}")
    for each in document["categories"][:5]:
        table.add_row(f"events of category {escape(each['category'])}", f"{each['share']:.2%}")
    for each in document["dead_letters"]:
        table.add_row(f"dead: {escape(each['reason'])}", f"{each['letters']:,}")
    console.print(table)
    for check in document["checks"]:
        mark = "passed" if check["passed"] else "FAILED"
        console.print(f"{mark}: {check['text']} ({check['detail']})", markup=False)


def main(argv: Sequence[str] | None = None) -> int:
    """`guim inspect`: 0, 1 where a check of the time split failed, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="guim inspect",
        description="Print and draw what a data set holds, and check its time split.",
        epilog="example:\n  guim inspect datasets/demo --output demo.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("dataset", help="the data set folder")
    parser.add_argument("--output", help="the page to write (default: beside it, <dataset>.html)")
    arguments = parser.parse_args(argv)
    try:
        dataset = pathlib.Path(arguments.dataset).resolve()  # `.` has no name
        output = pathlib.Path(arguments.output or f"{dataset}.html")
        document, found = inspect_dataset(dataset)
        page = render(document, found, as_of=Schema.load(dataset).as_of)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf-8", errors="backslashreplace")
    except (SchemaError, DatasetError, OSError) as e:
        print(f"guim inspect: {e}", file=sys.stderr)
        return 2
    print_document(document)
    print(f"wrote {output}")
    return 0 if all(check["passed"] for check in document["checks"]) else 1


if __name__ == "__main__":
    sys.exit(main())
