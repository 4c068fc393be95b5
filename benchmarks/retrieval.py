"""ScaNN against exact search, and what an index costs in memory. Prints one JSON line.

Both builds of the retrieval model are made by the project's own `write_index` from the same item
vectors, saved, and loaded again. Users ask the saved `nearest_items_to_user` with C vectors each,
so that a time is that of the whole answer: C searches, their merging and the ids. Both builds take
turns at every batch size, for other work on the machine slows them all; each is given its best.
`recall_at_100` is the share of the items on the exact build's lists that ScaNN's lists hold.

Memory is that of a process of its own, which loads an index and asks once, above that of another
one with an index of 1,000 items. `index_over_vectors_bytes` is the difference over the bytes of the
vectors as float32: codes, ids, categories and look-up tables are in it.

Vectors are clustered: a centre for every 250 items, drawn evenly from the sphere; a vector is a
centre plus normal noise of length 0.7, made a unit again, so that its cosine with the centre is
0.82. A user's C vectors are drawn likewise, each from a cluster of its own. `--noise-only` draws
all of them evenly from the sphere, where no index can do much; the build is then refused but for a
lower `--min-recall`.

    python benchmarks/retrieval.py [--items 1000000] [--interests 4] [--noise-only]
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

ITEMS_OF_A_CLUSTER = 250
NOISE = 0.7
SMALL = 1_000  # items of the index whose process is subtracted
CATEGORIES = 1_000
K = 100
BATCHES = (1, 16, 64, 256)  # users
ROUNDS = 5  # that the builds take turns in, at every batch size
MIN_RECALL = 0.98
EXACT, SCANN = "exact", "scann"


def vectors(
    items: int, users: int, interests: int, dim: int, *, noise_only: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Items `[X, d]` and users `[U, C, d]`, unit vectors."""
    generator = np.random.default_rng(0)
    clusters = max(interests, items // ITEMS_OF_A_CLUSTER)
    centres = unit(generator.standard_normal((clusters, dim), np.float32))

    def draw(cluster: np.ndarray) -> np.ndarray:
        noise = generator.standard_normal((len(cluster), dim), np.float32)
        return unit(noise if noise_only else centres[cluster] + NOISE * dim**-0.5 * noise)

    made = np.empty((items, dim), np.float32)
    for start in range(0, items, 65_536):
        part = made[start : start + 65_536]
        part[:] = draw(generator.integers(0, clusters, len(part)))
    of_users = np.stack(
        [generator.choice(clusters, interests, replace=False) for _ in range(users)]
    )
    return made, draw(of_users.ravel()).reshape(users, interests, dim)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def write(
    folder: pathlib.Path, embedding: np.ndarray, interests: int, build: str, min_recall: float = 0.0
) -> Any:
    """An index with an untrained encoder of users beside it, small but whole."""
    from guim_tf.config import Config, ModelConfig
    from guim_tf.encoders import load_encoder
    from guim_tf.export import USER_ENCODER, Turn, UserEncoderModule, save
    from guim_tf.index_items import IndexItems
    from guim_tf.lookup import Lookups
    from guim_tf.model import GUIM, TableRows
    from guim_tf.retrieval import write_index
    from guim_tf.schema import VOCABULARY_FILES, Schema, write_vocabulary

    words = {name: ["a", "b"] for name in VOCABULARY_FILES}
    tables = {
        name: write_vocabulary(folder / VOCABULARY_FILES[name], tokens, [1, 1])
        for name, tokens in words.items()
    }
    schema = Schema(
        **tables,
        word_hash_rows=4,
        max_title_tokens=4,
        tokenizer="nfkc-lower-cjk-1",
        actions=(),
        first_timestamp=0,
        last_timestamp=2,
        as_of=1,
    )
    dim = embedding.shape[1]
    config = Config(model=ModelConfig(interests=interests, embedding_dim=dim, layers=1))
    if not (folder / USER_ENCODER).exists():
        model = GUIM(TableRows.of(schema), model=config.model)
        users = UserEncoderModule(model, Lookups(folder, schema), schema, config, Turn(None))
        save(
            users,
            name=USER_ENCODER,
            models=folder,
            signatures=users.signatures(),
            schema=schema,
            config=config,
            warmup=users.warmup(),
        )
    count = len(embedding)
    items = IndexItems(
        item_id=np.array([f"item-{row}" for row in range(count)], object),
        category_id=np.array([f"category-{row % CATEGORIES}" for row in range(count)], object),
        title=np.full(count, "", object),
        count=np.ones(count, np.int64),
        recent_buyers=np.zeros(count, np.int64),
    )
    return write_index(
        items,
        embedding,
        models=folder,
        build=build,
        user_encoder=load_encoder(folder, USER_ENCODER)[1],
        schema=schema,
        config=config,
        min_recall=min_recall,
    )


def load(folder: str) -> Any:
    """`nearest_items_to_user` of a saved index."""
    import scann  # noqa: F401  (its operations)
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  (its operations)

    model = tf.saved_model.load(folder)
    function = model.signatures["nearest_items_to_user"]

    def ask(users: np.ndarray) -> np.ndarray:
        answer = function(user_embedding=tf.constant(users), k=tf.constant(K))
        return answer["item_id"].numpy()

    return model, ask


def memory(folder: str, users: np.ndarray) -> dict[str, int]:
    """Bytes of this process once it has loaded and asked an index: now, and at most so far."""
    _model, ask = load(folder)
    ask(users)
    status = dict(
        line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines()
    )
    return {name: 1024 * int(status[name].split()[0]) for name in ("VmRSS", "VmHWM")}


def grown(small: str, large: str, interests: int, dim: int) -> dict[str, int]:
    """By how much a process is larger with one index than another with the other."""
    found = []
    for folder in (small, large):
        arguments = ["--measure", folder, "--interests", str(interests), "--dim", str(dim)]
        done = subprocess.run(
            [sys.executable, __file__, *arguments], check=True, capture_output=True, text=True
        )
        found.append(json.loads(done.stdout))
    return {name: found[1][name] - found[0][name] for name in found[0]}


def speed(asks: dict[str, Any], users: np.ndarray) -> dict[str, dict[int, float]]:
    """Seconds a user of each build at each batch size."""
    found: dict[str, dict[int, float]] = {name: {} for name in asks}
    for batch in BATCHES:
        if batch > len(users):
            continue
        for ask in asks.values():
            ask(users[:batch])  # the first call of a shape pays for buffers
        for turn in range(ROUNDS):
            for name, ask in asks.items():
                calls = 1 if name == EXACT else max(1, 64 // batch)
                start = time.perf_counter()
                for call in range(calls):
                    at = (turn + call) * batch % (len(users) - batch + 1)
                    ask(users[at : at + batch])
                seconds = (time.perf_counter() - start) / (calls * batch)
                found[name][batch] = min(seconds, found[name].get(batch, seconds))
    return found


def compare(
    *, items: int, interests: int, dim: int, users: int, noise_only: bool, min_recall: float
) -> dict[str, Any]:
    """Builds, loads, measures."""
    embedding, of_users = vectors(items, users, interests, dim, noise_only=noise_only)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        small = {
            build: write(folder, embedding[:SMALL], interests, build).folder
            for build in (EXACT, SCANN)
        }
        made = {
            build: write(folder, embedding, interests, build, min_recall)
            for build in (EXACT, SCANN)
        }
        sizes = {build: grown(small[build], made[build].folder, interests, dim) for build in made}
        loaded = {build: load(made[build].folder) for build in made}
        asks = {build: ask for build, (_, ask) in loaded.items()}
        seconds = speed(asks, of_users)
        best = {
            build: min(times, key=lambda batch: times[batch]) for build, times in seconds.items()
        }
        lists = {
            build: np.concatenate(
                [ask(of_users[start : start + 16]) for start in range(0, users, 16)]
            )
            for build, ask in asks.items()
        }
    hits = [len(np.intersect1d(a, b)) for a, b in zip(lists[EXACT], lists[SCANN], strict=True)]
    report = made[SCANN].report
    ratio = {build: sizes[build]["VmRSS"] / embedding.nbytes for build in sizes}
    return {
        "benchmark": "retrieval",
        "items": items,
        "dimension": dim,
        "interests": interests,
        "vectors": "noise" if noise_only else "clustered",
        "users": users,
        "recall_at_100": round(float(np.mean(hits)) / lists[EXACT].shape[1], 4),
        "speedup_over_exact": round(seconds[EXACT][best[EXACT]] / seconds[SCANN][best[SCANN]], 1),
        "speedup_of_one_user": round(seconds[EXACT][1] / seconds[SCANN][1], 1),
        "ms_per_user": {
            b: {n: round(1e3 * s, 3) for n, s in t.items()} for b, t in seconds.items()
        },
        "index_over_vectors_bytes": round(ratio[SCANN], 3),
        "exact_over_vectors_bytes": round(ratio[EXACT], 3),
        "peak_over_vectors_bytes": round(sizes[SCANN]["VmHWM"] / embedding.nbytes, 3),
        "build_s": report.seconds,
        "index": {
            "leaves": report.leaves,
            "leaves_to_search": report.leaves_to_search,
            "reordered": report.reordered,
            "recall": report.recall,
        },
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--interests", type=int, default=4)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--users", type=int, default=512)
    parser.add_argument("--min-recall", type=float, default=MIN_RECALL)
    parser.add_argument("--noise-only", action="store_true", help="vectors without clusters")
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure:
        one = np.ones([1, arguments.interests, arguments.dim], np.float32)
        print(json.dumps(memory(arguments.measure, one)))
        return
    settings = vars(arguments)
    settings.pop("measure")
    print(json.dumps(compare(**settings)))


if __name__ == "__main__":
    main()
