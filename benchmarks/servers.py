"""A large item table on two parameter servers. Prints one JSON line.

Starts two servers and a worker as processes on loopback and trains, as their chief, first a model
with a small item table and then one with a large one, whose rows the same batches are spread over.
`step_ratio` is the time of a step with the large table over that with the small one, `pieces` how
many rows each server holds, `server_mb` each server's memory above what it had with the small one.

    python benchmarks/servers.py [--dataset DIR] [--rows 10000000] [--steps 24]
"""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

from train import spread, synthetic_dataset, table_rows

SMALL_ROWS = 10_000
SERVERS, WORKERS = 2, 1
ROUNDS = 4


def start(cluster: dict[str, list[str]], kind: str, index: int) -> subprocess.Popen:
    """A process that serves the chief."""
    config = json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})
    command = [sys.executable, "-m", "guim_tf.cli", "train", "--dataset", "-", "--run", "-"]
    return subprocess.Popen(
        command, env=os.environ | {"TF_CONFIG": config}, stderr=subprocess.DEVNULL
    )


def free_address() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{s.getsockname()[1]}"


def memory_mb(process: subprocess.Popen) -> int:
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def train(cluster: Any, dataset: str, rows: int, steps: int) -> tuple[float, list[int]]:
    """Seconds a step in the best round but the first, and the rows of each piece of the table."""
    import tensorflow as tf

    from guim_tf import schema as names
    from guim_tf.config import Config
    from guim_tf.data import load_dataset
    from guim_tf.keras_compat import keras
    from guim_tf.model import GUIM, TableRows
    from guim_tf.optimizers import build_optimizer
    from guim_tf.schema import Schema

    config, own = Config.tuned(), TableRows.of(Schema.load(dataset))
    sizes = table_rows(str(rows), own)

    def batches(_: Any) -> tf.data.Dataset:
        found = load_dataset(
            dataset,
            window=config.window,
            batch_size=config.training.batch_size,
            catalogue_negatives=config.loss.catalogue_negatives,
        )
        return found.repeat().map(lambda batch: spread(batch, own, sizes, names))

    with cluster.strategy.scope():
        model = GUIM(sizes, model=config.model, loss=config.loss)
        model.compile(build_optimizer(config.training, total_steps=10_000))
        model.optimizer.build(model.trainable_variables)
    table = model.item_encoder.item_table.embeddings
    pieces = [piece.shape[0] for piece in getattr(table, "variables", [table])]
    creator = keras.utils.experimental.DatasetCreator(batches)
    seconds = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        model.fit(creator, steps_per_epoch=steps, epochs=1, verbose=0)
        seconds.append((time.perf_counter() - begun) / steps)
    return min(seconds[1:]), pieces


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", help="folder that build-dataset wrote")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--steps", type=int, default=24)
    arguments = parser.parse_args()
    addresses = {
        "chief": [free_address()],
        "ps": [free_address() for _ in range(SERVERS)],
        "worker": [free_address() for _ in range(WORKERS)],
    }
    servers = [start(addresses, "ps", i) for i in range(SERVERS)]
    workers = [start(addresses, "worker", i) for i in range(WORKERS)]
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": addresses, "task": {"type": "chief", "index": 0}}
    )
    from guim_tf.cluster import Cluster

    try:
        with tempfile.TemporaryDirectory() as folder:
            dataset = arguments.dataset or synthetic_dataset(pathlib.Path(folder))
            cluster = Cluster.of_this_process()
            small, _ = train(cluster, dataset, SMALL_ROWS, arguments.steps)
            before = [memory_mb(server) for server in servers]
            large, pieces = train(cluster, dataset, arguments.rows, arguments.steps)
            after = [memory_mb(server) for server in servers]
    finally:
        for process in servers + workers:
            process.kill()
    print(
        json.dumps(
            {
                "benchmark": "servers",
                "rows": arguments.rows,
                "pieces": pieces,
                "step_ratio": round(large / small, 3),
                "server_mb": [b - a for a, b in zip(before, after, strict=True)],
                "table_mb": arguments.rows * 128 * 4 >> 20,
                "rss_mb": sum(after),
            }
        )
    )


if __name__ == "__main__":
    main()
