"""The command that compares sizes of tables, on the small shop."""

import json
import pathlib
import subprocess
import sys

COMMAND = pathlib.Path(__file__).parents[2] / "benchmarks" / "tables.py"


def test_two_sizes_of_a_table_are_compared(shop_dataset):
    arguments = ["--dataset", str(shop_dataset), "--steps", "4"]
    arguments += ["--rows", "30000", "--small-rows", "10000"]
    done = subprocess.run(
        [sys.executable, str(COMMAND), *arguments], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert (found["rows"], found["small_rows"]) == (30_000, 10_000)
    assert found["table_mb"] == round(20_000 * 129 * 4 / 2**20)  # a row has 128 numbers and a state
    assert found["step_ratio"] > 0
    assert found["rss_mb"] > 0
