"""Speed of training against the plain build of the same model. Prints one JSON line.

Both builds train on the same batches in processes of their own, in turns, for other work on the
machine slows them all. The plain one (`plain_model.py`) pads every user to the longest length,
encodes every event's item, moves all rows of all tables and computes in float32. Tokens are real
events of histories; `peak_fraction` is the products that the model needs (no padding, each distinct
item once) over those of large plain matrices in the same precision and process.

    python benchmarks/train.py [--dataset DIR] [--tables own|paper] [--mode tuned|paper]
        [--set loss.logq=true] [--steps 24]

Without a data set a synthetic shop is made. `--tables paper` gives the tables 200,000 ids, 10,000
categories and 530,000 words, and spreads the data set's rows over them.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

PAPER_TABLES = {"items": 200_002, "categories": 10_002, "words": 530_016}
ROUNDS = 4  # that the builds take turns in
BUILDS = ("packed", "plain")


class Build:
    """One build of the model with its batches, in this process."""

    def __init__(
        self, name: str, dataset: str, tables: str, mode: str, settings: list[str]
    ) -> None:
        import tensorflow as tf
        from plain_model import PlainGUIM, plain_optimizer

        from guim_tf import schema as names
        from guim_tf.config import MODES, configure
        from guim_tf.data import load_dataset
        from guim_tf.keras_compat import keras
        from guim_tf.model import GUIM, TableRows
        from guim_tf.optimizers import build_optimizer
        from guim_tf.schema import Schema

        config = configure(MODES[mode](), settings)
        keras.utils.set_random_seed(0)
        own = TableRows.of(Schema.load(dataset))
        rows = table_rows(tables, own)
        batches = load_dataset(
            dataset,
            window=config.window,
            batch_size=config.training.batch_size,
            catalogue_negatives=config.loss.catalogue_negatives,
        ).repeat()
        if rows != own:
            batches = batches.map(lambda batch: spread(batch, own, rows, names))
        sizes = {"model": config.model, "loss": config.loss}
        if name == "plain":
            self.model = PlainGUIM(rows, max_length=config.window.max_length, **sizes)
            self.model.compile(plain_optimizer(config.training.learning_rate))
        else:
            self.model = GUIM(rows, **sizes)
            self.model.compile(build_optimizer(config.training, total_steps=10_000))
        self.model.optimizer.build(self.model.trainable_variables)
        self._tf, self._names, self._config = tf, names, config
        self._batches: Iterator[Any] = iter(batches.prefetch(tf.data.AUTOTUNE))
        self._specification = [batches.element_spec]  # any width of a batch, traced once
        self._step = self._traced(self.model.train_step)
        for _ in range(4):  # traces, and rows of state that are touched first
            self._step(next(self._batches))

    def run(self, steps: int) -> dict[str, float]:
        """Trains for so many steps: seconds in all and waiting for input, tokens, products."""
        waited, batches = 0.0, []
        start = time.perf_counter()
        for _ in range(steps):
            before = time.perf_counter()
            batches.append(next(self._batches))
            waited += time.perf_counter() - before
            loss = self._step(batches[-1])["loss"]
        assert float(loss) > 0
        seconds = time.perf_counter() - start
        tokens = sum(float(self._count(batch["history"])) for batch in batches)
        flops = sum(map(self._flops, batches))
        return {"seconds": seconds, "input": waited, "tokens": tokens, "flops": flops}

    def parts(self, steps: int) -> dict[str, float]:
        """Seconds a step in the forward pass, the backward pass and the update."""
        tf, model = self._tf, self.model

        def forward(batch: Any) -> Any:
            return model.compute_loss(batch, training=True)

        def backward(batch: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = model.compute_loss(batch, training=True)
            gradients = tape.gradient(loss, model.trainable_variables)
            # Every gradient is needed, and no table's is made dense.
            values = [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients]
            return tf.add_n([tf.reshape(x, [-1])[0] for x in values])

        batches = [next(self._batches) for _ in range(steps)]
        until = [_seconds(self._traced(function), batches) for function in (forward, backward)]
        until.append(_seconds(lambda batch: self._step(batch)["loss"], batches))
        return {
            "forward": until[0],
            "backward": until[1] - until[0],
            "update": until[2] - until[1],
        }

    def _traced(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return self._tf.function(function, input_signature=self._specification)

    def peak(self) -> float:
        """Floating-point operations a second in large products of this process's precision."""
        from guim_tf.threads import BRANCHES

        tf = self._tf
        many = [tf.random.normal([1, 2048, 2048]) for _ in range(BRANCHES)]
        products = tf.function(lambda: tf.add_n([tf.linalg.matmul(a, a)[0, 0, 0] for a in many]))
        flops = len(many) * 2 * 2048**3
        return max(flops / _seconds(lambda _: products(), [None] * 8) for _ in range(3))

    def _count(self, events: Any) -> Any:
        return self._tf.math.count_nonzero(events[self._names.ITEM_INDEX])

    def _flops(self, batch: Any) -> float:
        """Products of a step: forward, and twice that backward."""
        import numpy as np

        names, model, loss = self._names, self._config.model, self._config.loss
        d, interests = model.embedding_dim, model.interests
        present = batch["history"][names.ITEM_INDEX].numpy() != 0
        cls = interests * self._config.window.cutoffs
        tokens = present.sum(axis=1) + cls
        keys = [
            batch[part][names.ITEM_KEY].numpy().ravel()
            for part in ("history", "targets", "negatives")
            if part in batch
        ]
        items = len(np.unique(np.concatenate(keys))) - 1  # without padding's key
        matches = float(self._count(batch["targets"]))
        if "earlier" in batch:
            matches += np.count_nonzero(batch["earlier"]["targets"])
        events = float(present.sum())
        features = model.item_id_dim + model.category_dim + model.word_dim
        predicted = events * (loss.mask_probability + (loss.next_item > 0))  # about
        draws = loss.negatives_per_user
        candidates = items if draws is None else draws * (len(present) - 1)
        forward = (
            model.layers * (tokens.sum() * 24 * d * d + (tokens**2).sum() * 4 * d)
            + (len(present) * cls + predicted) * 2 * d * d
            + items * 2 * features * d
            + (matches * interests + predicted) * candidates * 2 * d
        )
        return 3 * float(forward)


