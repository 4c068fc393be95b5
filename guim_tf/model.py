"""GUIM: both encoders and both losses as one Keras model for `model.fit`."""

import dataclasses
import functools
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


_LENGTH_GROUPS = 4


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
            causal=model.causal,
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
        if loss.next_item:
            self.next_item_loss = keras.metrics.Mean(name="next_item_loss")
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

    def _encode_by_length(
        self,
        history: Events,
        as_of: tf.Tensor,
        items: tf.Tensor,
        *,
        masked: tf.Tensor,
        training: bool,
    ) -> tf.Tensor:
        """`_encode_history` of groups of users of like length, each as wide as its longest.

        Histories differ in length by orders of magnitude: in one go most of the work is padding.
        """
        present = present_events(history)
        lengths = tf.math.count_nonzero(present, axis=1, dtype=tf.int32)
        order = tf.argsort(lengths, stable=True)
        users, outputs = [], []
        width = tf.shape(present)[1]
        for group in range(_LENGTH_GROUPS):
            count = tf.shape(order)[0]
            some = order[count * group // _LENGTH_GROUPS : count * (group + 1) // _LENGTH_GROUPS]
            longest = tf.maximum(tf.reduce_max(tf.gather(lengths, some)), 1)

            def cut(x: tf.Tensor) -> tf.Tensor:
                return tf.gather(x, some)[:, :longest]  # noqa: B023

            vectors, positions = self.user_encoder(
                cut(items),
                timestamp=cut(history[names.TIMESTAMP]),
                as_of=tf.gather(as_of, some),
                present=cut(present),
                masked=cut(masked),
                action=cut(history[names.ACTION_INDEX]) if self.model_config.actions else None,
                training=training,
            )
            users.append(vectors)
            outputs.append(tf.pad(positions, [[0, 0], [0, width - longest], [0, 0]]))
        back = tf.argsort(order)
        return tf.gather(tf.concat(users, 0), back), tf.gather(tf.concat(outputs, 0), back)

    def compute_loss(self, inputs: dict[str, Any], training: bool = False) -> tf.Tensor:
        """The sum of both losses over the batch (section 3.3), divided by its number of users."""
        history, targets = inputs["history"], inputs["targets"]
        parts = [history, targets, *([inputs["negatives"]] if "negatives" in inputs else [])]
        seeds = self._seeds(training)
        in_history, in_targets, *_ = present = [present_events(part) for part in parts]
        masked = choose_masked(in_history, self.loss_config.mask_probability, seeds[0])
        vectors = self._encode_each_once(parts, seeds[3], training=training)
        users, outputs = self._encode_by_length(
            history, inputs["as_of"], vectors[0], masked=masked, training=training
        )
        items = self._batch_items(parts, vectors, present)

        def total(queries: tf.Tensor, marked: list[tf.Tensor | None], seed: tf.Tensor) -> tf.Tensor:
            """The loss of queries for the marked events: of the history, of the targets."""
            positive = [
                tf.zeros_like(where)[where] if mark is None else mark[where]
                for mark, where in zip([*marked, None], present, strict=False)
            ]
            return info_nce(
                self.task,
                queries,
                items,
                tf.concat(positive, axis=0),
                negatives_per_user=self.loss_config.negatives_per_user,
                logq=self.loss_config.logq,
                seed=seed,
            )

        owner = tf.where(in_targets)[:, 0]
        matching = total(tf.gather(users, owner), [None, in_targets], seeds[1])
        mlm = total(outputs[masked], [masked, None], seeds[2])
        loss = matching + mlm + self._crowding(users, in_targets)
        self._observe(self.matching_loss, matching, in_targets)
        self._observe(self.mlm_loss, mlm, masked)
        if self.loss_config.next_item:
            follows = in_history[:, 1:] & ~masked[:, :-1]
            following = total(
                outputs[:, :-1][follows], [tf.pad(follows, [[0, 0], [1, 0]]), None], seeds[4]
            )
            loss += self.loss_config.next_item * following
            self._observe(self.next_item_loss, following, follows)
        loss /= tf.cast(tf.shape(users)[0], loss.dtype)
        self.interest_cosine.update_state(mean_pairwise_cosine(users))
        self.mean_loss.update_state(loss)
        return loss

    def train_step(self, inputs: dict[str, Any]) -> dict[str, tf.Tensor]:
        super().train_step(inputs)
        return self.get_metrics_result()  # means over the pass; TFRS reports the last batch

    def test_step(self, inputs: dict[str, Any]) -> dict[str, tf.Tensor]:
        super().test_step(inputs)
        return self.get_metrics_result()

    def _encode_each_once(
        self, parts: list[Events], seed: tf.Tensor, *, training: bool
    ) -> list[tf.Tensor]:
        """Vectors `[..., d]` of the items of each part; the encoder sees each distinct one once."""
        shapes = [tf.shape(part[names.ITEM_KEY]) for part in parts]
        sizes = [tf.reduce_prod(shape) for shape in shapes]
        width = functools.reduce(
            tf.maximum, [tf.shape(part[names.TITLE_TOKENS])[-1] for part in parts]
        )

        def titles(tokens: tf.Tensor) -> tf.Tensor:
            have = tf.shape(tokens)[-1]
            return tf.pad(tf.reshape(tokens, [-1, have]), [[0, 0], [0, width - have]])

        keys, which = tf.unique(tf.concat([tf.reshape(p[names.ITEM_KEY], [-1]) for p in parts], 0))
        first = tf.math.unsorted_segment_min(tf.range(tf.shape(which)[0]), which, tf.shape(keys)[0])
        items = {
            name: tf.gather(tf.concat([tf.reshape(p[name], [-1]) for p in parts], 0), first)
            for name in (names.ITEM_INDEX, names.CATEGORY_INDEX)
        }
        items[names.TITLE_TOKENS] = tf.gather(
            tf.concat([titles(p[names.TITLE_TOKENS]) for p in parts], 0), first
        )
        if training and self.loss_config.id_dropout:
            items[names.ITEM_INDEX] = drop_ids(
                items[names.ITEM_INDEX], self.loss_config.id_dropout, seed
            )
        vectors = tf.gather(self.item_encoder(items), which)
        return [
            tf.reshape(part, tf.concat([shape, [self.model_config.embedding_dim]], 0))
            for part, shape in zip(tf.split(vectors, sizes), shapes, strict=True)
        ]

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

        users = tf.shape(present[0])[0]
        owners = [tf.cast(tf.where(mask)[:, 0], tf.int32) for mask in present[:2]]
        owners += [tf.fill([tf.shape(mask)[0]], users) for mask in present[2:]]
        probability = tf.gather(
            self.sampling_probability, flat([e[names.ITEM_INDEX] for e in events])
        )
        if self.loss_config.negatives_per_user is None:
            drawn = tf.cast(sum(tf.shape(owner)[0] for owner in owners[:2]), tf.float32)
            absent = drawn * tf.math.log1p(-probability)
            for owner in owners[2:]:
                uniform = tf.cast(tf.shape(owner)[0], tf.float32)
                absent += uniform * tf.math.log1p(-1.0 / self.rows.items)
            probability = -tf.math.expm1(absent)
        return BatchItems(
            vector=flat(vectors),
            owner=tf.concat(owners, axis=0),
            key=flat([e[names.ITEM_KEY] for e in events]),
            probability=probability,
        )

    @staticmethod
    def _observe(metric: keras.metrics.Mean, total: tf.Tensor, positive: tf.Tensor) -> None:
        count = tf.math.count_nonzero(positive, dtype=total.dtype)
        metric.update_state(tf.math.divide_no_nan(total, count), sample_weight=count)

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
