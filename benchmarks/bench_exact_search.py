"""Speed and memory of exact search over a catalogue. Prints one JSON line.

The reference is the same product of user and item vectors, block by block, with nothing done to the
scores, by numpy and by TensorFlow; `ratio` is to the faster. Search and references take turns, each
on a part of the users, for other work on the machine slows them all.

    python benchmarks/bench_exact_search.py [--users 2000] [--items 1000000] [--interests 4]

The size of the design is --users 100000.
"""

import argparse
import json
import os
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from guim_tf.evaluation.search import COSINE, SCORES, search

T = TypeVar("T")
DIM = 128
ROWS, COLUMNS = 2048, 4096  # of a block of the plain product
PART = 4  # the references do one in so many of the blocks


def vectors(rows: int, seed: int) -> np.ndarray:
    """`[rows, DIM]` float32, made in chunks: float64 of all at once would be the peak."""
    generator = np.random.default_rng(seed)
    made = np.empty((rows, DIM), np.float32)
    for start in range(0, rows, 65_536):
        part = made[start : start + 65_536]
        generator.standard_normal(part.shape, np.float32, out=part)
    return made


def plain_numpy(users: np.ndarray, items: np.ndarray) -> None:
    out = np.empty((ROWS, COLUMNS), np.float32)
    for column in range(0, len(items), COLUMNS):
        b = items[column : column + COLUMNS]
        for row in range(0, len(users), ROWS):
            a = users[row : row + ROWS]
            np.matmul(a, b.T, out=out[: len(a), : len(b)])


def plain_tensorflow(users: np.ndarray, items: np.ndarray) -> None:
    import tensorflow as tf

    parts = [tf.constant(users[row : row + ROWS]) for row in range(0, len(users), ROWS)]
    for column in range(0, len(items), COLUMNS):
        b = tf.constant(items[column : column + COLUMNS])
        for a in parts:
            tf.matmul(a, b, transpose_b=True).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--interests", type=int, default=4)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--score", choices=SCORES, default=COSINE)
    arguments = parser.parse_args()

    users = vectors(arguments.users * arguments.interests, seed=0)
    items = vectors(arguments.items, seed=1)
    products = {"numpy": plain_numpy, "tensorflow": plain_tensorflow}
    for product in products.values():
        product(users[:ROWS], items[:COLUMNS])  # the first call pays for threads and buffers
    flops = dict.fromkeys(("search", *products), 0)
    seconds, cores = dict.fromkeys(flops, 0.0), dict.fromkeys(flops, 0.0)

    def measured(name: str, rows: int, columns: int, call: Callable[[], T]) -> T:
        start, start_cores = time.perf_counter(), time.process_time()
        answer = call()
        seconds[name] += time.perf_counter() - start
        cores[name] += time.process_time() - start_cores
        flops[name] += 2 * rows * columns * DIM
        return answer

    share = max(1000, -(-arguments.users // 8)) * arguments.interests
    first = None
    for start in range(0, len(users), share):
        part = users[start : start + share]
        sets = part.reshape(-1, arguments.interests, DIM)
        found = measured(
            "search",
            len(part),
            len(items),
            partial(search, sets, items, arguments.k, score=arguments.score),
        )
        first = found if first is None else first
        some = items[: -(-len(items) // PART)]
        for name, product in products.items():
            measured(name, len(part), len(some), partial(product, part, some))
    assert first is not None
    gflops = {name: flops[name] / seconds[name] / 1e9 for name in flops}
    per_core = {name: flops[name] / cores[name] / 1e9 for name in flops}
    best = max(products, key=lambda name: gflops[name])
    print(
        json.dumps(
            {
                "benchmark": "exact_search",
                "users": arguments.users,
                "interests": arguments.interests,
                "items": arguments.items,
                "dimension": DIM,
                "k": arguments.k,
                "score": arguments.score,
                "seconds": round(seconds["search"], 1),
                "users_per_second": round(arguments.users / seconds["search"], 1),
                "gflops": {name: round(x, 1) for name, x in gflops.items()},
                "gflops_per_core_second": {name: round(x, 1) for name, x in per_core.items()},
                "plain": best,
                "ratio": round(gflops["search"] / gflops[best], 3),
                "ratio_per_core_second": round(per_core["search"] / per_core[best], 3),
                "peak_rss_gb": round(
                    resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 2
                ),
            }
        )
    )


if __name__ == "__main__":
    main()
