"""GUIM: both encoders and both losses as one Keras model for `model.fit`."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from guim_tf import schema as names
from guim_tf.config import LossConfig, ModelConfig, from_dict
from guim_tf.data import Events
from guim_tf.item_encoder import ItemEncoder
from guim_tf.keras_compat import keras, register
from guim_tf.losses import BatchItems, info_nce, retrieval_task
from guim_tf.masking import choose_masked, drop_ids
from guim_tf.mixture import mean_pairwise_cosine
from guim_tf.schema import Schema
from guim_tf.user_encoder import UserEncoder


@dataclasses.dataclass(frozen=True)
class TableRows:
    """Rows of the embedding tables."""

    items: int
    categories: int
    words: int
    actions: int = names.FIRST_ROW  # no action types

    @classmethod
    def of(cls, schema: Schema) -> "TableRows":
        return cls(schema.item_rows, schema.category_rows, schema.word_rows, schema.action_rows)


def present_events(events: Events) -> tf.Tensor:
    """Which events are real: `[B, N]` bool, False for padding."""
    return events[names.ITEM_INDEX] != names.PADDING_ROW


@register
class GUIM(tfrs.Model):
    """General user and item embeddings with a mixture of representation (Yang et al., 2022).

    `model.compile(optimizer); model.fit(load_dataset(...))` trains it; `model.predict` of the same
    batches gives `[users, C, d]`.

    Args:
      rows: sizes of the tables, `TableRows.of(schema)`.
      model: sizes of the network.
      loss: the two InfoNCE losses.
      sampling_probability: `[rows.items]`, how often one candidate of the softmax is each row of
        the item table (`measure_candidates`); needed where `loss.logq` is on.
      seed: of masking and of the draw of negatives. Initial weights and dropout follow
        `keras.utils.set_random_seed`.
    """

    def __init__(
        self,
        rows: TableRows,
        *,
        model: ModelConfig = ModelConfig(),
        loss: LossConfig = LossConfig(),
        sampling_probability: np.ndarray | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.rows = rows
        self.model_config = model
        self.loss_config = loss
        self.seed = seed
        self.item_encoder = ItemEncoder(
            model.embedding_dim,
            item_rows=rows.items,
            category_rows=rows.categories,
            word_rows=rows.words,
            item_id_dim=model.item_id_dim,
            category_dim=model.category_dim,
            word_dim=model.word_dim,
            activation=model.item_activation,
            name="item_encoder",
        )
        self.user_encoder = UserEncoder(
            model.interests,
            dim=model.embedding_dim,
            layers=model.layers,
            heads=model.heads,
            dropout=model.dropout,
            time_rows=model.time_rows,
            time_unit=names.TIME_UNITS[model.time_unit],
            norm_first=model.norm_first,
            mixture=model.mixture,
            action_rows=rows.actions if model.actions else None,
            name="user_encoder",
        )
        self.sampling_probability = self.add_weight(
            name="sampling_probability",
            shape=[rows.items],
            initializer=keras.initializers.Constant(1.0 / rows.items),
            trainable=False,
        )
        if sampling_probability is not None:
            self.sampling_probability.assign(sampling_probability)
        self.task = retrieval_task(loss.alpha)
        self.generator = tf.random.Generator.from_seed(seed, alg="philox")
        self.mean_loss = keras.metrics.Mean(name="loss")
        self.matching_loss = keras.metrics.Mean(name="matching_loss")
        self.mlm_loss = keras.metrics.Mean(name="mlm_loss")
        self.interest_cosine = keras.metrics.Mean(name="interest_cosine")
        self.build(None)

    def encode_items(self, items: Events) -> tf.Tensor:
        """Unit vectors of items: rows and title tokens -> `[..., d]`."""
        return tf.math.l2_normalize(self.item_encoder(items), axis=-1)

    def encode_users(self, history: Events, as_of: tf.Tensor) -> tf.Tensor:
        """The C vectors of users: events `[B, N]`, `[B]` int64 seconds -> `[B, C, d]`."""
        return self._encode_history(history, as_of, self.item_encoder(history))[0]

    def call(self, inputs: dict[str, Any], training: bool = False) -> tf.Tensor:
        """A batch of `load_dataset` -> `[B, C, d]`."""
        history = inputs["history"]
        return self._encode_history(
            history, inputs["as_of"], self.item_encoder(history), training=training
        )[0]

    def _encode_history(
        self, history: Events, as_of: tf.Tensor, items: tf.Tensor, **options: Any
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return self.user_encoder(
            items,
            timestamp=history[names.TIMESTAMP],
            as_of=as_of,
            present=present_events(history),
            action=history[names.ACTION_INDEX] if self.model_config.actions else None,
            **options,
        )

    def compute_loss(self, inputs: dict[str, Any], training: bool = False) -> tf.Tensor:
        """The sum of both losses over the batch (section 3.3), divided by its number of users."""
        history, targets = inputs["history"], inputs["targets"]
        seeds = self._seeds(training)
        in_history, in_targets = present_events(history), present_events(targets)
        masked = choose_masked(in_history, self.loss_config.mask_probability, seeds[0])
        history_vectors, target_vectors = (
            self._encode_with_hidden_ids(events, seed, training=training)
            for events, seed in ((history, seeds[3]), (targets, seeds[4]))
        )
        users, outputs = self._encode_history(
            history, inputs["as_of"], history_vectors, masked=masked, training=training
        )
        items = self._batch_items(
            [history, targets],
            [history_vectors, target_vectors],
            [in_history, in_targets],
        )
        is_target = tf.concat(
            [tf.zeros_like(in_history)[in_history], tf.ones_like(in_targets)[in_targets]], axis=0
        )
        is_masked = tf.concat([masked[in_history], tf.zeros_like(in_targets)[in_targets]], axis=0)
        options: dict[str, Any] = {
            "negatives_per_user": self.loss_config.negatives_per_user,
            "logq": self.loss_config.logq,
        }
        matching = info_nce(
            self.task,
            tf.gather(users, items.owner[is_target]),
            items,
            is_target,
            seed=seeds[1],
            **options,
        )
        mlm = info_nce(self.task, outputs[masked], items, is_masked, seed=seeds[2], **options)
        self._observe(users, matching, mlm, is_target, is_masked)
        loss = (matching + mlm + self._crowding(users, in_targets)) / tf.cast(
            tf.shape(users)[0], matching.dtype
        )
        self.mean_loss.update_state(loss)
        return loss

    def train_step(self, inputs: dict[str, Any]) -> dict[str, tf.Tensor]:
        super().train_step(inputs)
        return self.get_metrics_result()  # means over the pass; TFRS reports the last batch

    def test_step(self, inputs: dict[str, Any]) -> dict[str, tf.Tensor]:
        super().test_step(inputs)
        return self.get_metrics_result()

    def _encode_with_hidden_ids(
        self, events: Events, seed: tf.Tensor, *, training: bool
    ) -> tf.Tensor:
        share = self.loss_config.id_dropout
        if training and share:
            events = events | {names.ITEM_INDEX: drop_ids(events[names.ITEM_INDEX], share, seed)}
        return self.item_encoder(events)

    def _crowding(self, users: tf.Tensor, in_targets: tf.Tensor) -> tf.Tensor:
        """The penalty on interests that are alike, once a target: a scalar."""
        if not self.loss_config.diversity:
            return tf.constant(0.0)
        targets = tf.math.count_nonzero(in_targets, axis=1, dtype=tf.float32)
        return self.loss_config.diversity * tf.reduce_sum(
            targets * mean_pairwise_cosine(users, power=2)
        )

    def _seeds(self, training: bool) -> tf.Tensor:
        """`[5, 2]` seeds: new ones each training step, the same ones for every validation batch."""
        if not training:
            return tf.constant([[self.seed, i] for i in range(5)], tf.int64)
        return self.generator.uniform([5, 2], minval=None, maxval=None, dtype=tf.int64)

    def _batch_items(
        self, events: list[Events], vectors: list[tf.Tensor], present: list[tf.Tensor]
    ) -> BatchItems:
        def flat(values: list[tf.Tensor]) -> tf.Tensor:
            return tf.concat(
                [value[mask] for value, mask in zip(values, present, strict=True)], axis=0
            )

        index = flat([e[names.ITEM_INDEX] for e in events])
        return BatchItems(
            vector=flat(vectors),
            owner=tf.concat([tf.cast(tf.where(mask)[:, 0], tf.int32) for mask in present], axis=0),
            key=flat([e[names.ITEM_KEY] for e in events]),
            probability=tf.gather(self.sampling_probability, index),
        )

    def _observe(
        self,
        users: tf.Tensor,
        matching: tf.Tensor,
        mlm: tf.Tensor,
        is_target: tf.Tensor,
        is_masked: tf.Tensor,
    ) -> None:
        for metric, total, positives in (
            (self.matching_loss, matching, is_target),
            (self.mlm_loss, mlm, is_masked),
        ):
            count = tf.math.count_nonzero(positives, dtype=total.dtype)
            metric.update_state(tf.math.divide_no_nan(total, count), sample_weight=count)
        self.interest_cosine.update_state(mean_pairwise_cosine(users))

    def build(self, input_shape: Any) -> None:
        """Makes the variables; called by the constructor, for they depend on no batch."""
        one = tf.ones([1, 1], tf.int64)
        event = dict.fromkeys(names.EVENT_FEATURES, one) | {names.TITLE_TOKENS: one[None]}
        self.encode_users(event, tf.constant([2], tf.int64))
        self.built = True

    def get_build_config(self) -> dict[str, Any]:
        return {"input_shape": None}

    def get_config(self) -> dict[str, Any]:
        return {
            "rows": dataclasses.asdict(self.rows),
            "model": dataclasses.asdict(self.model_config),
            "loss": dataclasses.asdict(self.loss_config),
            "seed": self.seed,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "GUIM":
        del custom_objects
        sections = {"rows": TableRows, "model": ModelConfig, "loss": LossConfig}
        parsed = {
            name: from_dict(sections[name], value, where=name) if name in sections else value
            for name, value in config.items()
        }
        return cls(**parsed)
