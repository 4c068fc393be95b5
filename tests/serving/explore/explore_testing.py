"""Small models that answer what the page asks, for any number of interests."""

import pathlib

import numpy as np
import serving_testing
import tensorflow as tf
from serving_testing import EVENTS, ITEMS

# Unit vectors of serving_testing.ITEMS: mug, cup, pan, sofa lie in a quarter of the circle.
TABLE = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1], [-1, 0], [0, -1]], np.float32)
TEXTS = tuple(tf.TensorSpec([None], tf.string, n) for n in ("item_id", "category_id", "title"))


class Users(tf.Module):
    """Everybody's interests are every other item: mug, pan, lamp, mug, ..."""

    def __init__(self, interests: int):
        super().__init__()
        self.vectors = tf.constant(TABLE[[(2 * c) % 6 for c in range(interests)]])

    @tf.function(input_signature=EVENTS)
    def encode_users(self, item_id, category_id, title, timestamp, as_of):
        del category_id, title, timestamp, as_of
        return {"user_embedding": tf.tile(self.vectors[tf.newaxis], [tf.shape(item_id)[0], 1, 1])}


class Items(tf.Module):
    """Vectors of TABLE."""

    @tf.function(input_signature=TEXTS)
    def encode_items(self, item_id, category_id, title):
        del category_id, title
        rows = tf.argmax(item_id[:, tf.newaxis] == tf.constant(ITEMS), axis=1)
        return {"item_embedding": tf.gather(TABLE, rows)}


class Index(serving_testing.Retrieval):
    """The index of serving_testing, and the inner product for users' vectors."""

    def __init__(self, interests: int):
        super().__init__()
        vectors = tf.TensorSpec([None, interests, 2], tf.float32, "user_embedding")
        k = tf.TensorSpec([], tf.int32, "k")
        self.nearest_items_to_user = tf.function(self._nearest, input_signature=[vectors, k])
        explained = tf.TensorSpec([None], tf.string, "explained_item_id")
        self.explain = tf.function(self._explain, input_signature=[*EVENTS, explained])
        self.users = Users(interests)

    def _nearest(self, user_embedding, k):
        scores = tf.reduce_max(tf.einsum("bcd,id->bci", user_embedding, TABLE), axis=1)
        score, rows = tf.math.top_k(scores, tf.minimum(k, 6))
        missing = [[0, 0], [0, k - tf.minimum(k, 6)]]
        return {
            "item_id": tf.pad(tf.gather(self.items, rows), missing, constant_values=""),
            "score": tf.pad(score, missing, constant_values=-1.0),
        }

    def _explain(self, item_id, category_id, title, timestamp, as_of, explained_item_id):
        """Attention grows with the place in the history: 1, 2, 3 ... parts of the whole."""
        users = self.users.encode_users(item_id, category_id, title, timestamp, as_of)
        item = tf.gather(TABLE, tf.argmax(explained_item_id[:, None] == self.items, axis=1))
        scores = tf.einsum("bcd,bd->bc", users["user_embedding"], item)
        places = tf.range(1, tf.shape(item_id)[1] + 1, dtype=tf.float32)
        parts = tf.where(item_id == "", 0.0, places)
        return {
            "interest": tf.argmax(scores, axis=1, output_type=tf.int32),
            "interest_score": scores,
            "attention": tf.math.divide_no_nan(parts, tf.reduce_sum(parts, 1, keepdims=True)),
        }


def save_models(folder: pathlib.Path, *, interests: int, explains: bool) -> None:
    index = ("recommend", "nearest_items", "nearest_items_to_user")
    for name, model, signatures in (
        ("retrieval", Index(interests), (*index, "explain") if explains else index),
        ("user_encoder", Users(interests), ("encode_users",)),
        ("item_encoder", Items(), ("encode_items",)),
    ):
        serving_testing.save(folder / name / "1", model, default=signatures[0], names=signatures)
