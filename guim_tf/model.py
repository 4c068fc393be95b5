"""GUIM: both encoders and both losses as one Keras model for `model.fit`."""

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from guim_tf import schema as names
from guim_tf.batch_items import BatchEvents, collect, count_events, present_events
from guim_tf.config import LossConfig, ModelConfig, require_causal
from guim_tf.data import Events
from guim_tf.few_shapes import pad_rows, round_up
from guim_tf.graphs import as_it_is
from guim_tf.item_encoder import ItemEncoder
from guim_tf.keras_compat import keras, register
from guim_tf.layers.table import look_up
from guim_tf.losses import Candidates, InfoNCE
from guim_tf.masking import choose_masked
from guim_tf.mixture import mean_pairwise_cosine
from guim_tf.recompute import encode_in_parts
from guim_tf.replicas import Share, my_share, replicas
from guim_tf.schema import Schema
from guim_tf.side_by_side import encode_side_by_side
from guim_tf.strict_json import from_dict
from guim_tf.threads import BRANCHES
from guim_tf.user_encoder import UserEncoder

_GROUPS = 3  # of like length, in each branch: beyond that the operations cost more than the padding


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
      parts: of the users of a batch, that are encoded one after another: `TrainingConfig.parts`.
    """

    def __init__(
        self,
        rows: TableRows,
        *,
        model: ModelConfig = ModelConfig(),
        loss: LossConfig = LossConfig(),
        sampling_probability: np.ndarray | None = None,
        seed: int = 0,
        parts: int = 1,
        **kwargs: Any,
    ) -> None:
        require_causal(model, loss)
        super().__init__(**kwargs)
        self.rows = rows
        self.model_config = model
        self.loss_config = loss
        self.seed = seed
        self.parts = parts
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
            initializer=model.initializer,
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
        self.info_nce = InfoNCE(loss.alpha, loss.negatives_per_user, loss.logq)
        self.mean_loss = keras.metrics.Mean(name="loss")
        self.matching_loss = keras.metrics.Mean(name="matching_loss")
        self.mlm_loss = keras.metrics.Mean(name="mlm_loss")
        if loss.next_item:
            self.next_item_loss = keras.metrics.Mean(name="next_item_loss")
        self.interest_cosine = keras.metrics.Mean(name="interest_cosine")
        self.distribute_reduction_method = "first"  # of metrics: all replicas have the same
        self.build(None)

    def encode_items(self, items: Events) -> tf.Tensor:
        """Unit vectors of items: rows and title tokens -> `[..., d]`."""
        return tf.math.l2_normalize(self.item_encoder(items), axis=-1)

    def encode_users(self, history: Events, as_of: tf.Tensor) -> tf.Tensor:
        """The C vectors of users: events `[B, N]`, `[B]` int64 seconds -> `[B, C, d]`."""
        return self._encode_users(history, as_of)[0]

    def attend(self, history: Events, as_of: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """`encode_users`, and how much each vector attends to each event, `[B, C, N]`.

        Args:
          history: as of `encode_users`, padded at the end and no wider than the longest history.
        """
        users, _, attention = self._encode_users(history, as_of, return_attention=True)
        return users, attention

    def _encode_users(
        self, history: Events, as_of: tf.Tensor, **settings: Any
    ) -> tuple[tf.Tensor, ...]:
        present = present_events(history)
        events = {name: x[present] for name, x in history.items()}
        return self.user_encoder(
            self.item_encoder(events),
            lengths=count_events(present),
            timestamp=events[names.TIMESTAMP],
            as_of=as_of,
            action=events[names.ACTION_INDEX] if self.model_config.actions else None,
            **settings,
        )

    def call(self, inputs: dict[str, Any], training: bool = False) -> tf.Tensor:
        """A batch of `load_dataset` -> `[B, C, d]`."""
        del training  # dropout is a part of `compute_loss`
        return self.encode_users(inputs["history"], inputs["as_of"])

    def compute_loss(self, inputs: dict[str, Any], training: bool = False) -> tf.Tensor:
        """The sum of the losses over the batch (section 3.3), divided by its number of users.

        Of several replicas each has the terms of its own users; theirs add up to the whole.
        """
        if training:
            self._require_usable(inputs)
        number, count = replicas()
        users_of_all = tf.shape(inputs["as_of"])[0]
        share = my_share(users_of_all)
        if not self.loss_config.across_replicas:
            inputs = share.or_all(users_of_all).of_batch(inputs)
            share = Share(tf.zeros([], tf.int32), share.last - share.first)
        history, targets = inputs["history"], inputs["targets"]
        in_history = present_events(history)
        seeds = self._seeds(training)
        masked = choose_masked(in_history, self.loss_config.mask_probability, seeds[0])[in_history]
        events = collect(history, targets, inputs.get("negatives"))
        vectors = events.encode(
            self.item_encoder,
            id_dropout=self.loss_config.id_dropout if training else 0.0,
            seed=seeds[3],
        )
        candidates = self._candidates(events, vectors, inputs.get("catalogue_size"))
        lengths = count_events(in_history)
        # Events of the share's histories: those of all users come first, user by user.
        first, last = tf.reduce_sum(lengths[: share.first]), tf.reduce_sum(lengths[: share.last])
        masked = masked[first:last]
        earlier = share.rows(inputs["earlier"]) if "earlier" in inputs else None
        seeds += tf.cast(number, seeds.dtype)  # what follows is drawn for each replica
        actions = history[names.ACTION_INDEX][in_history] if self.model_config.actions else None
        encode = (
            functools.partial(encode_side_by_side, branches=BRANCHES, groups=_GROUPS)
            if self.parts == 1
            else functools.partial(encode_in_parts, parts=self.parts)
        )
        users, outputs = encode(
            self.user_encoder,
            tf.gather(vectors, events.item[first:last]),
            lengths=share.rows(lengths),
            timestamp=history[names.TIMESTAMP][in_history][first:last],
            as_of=share.rows(inputs["as_of"]),
            earlier=None if earlier is None else earlier["as_of"],
            masked=masked,
            action=None if actions is None else actions[first:last],
            seed=seeds[5] if training else None,
        )
        at, positive = _matches(
            share.rows(events.history),
            share.rows(events.targets),
            share.rows(present_events(targets)),
            earlier,
        )
        users = tf.reshape(users, [-1, *users.shape[-2:]])
        matching = self._info_nce(
            self.matching_loss, users, positive, candidates, seeds[1], query=at
        )
        hidden = _where(masked)
        mlm = self._info_nce(
            self.mlm_loss,
            self._predict_items(outputs, hidden),
            first + hidden,
            candidates,
            seeds[2],
        )
        loss = matching + mlm
        if self.loss_config.next_item:
            owner = events.owner[first:last]
            before = _where((owner[1:] == owner[:-1]) & ~masked[:-1])
            loss += self.loss_config.next_item * self._info_nce(
                self.next_item_loss,
                self._predict_items(outputs, before),
                first + before + 1,
                candidates,
                seeds[4],
            )
        targets_of = tf.math.bincount(at, minlength=tf.shape(users)[0], dtype=loss.dtype)
        if self.loss_config.diversity:  # once a target, as the matching loss
            crowding = tf.reduce_sum(targets_of * mean_pairwise_cosine(users, power=2))
            loss += self.loss_config.diversity * crowding
        self.interest_cosine.update_state(mean_pairwise_cosine(users), sample_weight=targets_of)
        loss /= tf.cast(users_of_all, loss.dtype)
        self.mean_loss.update_state(count * loss)
        return loss

    def _predict_items(self, outputs: tf.Tensor, where: tf.Tensor) -> tf.Tensor:
        """What is predicted at some events `[n]`, with more behind to make one of few sizes."""
        where = pad_rows(where, round_up(tf.shape(where)[0]))
        return self.user_encoder.predict_items(tf.gather(outputs, where))

    @as_it_is
    def train_step(self, inputs: dict[str, Any]) -> dict[str, tf.Tensor]:
        super().train_step(inputs)
        return self.get_metrics_result()  # means over the pass; TFRS reports the last batch

    @as_it_is
    def predict_step(self, inputs: dict[str, Any]) -> tf.Tensor:
        return super().predict_step(inputs)

    @as_it_is
    def test_step(self, inputs: dict[str, Any]) -> dict[str, tf.Tensor]:
        super().test_step(inputs)
        return self.get_metrics_result()

    def _require_usable(self, inputs: dict[str, Any]) -> None:
        """Refuses batches that would teach a model the future, or leave out what is asked for."""
        if "earlier" in inputs and not self.model_config.causal:
            raise ValueError(
                "batches with several cut-offs need ModelConfig(causal=True): an event would know "
                "later ones. Or load them with WindowConfig(cutoffs=1)."
            )
        if self.loss_config.catalogue_negatives and "negatives" not in inputs:
            raise ValueError(
                f"LossConfig.catalogue_negatives is {self.loss_config.catalogue_negatives}, but "
                "batches hold none. Load them with load_dataset(..., catalogue_negatives=...)."
            )

    def _seeds(self, training: bool) -> tf.Tensor:
        """`[6, 2]` seeds: those of the step in training, the same ones for every other batch."""
        if not training:
            return tf.constant([[self.seed, i] for i in range(6)], tf.int64)
        step = 0 if self.optimizer is None else tf.cast(self.optimizer.iterations, tf.int64)
        seed = tf.stack([tf.constant(self.seed, tf.int64), step])
        return tf.random.stateless_uniform([6, 2], seed, None, None, tf.int64)

    def _candidates(
        self, events: BatchEvents, vectors: tf.Tensor, catalogue_size: tf.Tensor | None
    ) -> Candidates:
        probability = look_up(self.sampling_probability, events.items[names.ITEM_INDEX])
        if self.loss_config.negatives_per_user is None:
            # Each item once: how likely is it among so many draws from users, and from anywhere?
            nobody = tf.shape(events.history)[0]
            of_users = tf.math.count_nonzero(events.owner != nobody, dtype=tf.float32)
            absent = of_users * tf.math.log1p(-probability)
            if catalogue_size is not None:
                drawn = tf.cast(tf.shape(events.owner)[0], tf.float32) - of_users
                absent += drawn * tf.math.log1p(-1.0 / tf.cast(catalogue_size, tf.float32))
            probability = -tf.math.expm1(absent)
        return Candidates(
            vectors, events.items[names.ITEM_KEY], probability, events.item, events.owner
        )

    def _info_nce(
        self,
        metric: keras.metrics.Mean,
        queries: tf.Tensor,
        positive: tf.Tensor,
        candidates: Candidates,
        seed: tf.Tensor,
        query: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """A loss, and its mean over the positives into `metric`."""
        total = self.info_nce(queries, positive, candidates, query=query, seed=seed)
        count = tf.cast(tf.shape(positive)[0], total.dtype)
        metric.update_state(tf.math.divide_no_nan(total, count), sample_weight=count)
        return total

    def build(self, input_shape: Any) -> None:
        """Makes the variables; called by the constructor, for they depend on no batch."""
        one = tf.ones([1, 1], tf.int64)
        event = dict.fromkeys(names.EVENT_FEATURES, one) | {names.TITLE_TOKENS: one[None]}
        self.encode_users(event, tf.constant([2], tf.int64))
        self.user_encoder.predict_items(tf.zeros([1, self.model_config.embedding_dim]))
        self.built = True

    def get_build_config(self) -> dict[str, Any]:
        return {"input_shape": None}

    def get_config(self) -> dict[str, Any]:
        return {
            "rows": dataclasses.asdict(self.rows),
            "model": dataclasses.asdict(self.model_config),
            "loss": dataclasses.asdict(self.loss_config),
            "seed": self.seed,
            "parts": self.parts,
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


def _matches(
    history: tf.Tensor,
    targets: tf.Tensor,
    in_targets: tf.Tensor,
    earlier: dict[str, tf.Tensor] | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Pairs of the matching loss: a cut-off of a user `[P]`, and an event after it `[P]`, int32.

    Cut-offs are numbered user by user, T first.

    Args:
      history: `[B, N]` events of each user's history, as in `BatchEvents`.
      targets: `[B, M]` events of his targets.
      in_targets: `[B, M]` bool, False for padding.
      earlier: of `data.earlier_cutoffs`.
    """
    where = tf.where(in_targets)  # user, event
    if earlier is None:
        return tf.cast(where[:, 0], tf.int32), tf.gather_nd(targets, where)
    before = tf.where(earlier["targets"])  # user, cut-off, event
    moments = 1 + tf.shape(earlier["as_of"], out_type=tf.int64)[1]
    at = tf.concat([where[:, 0] * moments, before[:, 0] * moments + 1 + before[:, 1]], axis=0)
    positive = tf.concat(
        [
            tf.gather_nd(targets, where),
            tf.gather_nd(history, tf.gather(before, [0, 2], axis=1)),
        ],
        axis=0,
    )
    return tf.cast(at, tf.int32), positive


def _where(condition: tf.Tensor) -> tf.Tensor:
    """`[n]` bool -> the places where it is true, int32."""
    return tf.cast(tf.where(condition)[:, 0], tf.int32)
