"""What a large item table costs a training step. Prints one JSON line.

The same batches train a model with a small item table and one with a large one, whose rows they are
spread over, in processes of their own and in turns. `step_ratio` is the time of a step with the
large table over that with the small one; `rss_mb` the peak of the large one's process, and
`rss_over_table_mb` what it is above the small one's and the table with its state.

    python benchmarks/tables.py [--dataset DIR] [--rows 10000000] [--small-rows 10000] [--steps 32]
"""

import argparse
import json
import pathlib
import tempfile
from typing import Any

from train import ROUNDS, Child, synthetic_dataset

DIM = 128  # of an item's row
STATE = 1  # numbers a row that the optimiser keeps


def compare(dataset: str, *, rows: int, small_rows: int, steps: int) -> dict[str, Any]:
    """Both sizes in turns."""
    children = []
    for size in (rows, small_rows):
        child = Child("packed", dataset, str(size), "tuned")
        child.answer()
        children.append(child)
    for _ in range(ROUNDS):
        for child in children:
            child.run(max(1, steps // ROUNDS))
    large, small = (child.ask("report 0")["rss_mb"] for child in children)
    seconds, small_seconds = (child.totals["seconds"] for child in children)
    for child in children:
        child.close()
    table = (rows - small_rows) * (DIM + STATE) * 4 / 2**20
    return {
        "benchmark": "tables",
        "rows": rows,
        "small_rows": small_rows,
        "step_ratio": round(seconds / small_seconds, 3),
        "rss_mb": large,
        "small_rss_mb": small,
        "table_mb": round(table),
        "rss_over_table_mb": round(large - small - table),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", help="folder that build-dataset wrote")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--small-rows", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=32)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = arguments.dataset or synthetic_dataset(pathlib.Path(folder))
        result = compare(
            dataset,
            rows=arguments.rows,
            small_rows=arguments.small_rows,
            steps=arguments.steps,
        )
    print(json.dumps(result))


if __name__ == "__main__":
    main()
