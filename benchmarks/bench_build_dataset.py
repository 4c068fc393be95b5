"""Speed and memory of `guim build-dataset` on a synthetic log. Prints one JSON line.

The reference, in the same run, makes the same records by the same pure functions in memory: no
Beam, no partitions, no bounded chunks. `ratio` is what those cost; below 1 Beam's way is faster.

    python benchmarks/bench_build_dataset.py [--users 30000]
"""

import argparse
import json
import os
import pathlib
import resource
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from beam_pipelines.build_dataset import build_dataset
from beam_pipelines.in_memory import make_records
from guim_tf.datasets import synthetic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=30_000)
    users = parser.parse_args().users
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        mapping = synthetic.generate(output=folder / "input", users=users, items=users // 2)
        build_dataset(mapping_file=mapping, output=folder / "warm-up")  # loads TensorFlow
        start = time.perf_counter()
        result = build_dataset(mapping_file=mapping, output=folder / "dataset")
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        (folder / "memory").mkdir()
        start = time.perf_counter()
        records = make_records(mapping_file=mapping, folder=folder / "memory")
        reference = time.perf_counter() - start
    events = result.counters["rows"]["read"]
    assert len(records.examples) == sum(result.counters["users"].values())
    print(
        json.dumps(
            {
                "benchmark": "build_dataset",
                "events": events,
                "events_per_second": round(events / seconds),
                "reference_events_per_second": round(events / reference),
                "ratio": round(seconds / reference, 3),
                "peak_mb_before_reference": peak // 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
