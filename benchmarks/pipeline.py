"""Speed and memory of `guim build-dataset` against a polars script. JSON lines.

The log is the synthetic shop's, with a robot that makes one event in a hundred. The yardstick,
`pipeline_polars.py`, makes the same records in one process, right before; both are timed as whole
processes, imports included. `peak_rss_mb` adds up all processes of a job.

    python benchmarks/pipeline.py [--events 1000000 3000000 10000000] [--workers 1 2]
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from guim_tf.datasets import synthetic

ROOT = pathlib.Path(__file__).resolve().parent.parent
EVENTS_A_USER = 52
ITEMS = 20_000
ROBOT_SHARE = 0.01
SAMPLE_SECONDS = 0.02


class Run(NamedTuple):
    """A finished process and its children: wall clock, processor time and memory."""

    seconds: float
    cpu_seconds: float
    peak_rss_mb: float


def make_log(folder: pathlib.Path, *, events: int, seed: int) -> pathlib.Path:
    """The shop's log of about `events` rows, robot included; returns the mapping file."""
    mapping = folder / "mapping.json"
    if mapping.is_file():
        return mapping
    robot = int(events * ROBOT_SHARE)
    synthetic.generate(
        output=folder,
        users=(events - robot) // EVENTS_A_USER,
        items=ITEMS,
        purchases_per_user=EVENTS_A_USER,
        seed=seed,
    )
    times = pq.read_table(folder / "events.parquet", columns=["timestamp"])["timestamp"]
    rng = np.random.default_rng([seed, 4])
    pq.write_table(
        pa.table(
            {
                "user_id": pa.repeat("robot", robot),
                "item_id": np.char.add("i", rng.integers(ITEMS, size=robot).astype(str)),
                "timestamp": np.linspace(times[0].as_py(), times[-1].as_py(), robot).astype(int),
            }
        ),
        folder / "robot.parquet",
    )
    content = json.loads(mapping.read_text())
    content["events"]["files"].append("robot.parquet")
    mapping.write_text(json.dumps(content))
    return mapping


def run(command: list[str]) -> Run:
    """Runs a command to its end and watches its memory."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        peak = max(peak, sum(_resident(each) for each in _family(process.pid)))
        time.sleep(SAMPLE_SECONDS)
    seconds = time.perf_counter() - start
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    cpu = usage.ru_utime + usage.ru_stime
    return Run(seconds, cpu, peak / 2**20)


def _family(root: int) -> Iterator[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it ended meanwhile
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    waiting = [root]
    while waiting:
        yield (pid := waiting.pop())
        waiting += children.get(pid, [])


def _resident(pid: int) -> int:
    try:
        pages = pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 3_000_000, 10_000_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=1, help="runs of each; the median counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logs", type=pathlib.Path, help="a folder to keep the logs in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for events in arguments.events:
            folder = (arguments.logs or pathlib.Path(name)) / f"{events}-{arguments.seed}"
            mapping = make_log(folder, events=events, seed=arguments.seed)
            for line in compare(mapping, pathlib.Path(name), arguments.workers, arguments.repeats):
                print(json.dumps(line), flush=True)


def compare(
    mapping: pathlib.Path, work: pathlib.Path, workers: list[int], repeats: int
) -> list[dict[str, object]]:
    """A line for each number of workers; the yardstick runs in turn with the jobs."""
    inputs = ["--mapping", str(mapping), "--output"]
    yardstick = [sys.executable, str(ROOT / "benchmarks/pipeline_polars.py"), *inputs]
    job = [sys.executable, "-m", "guim_tf.cli", "build-dataset", *inputs, str(work / "dataset")]
    runs: dict[int, list[Run]] = {number: [] for number in (0, *workers)}
    for _ in range(repeats):
        runs[0].append(run([*yardstick, str(work / "yardstick")]))
        shutil.rmtree(work / "yardstick")
        for number in workers:
            flags = ["--direct_running_mode=multi_processing", f"--direct_num_workers={number}"]
            runs[number].append(run(job + (flags if number > 1 else [])))
    counters = json.loads((work / "dataset" / "counters.json").read_text())
    read = counters["rows"]["read"]
    medians = {
        number: Run(*(statistics.median(values) for values in zip(*each, strict=True)))
        for number, each in runs.items()
    }
    reference = medians[0]
    return [
        {
            "benchmark": "pipeline",
            "events": read,
            "workers": number,
            "events_per_s": round(read / medians[number].seconds),
            "yardstick_events_per_s": round(read / reference.seconds),
            "ratio": round(reference.seconds / medians[number].seconds, 3),
            "cpu_ratio": round(reference.cpu_seconds / medians[number].cpu_seconds, 3),
            "peak_rss_mb": round(medians[number].peak_rss_mb),
            "yardstick_peak_rss_mb": round(reference.peak_rss_mb),
        }
        for number in workers
    ]


if __name__ == "__main__":
    main()
