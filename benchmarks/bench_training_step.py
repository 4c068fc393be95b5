"""Speed of a training step in paper sizes. Prints one JSON line.

The reference, in the same run, is the encoder alone on the same batches, forward and backward:
`ratio` is what both losses, the item tables and the optimiser cost on top of it.

    python benchmarks/bench_training_step.py [--steps 30]
"""

import argparse
import itertools
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

import guim_tf  # noqa: F401  (selects Keras 2 before TensorFlow loads it)
from beam_pipelines.build_dataset import build_dataset
from guim_tf import schema as names
from guim_tf.batch_items import present_events
from guim_tf.config import LossConfig, TrainingConfig
from guim_tf.data import load_dataset
from guim_tf.datasets import synthetic
from guim_tf.model import GUIM, TableRows
from guim_tf.optimizers import build_optimizer
from guim_tf.schema import Schema


def seconds_a_step(step: Callable[[dict], object], batches: list[dict], steps: int) -> float:
    for batch in batches:
        step(batch)  # traces every shape
    start = time.perf_counter()
    for batch in itertools.islice(itertools.cycle(batches), steps):
        step(batch)
    return (time.perf_counter() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        mapping = synthetic.generate(output=folder / "input", users=600, items=1500)
        build_dataset(mapping_file=mapping, output=folder / "dataset")
        schema = Schema.load(folder / "dataset")
        batches = list(load_dataset(folder / "dataset").take(6))
    model = GUIM(TableRows.of(schema), loss=LossConfig(logq=True))
    model.compile(optimizer=build_optimizer(TrainingConfig(), total_steps=1000))

    @tf.function(reduce_retracing=True)
    def whole_step(batch: dict) -> None:
        model.train_step(batch)

    @tf.function(reduce_retracing=True)
    def encoder_step(items: tf.Tensor, batch: dict) -> list:
        with tf.GradientTape() as tape:
            outputs = model.user_encoder(
                items,
                timestamp=batch["history"][names.TIMESTAMP],
                as_of=batch["as_of"],
                present=present_events(batch["history"]),
                training=True,
            )
            total = tf.add_n([tf.reduce_sum(output) for output in outputs])
        variables = model.user_encoder.trainable_variables
        return [g for g in tape.gradient(total, variables) if g is not None]

    def encoder_alone(batch: dict) -> object:
        return encoder_step(model.item_encoder(batch["history"]), batch)

    reference = seconds_a_step(encoder_alone, batches, steps)
    seconds = seconds_a_step(whole_step, batches, steps)
    events = sum(
        int(tf.reduce_sum(tf.cast(present_events(b["history"]), tf.int32))) for b in batches
    )
    print(
        json.dumps(
            {
                "benchmark": "training_step",
                "batch": 32,
                "events_per_second": round(events / len(batches) / seconds),
                "milliseconds": round(1000 * seconds, 1),
                "reference_milliseconds": round(1000 * reference, 1),
                "ratio": round(seconds / reference, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