def table_rows(tables: str, own: Any) -> Any:
    """Sizes of the tables: the data set's own, the paper's, or so many rows of items."""
    if tables == "own":
        return own
    if tables == "paper":
        return dataclasses.replace(own, **PAPER_TABLES)
    return dataclasses.replace(own, items=int(tables))


def spread(batch: Any, own: Any, rows: Any, names: Any) -> Any:
    """The batch with the data set's rows spread evenly over larger tables; special rows stay."""
    import tensorflow as tf

    def move(index: Any, mine: int, all_rows: int) -> Any:
        stride = (all_rows - names.FIRST_ROW) // (mine - names.FIRST_ROW)
        moved = (index - names.FIRST_ROW) * stride + names.FIRST_ROW
        return tf.where(index < names.FIRST_ROW, index, moved)

    sizes = {
        names.ITEM_INDEX: (own.items, rows.items),
        names.CATEGORY_INDEX: (own.categories, rows.categories),
        names.TITLE_TOKENS: (own.words, rows.words),
    }
    for part in {"history", "targets", "negatives"} & set(batch):
        batch[part] = batch[part] | {
            name: move(batch[part][name], *size) for name, size in sizes.items()
        }
    return batch


def _seconds(function: Callable[[Any], Any], batches: list[Any]) -> float:
    """Of one call, the first of two rounds being for tracing."""
    for _ in range(2):
        start = time.perf_counter()
        for batch in batches:
            function(batch).numpy()
        seconds = (time.perf_counter() - start) / len(batches)
    return seconds


def serve(name: str, dataset: str, tables: str, mode: str, settings: list[str]) -> None:
    """Answers lines of `run N` and `report N` on standard input, a JSON line each."""
    from guim_tf import precision, threads

    if name == "plain":
        os.environ[precision.VARIABLE] = "FP32"
    else:  # as `guim train` does
        precision.prefer_bfloat16()
        threads.prefer_branches()
    build = Build(name, dataset, tables, mode, settings)
    print(json.dumps({"ready": name}), flush=True)
    for line in sys.stdin:
        command, number = line.split()
        if command == "run":
            answer = build.run(int(number))
        else:
            rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            answer = {"rss_mb": rss}
            if int(number):
                answer |= {"peak": build.peak(), **build.parts(int(number))}
        print(json.dumps(answer), flush=True)


