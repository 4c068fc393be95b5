"""Kills `guim build-dataset` with signal 9 at random moments. Prints one JSON line a job.

Two jobs on a synthetic log: one builds a data set, one adds a day to it. After each kill the
output must be what it was before, or whole; at the end an undisturbed rerun must make the files
of a run that was never killed.

    python benchmarks/kill_pipeline.py [--kills 10] [--users 20000]
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from guim_tf.datasets import synthetic

ROOT = pathlib.Path(__file__).resolve().parent.parent
DAYS = ("2024-01-05", "2024-01-06")


def digest(folder: pathlib.Path) -> str:
    """A digest of all names and contents; "" where there is no folder."""
    if not folder.exists():
        return ""
    made = hashlib.blake2b()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        made.update(f"{path.relative_to(folder)}\0".encode())
        made.update(path.read_bytes())
    return made.hexdigest()


def start(mapping: pathlib.Path, output: pathlib.Path, flags: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "guim_tf.cli", "build-dataset"),
            *("--mapping", str(mapping), "--output", str(output), *flags),
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def undisturbed(mapping: pathlib.Path, output: pathlib.Path, flags: list[str]) -> float:
    """Runs a job to its end; returns its seconds."""
    began = time.monotonic()
    if start(mapping, output, flags).wait():
        raise RuntimeError(f"The job {flags} failed without being killed.")
    return time.monotonic() - began


def kill_job(
    mapping: pathlib.Path, output: pathlib.Path, flags: list[str], *, kills: int, seed: int
) -> dict[str, object]:
    """Kills a job that turns `output` from what it is, or nothing, into something else.

    Returns:
      kills, which all met the job running, outputs that were neither the old nor the new one, and
      whether the rerun equals a run that was never killed.
    """
    rng = random.Random(seed)
    old, new = output.with_name("old"), output.with_name("new")
    for copy in (old, new):
        shutil.rmtree(copy, ignore_errors=True)
        if output.exists():
            shutil.copytree(output, copy)
    seconds = undisturbed(mapping, new, flags)
    before, whole = digest(old), digest(new)
    met = torn = 0
    while met < kills:
        process, began = start(mapping, output, flags), time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=rng.uniform(0, seconds))
            seconds = min(seconds, time.monotonic() - began)  # it has ended: sooner next time
        met += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        found = digest(output)
        torn += found not in (before, whole)
        if found != before:  # it had ended, or tore it: from the start again
            shutil.rmtree(output, ignore_errors=True)
            if old.exists():
                shutil.copytree(old, output)
    undisturbed(mapping, output, flags)
    return {
        "benchmark": "kill_pipeline",
        "job": "append" if "--append" in flags else "build",
        "kills": met,
        "torn_outputs": torn,
        "rerun_equal": digest(output) == whole,
        "leftovers": len(list(output.parent.glob(f".{output.name}.*"))),
    }


def kill_jobs(
    mapping: pathlib.Path, folder: pathlib.Path, *, kills: int, seed: int, workers: int
) -> Iterator[dict[str, object]]:
    """`kill_job` for a build, and for a day that is added to another."""
    flags = ["--holdout-days", "0", "--shards", "2"]
    if workers > 1:
        flags += ["--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]
    yield kill_job(mapping, folder / "built", flags, kills=kills, seed=seed)
    first, second = ([*flags, "--append", f"day={day}"] for day in DAYS)
    undisturbed(mapping, folder / "days", first)
    yield kill_job(mapping, folder / "days", second, kills=kills, seed=seed + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10, help="of each job")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        mapping = synthetic.generate(
            output=folder / "input", users=arguments.users, items=arguments.users, seed=0
        )
        for line in kill_jobs(
            mapping,
            folder,
            kills=arguments.kills,
            seed=arguments.seed,
            workers=arguments.workers,
        ):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
