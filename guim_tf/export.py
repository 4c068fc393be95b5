"""`guim export`: the best weights of runs as SavedModels `user_encoder` and `item_encoder`."""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from guim_tf import schema as names
from guim_tf.alignment import align
from guim_tf.artifacts import Signatures, Warmup, save
from guim_tf.catalogue import Catalogue
from guim_tf.config import Config, ModelConfig
from guim_tf.data import Events, history_at, window
from guim_tf.ensemble import Ensemble, load_ensemble
from guim_tf.graphs import trace
from guim_tf.keras_compat import keras
from guim_tf.lookup import ActionTable, Lookups
from guim_tf.model import GUIM
from guim_tf.runs import has_chosen
from guim_tf.schema import Schema
from guim_tf.strict_json import ConfigError

USER_ENCODER = "user_encoder"
ITEM_ENCODER = "item_encoder"

# Signature inputs of a history: `[B, N]` events in time order, padding has the item id "".
EVENTS = {
    "item_id": tf.TensorSpec([None, None], tf.string, "item_id"),
    "category_id": tf.TensorSpec([None, None], tf.string, "category_id"),
    "title": tf.TensorSpec([None, None], tf.string, "title"),
    "timestamp": tf.TensorSpec([None, None], tf.int64, "timestamp"),
    "as_of": tf.TensorSpec([None], tf.int64, "as_of"),
}
_COLUMN = "column"  # of an event in a request, from 1
ACTION = tf.TensorSpec([None, None], tf.string, "action")


def action_inputs(config: ModelConfig) -> list[tf.TensorSpec]:
    """What a model that uses action types takes beside `EVENTS`."""
    return [ACTION] if config.actions else []


def _require_one_shape(**columns: tf.Tensor) -> None:
    """Masking reads as much of a longer column as it needs, and would pair the wrong events."""
    (_, first), *others = columns.items()
    for name, column in others:
        tf.debugging.assert_equal(
            tf.shape(column), tf.shape(first), message=f"{name}: expected the shape of item_id"
        )


@dataclasses.dataclass(frozen=True)
class ExportResult:
    """The folders that were written.

    aligned_to: the item encoder whose space the vectors were turned to, or None. cosine_before,
    cosine_after: mean cosine of the items with it, without and with that.
    """

    user_encoder: str
    item_encoder: str
    aligned_to: str | None = None
    cosine_before: float | None = None
    cosine_after: float | None = None


class Turn(tf.Module):
    """Vectors `[..., d]` into the space of an earlier model, or as they are.

    Args:
      rotation: `[d, d]` of `alignment.align`, or None.
    """

    def __init__(self, rotation: np.ndarray | None) -> None:
        super().__init__()
        self._rotation = None if rotation is None else tf.Variable(rotation, trainable=False)

    def __call__(self, vectors: tf.Tensor) -> tf.Tensor:
        if self._rotation is None:
            return vectors
        return tf.tensordot(vectors, self._rotation, axes=1)


