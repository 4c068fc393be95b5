"""Trains RecTools' SASRec on the events of a data set and writes user and item vectors.

SASRec (Kang and McAuley 2018) as the library RecTools has it, with the softmax loss over all items
and the library's settings, so that `guim evaluate` measures it by the same protocol, in the same
tables, as everything else. As in RecTools' own public benchmark the last event of 2,048 users drawn
at random is held out, and the epoch with the best recall@10 on those is kept; users are encoded
from everything of their last 365 days, those events too. An item that nobody had bought has no
vector and is never found.

It runs in an environment of its own, see benchmarks/requirements-rectools.txt.
"""

import argparse
import dataclasses
import importlib
import json
import pathlib
import sys
import time
from collections.abc import Sequence

from sasrec_files import BaselineError, Settings, read_events, recent, write_vectors

_INSTALL = (
    "Make an environment for it and run this script there:\n"
    "  python3.11 -m venv .venv-rectools\n"
    "  .venv-rectools/bin/pip install -r benchmarks/requirements-rectools.txt\n"
    "  .venv-rectools/bin/python benchmarks/sasrec_rectools.py ..."
)
_EXAMPLES = """\
examples:
  python benchmarks/export_events.py --dataset work/dataset --output work/events.parquet
  .venv-rectools/bin/python benchmarks/sasrec_rectools.py --events work/events.parquet \\
      --output work/sasrec --seed 0
  guim evaluate --dataset work/dataset --user-vectors work/sasrec/users.parquet \\
      --item-vectors work/sasrec/items.parquet --score dot --output work/report

  ... sasrec_rectools.py --events beauty.parquet --output sasrec --max-length 50   (Amazon)

writes OUTPUT/users.parquet and OUTPUT/items.parquet, progress to stderr, one JSON line to stdout.
"""


def require_library() -> None:
    """Raises `BaselineError` that says how to install what is missing."""
    for name in ("torch", "pytorch_lightning", "rectools"):
        try:
            importlib.import_module(name)
        except ImportError as e:
            raise BaselineError(f"{name} can't be imported ({e}).\n{_INSTALL}") from e


def run(
    *, events: str | pathlib.Path, output: str | pathlib.Path, settings: Settings
) -> dict[str, object]:
    """Trains on a table of events, writes the vectors and returns what the JSON line says."""
    table = read_events(events)
    require_library()
    from sasrec_model import fit  # needs what was just required

    start = time.monotonic()
    fitted = fit(table, recent(table), settings)
    minutes = (time.monotonic() - start) / 60
    write_vectors(output, fitted)
    return {
        "benchmark": "sasrec_rectools",
        "events": table.num_rows,
        "users": len(fitted.user_ids),
        "items": len(fitted.item_ids),
        **{name: x for name, x in dataclasses.asdict(settings).items() if name != "minutes"},
        "trained_epochs": fitted.epochs,
        "best_epoch": fitted.best_epoch,
        "validation_recall@10": round(fitted.validation_recall, 4),
        "minutes": round(minutes, 1),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--events", required=True, help="what export_events.py wrote")
    parser.add_argument("--output", required=True, help="folder for both files of vectors")
    meanings = {
        "factors": "size of a vector",
        "max_length": "most recent events of a history",
        "batch_size": "users in a batch",
        "learning_rate": "of Adam",
        "epochs": "at most",
        "patience": "epochs without a better validation recall before training stops",
        "minutes": "of training; no epoch begins that would not end in time",
        "validation_users": "users whose last event is held out, at most",
        "seed": "of weights, batches and validation users",
        "threads": "of torch; 0: its own choice",
    }
    for field in dataclasses.fields(Settings):
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            type=type(field.default),
            default=field.default,
            help=f"{meanings[field.name]} (default: %(default)s)",
        )
    arguments = vars(parser.parse_args(argv))
    places = {name: arguments.pop(name) for name in ("events", "output")}
    try:
        print(json.dumps(run(**places, settings=Settings(**arguments))))
    except (ValueError, OSError) as e:
        print(f"sasrec_rectools: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
