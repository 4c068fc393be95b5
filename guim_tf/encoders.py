"""What exported encoders say of a catalogue and of users, a batch at a time."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  (the exported graphs tokenise with its ops)
from tqdm import tqdm

from guim_tf import artifacts
from guim_tf.catalogue import Catalogue
from guim_tf.schema import Schema
from guim_tf.user_batches import encode_in_batches, estimate_lengths

_BATCH = 256  # items in one call of a model


class ModelError(ValueError):
    """A SavedModel does not answer as its contract says."""


def load_encoder(
    models: str | pathlib.Path, name: str, *, schema: Schema | None = None, back: int = 0
) -> tuple[pathlib.Path, tf.Module]:
    """Loads the highest version of `<models>/<name>`, or the one so many versions back.

    With `schema`, of a data set, only once the model's is the same: rows then mean the same. A
    model that is given strings alone may be of another data set.
    """
    path = artifacts.latest(models, name, back=back)
    if schema is not None:
        Schema.load(path / artifacts.EXTRA).require_match(
            schema, mine=f"The model in {path}", theirs="the data set"
        )
    try:
        return path, tf.saved_model.load(str(path))
    except (OSError, ValueError, tf.errors.OpError) as e:
        raise ModelError(
            f"{path} can't be loaded as a SavedModel: {e}. Write it again with `guim export`."
        ) from e


class Items(Protocol):
    """What an item encoder is given: `[X]` text each, and how many they are."""

    @property
    def item_id(self) -> np.ndarray: ...

    @property
    def category_id(self) -> np.ndarray: ...

    @property
    def title(self) -> np.ndarray: ...

    def __len__(self) -> int: ...


def encode_items(model: tf.Module, items: Items, *, progress: bool = True) -> np.ndarray:
    """`[X, d]` float32 by the signature `encode_items`."""
    call = _signature(model, "encode_items", "item_embedding", rank=2)
    texts = {"item_id": items.item_id, "category_id": items.category_id, "title": items.title}
    found = []
    for start in tqdm(
        range(0, len(items), _BATCH), desc="encoding items", unit="batch", disable=not progress
    ):
        some = slice(start, start + _BATCH)
        found.append(call(**{name: tf.constant(x[some], tf.string) for name, x in texts.items()}))
    return np.concatenate(found)


def encode_users(
    model: tf.Module, examples: np.ndarray, *, as_of: int, progress: bool
) -> np.ndarray:
    """`[U, C, d]` float32 by the signature `encode_user_examples`, from records `[U]`."""
    call = _signature(model, "encode_user_examples", "user_embedding", rank=3)
    return encode_in_batches(
        lambda users: call(
            examples=tf.constant(examples[users], tf.string),
            as_of=tf.fill([len(users)], tf.constant(as_of, tf.int64)),
        ),
        estimate_lengths(examples),
        title="encoding users" if progress else None,
    )


def encode_histories(
    model: tf.Module,
    catalogue: Catalogue,
    rows: Sequence[np.ndarray],
    timestamps: Sequence[np.ndarray],
    *,
    as_of: int,
    progress: bool,
) -> np.ndarray:
    """`[U, C, d]` float32 by the signature `encode_users`, which any catalogue's items fit.

    Args:
      model: a user encoder that takes no action types.
      catalogue: of the items.
      rows: of each user, the catalogue rows of his events in time order.
      timestamps: of each user, int64 seconds.
      as_of: the moment, seconds.
      progress: shows a bar on stderr.
    """
    call = _signature(model, "encode_users", "user_embedding", rank=3)
    if "action" in model.signatures["encode_users"].structured_input_signature[1]:
        raise ModelError(
            "the model takes action types, which histories of a catalogue do not have: releases "
            "with model.actions can't be compared."
        )
    texts = {
        "item_id": catalogue.item_id,
        "category_id": catalogue.category_id,
        "title": catalogue.title,
    }

    lengths = np.array([len(events) for events in rows], np.int64)

    def encode(users: np.ndarray) -> np.ndarray:
        events = np.concatenate([rows[user] for user in users])
        real = np.arange(lengths[users].max()) < lengths[users, None]
        inputs = {name: np.full(real.shape, "", object) for name in texts}
        times = np.zeros(real.shape, np.int64)
        for name, text in texts.items():
            inputs[name][real] = text[events]
        times[real] = np.concatenate([timestamps[user] for user in users])
        return call(
            timestamp=tf.constant(times),
            as_of=tf.fill([len(users)], tf.constant(as_of, tf.int64)),
            **{name: tf.constant(text, tf.string) for name, text in inputs.items()},
        )

    return encode_in_batches(encode, lengths, title="encoding users" if progress else None)


def _signature(model: tf.Module, name: str, output: str, *, rank: int) -> Callable[..., np.ndarray]:
    """A signature as a function to its one output, checked to be finite numbers of that rank."""
    if name not in model.signatures:
        raise ModelError(
            f"the SavedModel has the signatures {sorted(model.signatures)}, expected {name!r}. "
            "Write it with `guim export`."
        )
    function = model.signatures[name]

    def call(**inputs: tf.Tensor) -> np.ndarray:
        outputs = function(**inputs)
        if output not in outputs:
            raise ModelError(f"{name} returns {sorted(outputs)}, expected {output!r}.")
        vectors = outputs[output].numpy()
        if vectors.ndim != rank:
            raise ModelError(f"{name}: {output} has shape {vectors.shape}, expected rank {rank}.")
        if not np.isfinite(vectors).all():
            raise ModelError(
                f"{name}: {output} holds NaN or infinity, expected numbers. The training run has "
                "diverged: train again with a lower learning rate."
            )
        return vectors

    return call
