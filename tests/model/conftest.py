"""A tiny schema, and batches whose every number is known."""

import numpy as np
import pytest
import tensorflow as tf

from guim_tf import schema as names
from guim_tf.keras_compat import keras
from guim_tf.schema import Schema, Vocabulary


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(1)


@pytest.fixture
def tiny_schema() -> Schema:
    return Schema(
        items=Vocabulary(30, "i"),
        categories=Vocabulary(5, "c"),
        words=Vocabulary(20, "w"),
        word_hash_rows=4,
        max_title_tokens=6,
        tokenizer="nfkc-lower-cjk-1",
        actions=(),
        first_timestamp=0,
        last_timestamp=1000 * 86_400,
        as_of=900 * 86_400,
    )


def make_events(rng: np.random.Generator, lengths: list[int], *, width: int, end: int) -> dict:
    """Dense events `[B, width]`, users of the given lengths, before the time `end`."""
    batch = len(lengths)
    present = np.arange(width)[None, :] < np.array(lengths)[:, None]
    item = rng.integers(2, 32, (batch, width)) * present
    return {
        names.TIMESTAMP: tf.constant(
            np.sort(rng.integers(1, end, (batch, width)), axis=1) * present, tf.int64
        ),
        names.ITEM_KEY: tf.constant(item * 1000, tf.int64),
        names.ITEM_INDEX: tf.constant(item, tf.int64),
        names.CATEGORY_INDEX: tf.constant(rng.integers(2, 7, (batch, width)) * present, tf.int64),
        names.ACTION_INDEX: tf.constant(present, tf.int64),
        names.TITLE_TOKENS: tf.constant(
            rng.integers(1, 25, (batch, width, 3)) * present[..., None], tf.int64
        ),
    }


@pytest.fixture
def batch() -> dict:
    """Four users with histories of 5, 3, 1, 4 events and 2, 1, 3, 2 targets, T = day 60."""
    rng = np.random.default_rng(0)
    return {
        "as_of": tf.fill([4], tf.constant(60 * 86_400, tf.int64)),
        "history": make_events(rng, [5, 3, 1, 4], width=5, end=60 * 86_400),
        "targets": make_events(rng, [2, 1, 3, 2], width=3, end=60 * 86_400),
    }