class ItemEncoderModule(tf.Module):
    """What `item_encoder` serves: `[B]` ids, categories and titles -> `[B, d]` unit vectors."""

    def __init__(self, model: GUIM | Ensemble, lookups: Lookups, turn: Turn) -> None:
        super().__init__()
        self.weights = _weights(model.item_encoder)
        self._encode = model.encode_items
        self.lookups = lookups
        self.turn = turn

    def encode_items(
        self, item_id: tf.Tensor, category_id: tf.Tensor, title: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        vectors = self._encode(
            {
                names.ITEM_INDEX: self.lookups.items(item_id),
                names.CATEGORY_INDEX: self.lookups.categories(category_id),
                names.TITLE_TOKENS: self.lookups.words(title).to_tensor(),
            }
        )
        return {"item_embedding": self.turn(vectors)}

    def signatures(self) -> Signatures:
        texts = [tf.TensorSpec([None], tf.string, x) for x in ("item_id", "category_id", "title")]
        encode_items = trace(self.encode_items, texts)
        return {"serving_default": encode_items, "encode_items": encode_items}

    def warmup(self) -> Warmup:
        one = tf.constant(["warm-up"])
        return {"encode_items": {"item_id": one, "category_id": one, "title": one}}


class UserEncoderModule(tf.Module):
    """What `user_encoder` serves: histories at a moment -> `[B, C, d]`, and what they attend to."""

    def __init__(
        self,
        model: GUIM | Ensemble,
        lookups: Lookups,
        schema: Schema,
        config: Config,
        turn: Turn,
    ) -> None:
        super().__init__()
        self.turn = turn
        self.weights = _weights(model.item_encoder) + _weights(model.user_encoder)
        self.lookups = lookups
        if config.model.actions:
            self.actions = ActionTable(schema.actions)
        self._encode = model.encode_users
        self._attend = model.attend
        self._shape = [None, config.model.interests, config.model.embedding_dim]
        self._schema = schema
        self._config = config

    def encode_users(
        self,
        item_id: tf.Tensor,
        category_id: tf.Tensor,
        title: tf.Tensor,
        timestamp: tf.Tensor,
        as_of: tf.Tensor,
        action: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Events outside of [as_of - D1, as_of) are dropped, then all but the last max_length."""
        history = self._history(item_id, category_id, title, timestamp, as_of, action)
        users = self.turn(self._encode(history, as_of))
        return {"user_embedding": tf.ensure_shape(users, self._shape)}

    def encode_users_with_attention(
        self,
        item_id: tf.Tensor,
        category_id: tf.Tensor,
        title: tf.Tensor,
        timestamp: tf.Tensor,
        as_of: tf.Tensor,
        action: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """The same, and how much each vector attends to each event; 0 for what was dropped."""
        history = self._history(item_id, category_id, title, timestamp, as_of, action)
        column = history[_COLUMN]
        shape = [*tf.unstack(tf.shape(item_id, tf.int64)), self._shape[1]]
        users, attention = self._attend(history, as_of)
        kept = tf.where(column > 0)  # user, place in `attention`
        at = tf.stack([kept[:, 0], tf.gather_nd(column, kept) - 1], axis=1)
        of_event = tf.scatter_nd(at, tf.gather_nd(tf.transpose(attention, [0, 2, 1]), kept), shape)
        return {
            "user_embedding": tf.ensure_shape(self.turn(users), self._shape),
            "attention": tf.transpose(of_event, [0, 2, 1]),
        }

    def _history(
        self,
        item_id: tf.Tensor,
        category_id: tf.Tensor,
        title: tf.Tensor,
        timestamp: tf.Tensor,
        as_of: tf.Tensor,
        action: tf.Tensor | None,
    ) -> Events:
        """The events of a request that the encoder sees; `_COLUMN` says where they stood."""
        _require_one_shape(
            item_id=item_id,
            category_id=category_id,
            title=title,
            timestamp=timestamp,
            **({} if action is None else {"action": action}),
        )
        tf.debugging.assert_equal(
            tf.size(as_of), tf.shape(item_id)[0], message="as_of: expected a moment for each row"
        )
        present = item_id != ""
        ids = tf.ragged.boolean_mask(item_id, present)
        columns = tf.broadcast_to(
            tf.range(1, tf.shape(item_id, tf.int64)[1] + 1), tf.shape(item_id)
        )
        sequences = {
            _COLUMN: tf.ragged.boolean_mask(columns, present),
            names.TIMESTAMP: tf.ragged.boolean_mask(timestamp, present),
            names.ITEM_INDEX: ids.with_values(self.lookups.items(ids.values)),
            names.CATEGORY_INDEX: ids.with_values(
                self.lookups.categories(tf.boolean_mask(category_id, present))
            ),
            names.TITLE_TOKENS: ids.with_values(
                self.lookups.words(tf.boolean_mask(title, present))
            ),
        }
        if action is not None:
            sequences[names.ACTION_INDEX] = ids.with_values(
                self.actions(tf.boolean_mask(action, present))
            )
        start = as_of - self._config.window.history_days * names.DAY
        return window(sequences, start, as_of, last=self._config.window.max_length)

    def encode_user_examples(self, examples: tf.Tensor, as_of: tf.Tensor) -> dict[str, tf.Tensor]:
        """Users given by their training records."""
        history = history_at(examples, as_of, self._schema, self._config.window)
        users = self.turn(self._encode(history, as_of))
        return {"user_embedding": tf.ensure_shape(users, self._shape)}

    def signatures(self) -> Signatures:
        events = [*EVENTS.values(), *action_inputs(self._config.model)]
        examples = [tf.TensorSpec([None], tf.string, "examples"), EVENTS["as_of"]]
        encode_users = trace(self.encode_users, events)
        return {
            "serving_default": encode_users,
            "encode_users": encode_users,
            "encode_user_examples": trace(self.encode_user_examples, examples),
            "encode_users_with_attention": trace(self.encode_users_with_attention, events),
        }

    def warmup(self) -> Warmup:
        return {"encode_users": warmup_history(self._schema, self._config.model)}


def _weights(encoders: keras.layers.Layer | list[keras.layers.Layer]) -> list[tf.Variable]:
    """What is saved of layers: with them Keras would trace and save each one's call too."""
    return [weight for layer in tf.nest.flatten(encoders) for weight in layer.weights]


def warmup_history(schema: Schema, config: ModelConfig) -> dict[str, tf.Tensor]:
    """A request with one user of one event, the day before `schema.as_of`."""
    text = tf.constant([["warm-up"]])
    return {spec.name: text for spec in action_inputs(config)} | {
        "item_id": text,
        "category_id": text,
        "title": text,
        "timestamp": tf.constant([[schema.as_of - names.DAY]], tf.int64),
        "as_of": tf.constant([schema.as_of], tf.int64),
    }


def export(
    *,
    run: str | pathlib.Path | Sequence[str | pathlib.Path],
    models: str | pathlib.Path,
    align_to: str | pathlib.Path | None = None,
    dataset: str | pathlib.Path | None = None,
) -> ExportResult:
    """Writes the next version of both encoders from the best weights of a run.

    Args:
      run: what `guim train` wrote; several that differ in their seed alone give one model, whose
        vectors are theirs side by side (`ensemble`).
      models: folder of all models.
      align_to: a folder of models; the vectors are turned to the space of the highest version
        there, which changes no score (`alignment`). It may be `models`.
      dataset: what the run was trained on; needed for that, and for several runs with C > 1.

    Raises:
      ConfigError, SchemaError: a folder is no run, or no epoch of it has ended; runs differ in more
        than their seed; the data set is not that of the run.
      ArtifactError, ModelError: the models to align to can't be read.
    """
    runs = [run] if isinstance(run, str | pathlib.Path) else list(run)
    model, config, schema = load_ensemble(runs, dataset)
    if not has_chosen(runs[0]):
        print(
            f"{runs[0]} has not finished, so that no weights of habits and of what sells were "
            "chosen: lists go without. The same `guim train` again chooses them.",
            file=sys.stderr,
        )
    lookups = Lookups(runs[0], schema)
    alignment = None
    if align_to is not None:
        if dataset is None:
            raise ConfigError("--align-to needs --dataset: items to align by are read from there.")
        Schema.load(dataset).require_match(schema, mine=f"{dataset}", theirs=f"the run {runs[0]}")
        catalogue = Catalogue(dataset)
        vectors = [model.encode_items(batch).numpy() for batch in catalogue.batches()]
        alignment = align(np.concatenate(vectors), catalogue, align_to)
    turn = Turn(None if alignment is None else alignment.rotation)
    items = ItemEncoderModule(model, lookups, turn)
    users = UserEncoderModule(model, lookups, schema, config, turn)
    saved = [
        save(
            module,
            name=name,
            models=models,
            signatures=module.signatures(),
            schema=schema,
            config=config,
            warmup=module.warmup(),
        )
        for name, module in ((ITEM_ENCODER, items), (USER_ENCODER, users))
    ]
    return ExportResult(
        item_encoder=str(saved[0]),
        user_encoder=str(saved[1]),
        aligned_to=str(alignment.reference) if alignment else None,
        cosine_before=alignment.cosine_before if alignment else None,
        cosine_after=alignment.cosine_after if alignment else None,
    )


def main(argv: list[str] | None = None) -> int:
    """The command `guim export`."""
    parser = argparse.ArgumentParser(
        prog="guim export",
        description="Writes the best weights of a run, or of several as one model, as SavedModels "
        "user_encoder and item_encoder, each as its next version.",
        epilog="examples:\n"
        "  guim export --run work/run --models saved_models\n"
        "  guim export --run work/run-2 --models saved_models --align-to saved_models \\\n"
        "      --dataset work/today\n"
        "  guim export --run work/seed-0 work/seed-1 work/seed-2 --models saved_models \\\n"
        "      --dataset work/dataset\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--run",
        required=True,
        nargs="+",
        action="extend",
        help="folder that `guim train` wrote; of several that differ in their seed alone, the "
        "vectors stand side by side",
    )
    parser.add_argument("--models", default="saved_models", help="folder of all models")
    parser.add_argument(
        "--align-to",
        metavar="MODELS",
        help="folder of models: turn the vectors to the space of its highest version, so that what "
        "was made for those goes on with these; scores do not change",
    )
    parser.add_argument(
        "--dataset",
        help="data set of the run: for --align-to, and for several runs with C > 1",
    )
    arguments = parser.parse_args(argv)
    try:
        result = export(
            run=arguments.run,
            models=arguments.models,
            align_to=arguments.align_to,
            dataset=arguments.dataset,
        )
    except ValueError as e:
        print(f"guim export: {e}", file=sys.stderr)
        return 2
    print(json.dumps(dataclasses.asdict(result)))
    return 0