class Child:
    """A build in a process of its own."""

    def __init__(
        self, name: str, dataset: str, tables: str, mode: str, settings: Sequence[str] = ()
    ) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, __file__, "--build", name, "--dataset", dataset),
                *("--tables", tables, "--mode", mode),
                *(part for setting in settings for part in ("--set", setting)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.totals: dict[str, float] = {}

    def answer(self) -> dict[str, float]:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"a build has ended with status {self._process.wait()}")
        return json.loads(line)

    def ask(self, line: str) -> dict[str, float]:
        self._process.stdin.write(line + "\n")  # type: ignore[union-attr]
        self._process.stdin.flush()  # type: ignore[union-attr]
        return self.answer()

    def run(self, steps: int) -> None:
        for key, value in self.ask(f"run {steps}").items():
            self.totals[key] = self.totals.get(key, 0.0) + value

    def close(self) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()


def compare(
    dataset: str, tables: str, mode: str, settings: list[str], steps: int
) -> dict[str, Any]:
    """Both builds in turns."""
    children = {}
    for name in BUILDS:
        children[name] = Child(name, dataset, tables, mode, settings)
        children[name].answer()
    for _ in range(ROUNDS):
        for child in children.values():
            child.run(max(1, steps // ROUNDS))
    reports = {name: child.ask("report 4") for name, child in children.items()}
    for child in children.values():
        child.close()
    packed, plain = (children[name].totals for name in BUILDS)
    speed, plain_speed = (x["tokens"] / x["seconds"] for x in (packed, plain))
    report = reports["packed"]
    return {
        "benchmark": "train",
        "mode": mode,
        "settings": settings,
        "tables": tables,
        "steps": ROUNDS * max(1, steps // ROUNDS),
        "tokens_per_s": round(speed),
        "plain_tokens_per_s": round(plain_speed),
        "ratio": round(speed / plain_speed, 2),
        "peak_fraction": round(packed["flops"] / packed["seconds"] / report["peak"], 3),
        "plain_peak_fraction": round(
            plain["flops"] / plain["seconds"] / reports["plain"]["peak"], 3
        ),
        "peak_gflops": round(report["peak"] / 1e9),
        "plain_peak_gflops": round(reports["plain"]["peak"] / 1e9),
        "input_share": round(packed["input"] / packed["seconds"], 3),
        **{f"{part}_ms": round(1000 * report[part]) for part in ("forward", "backward", "update")},
        **{
            f"plain_{part}_ms": round(1000 * reports["plain"][part])
            for part in ("forward", "backward", "update")
        },
        "rss_mb": report["rss_mb"],
        "plain_rss_mb": reports["plain"]["rss_mb"],
    }


def synthetic_dataset(folder: pathlib.Path) -> str:
    from beam_pipelines.build_dataset import build_dataset
    from guim_tf.datasets import synthetic

    mapping = synthetic.generate(output=folder / "input", users=2000, items=3000)
    build_dataset(mapping_file=mapping, output=folder / "dataset")
    return str(folder / "dataset")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", help="folder that build-dataset wrote")
    parser.add_argument(
        "--tables", default="own", help="own, paper, or rows of the item table (default: own)"
    )
    parser.add_argument("--mode", choices=("tuned", "paper"), default="tuned")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        help="change one value of the mode; may be repeated",
    )
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--build", choices=BUILDS, help=argparse.SUPPRESS)  # this is a child
    arguments = parser.parse_args()
    kind = (arguments.tables, arguments.mode, arguments.set)
    if arguments.build:
        serve(arguments.build, arguments.dataset, *kind)
        return
    with tempfile.TemporaryDirectory() as folder:
        dataset = arguments.dataset or synthetic_dataset(pathlib.Path(folder))
        print(json.dumps(compare(dataset, *kind, arguments.steps)))


if __name__ == "__main__":
    main()
