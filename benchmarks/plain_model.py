"""GUIM as it is first written down: what the package's own build is measured against.

Every user is padded to the longest length that the configuration allows, every event's item is
encoded where it stands, layers are TensorFlow's operations with the gradients that TensorFlow
derives, and the losses are the Retrieval task of TensorFlow Recommenders on all scores at once. The
variables, and up to rounding the loss, are those of `guim_tf.model.GUIM`.
"""

from typing import Any

import tensorflow as tf

import guim_tf  # noqa: F401  (selects Keras 2 before TensorFlow Recommenders loads it)

import tensorflow_recommenders as tfrs  # isort: skip

from guim_tf import schema as names
from guim_tf.batch_items import BatchEvents, collect, present_events
from guim_tf.data import Events
from guim_tf.keras_compat import keras, register
from guim_tf.layers import LayerNorm, Linear, TransformerBlock
from guim_tf.losses import draw_negatives, ownership
from guim_tf.masking import choose_masked, drop_ids
from guim_tf.mixture import mean_pairwise_cosine
from guim_tf.model import GUIM


@register
class PlainGUIM(GUIM):
    """The same model, plainly: for the mixture of CLS tokens in post-norm layers, without actions.

    Args:
      max_length: what histories are padded to.
      arguments: of `GUIM`.
    """

    def __init__(self, *arguments: Any, max_length: int, **named: Any) -> None:
        super().__init__(*arguments, **named)
        assert self.model_config.mixture == "tokens"
        assert not self.model_config.norm_first
        assert not self.model_config.actions
        self.max_length = max_length

    def train_step(self, inputs: dict[str, Any]) -> dict[str, tf.Tensor]:
        """By TFRS, with AutoGraph, which its Retrieval task needs in a graph."""
        return tfrs.Model.train_step(self, inputs)

    def compute_loss(self, inputs: dict[str, Any], training: bool = False) -> tf.Tensor:
        """As of `GUIM`."""
        history = {name: self._padded(x) for name, x in inputs["history"].items()}
        targets, negatives = inputs["targets"], inputs.get("negatives")
        earlier = inputs.get("earlier")
        seeds = self._seeds(training)
        present, in_targets = present_events(history), present_events(targets)
        masked = choose_masked(present, self.loss_config.mask_probability, seeds[0])
        items = self._encode_each(history, seeds[3], training)
        users, outputs = self._encode(
            items, history, present, masked, inputs["as_of"], earlier, training
        )
        outputs = _linear(self.user_encoder.item_projection, outputs)
        events = collect(history, targets, negatives)
        vectors = [items[present], self._encode_each(targets, seeds[3], training)[in_targets]]
        if negatives is not None:
            vectors.append(self._encode_each(negatives, seeds[3], training))
        vectors = tf.math.l2_normalize(tf.concat(vectors, axis=0), axis=-1)
        candidates = self._candidates(events, vectors, inputs.get("catalogue_size"))
        key, probability = (tf.gather(x, events.item) for x in candidates[1:3])
        first = tf.math.unsorted_segment_min(
            tf.range(tf.size(events.item)), events.item, tf.reduce_max(events.item) + 1
        )
        foreign = ~ownership(events.owner, events.item, tf.size(first))
        draws = self.loss_config.negatives_per_user

        def info_nce(queries: tf.Tensor, positive: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            owner = tf.gather(events.owner, positive)
            if draws is None:
                others, negative = first, tf.gather(foreign, owner)
            else:
                others = tf.range(tf.size(events.item))
                event, drawn = draw_negatives(owner, events.owner, draws, seed)
                where = tf.where(drawn)
                at = tf.stack([where[:, 0], tf.cast(tf.gather_nd(event, where), tf.int64)], axis=1)
                shape = tf.stack([tf.size(owner, tf.int64), tf.size(others, tf.int64)])
                negative = tf.scatter_nd(at, tf.ones([tf.shape(at)[0]], tf.int32), shape) > 0
            own = tf.eye(tf.size(positive), dtype=tf.bool)
            task = tfrs.tasks.Retrieval(
                temperature=1.0 / self.loss_config.alpha, remove_accidental_hits=True
            )
            vector, ids, chance = (
                tf.concat([tf.gather(x, positive), tf.gather(x, others)], axis=0)
                for x in (vectors, key, probability)
            )
            return task(
                tf.math.l2_normalize(queries, axis=-1),
                vector,
                candidate_sampling_probability=chance if self.loss_config.logq else None,
                candidate_ids=ids,
                score_mask=tf.concat([own, negative], axis=1),
                compute_metrics=False,
            )

        queries, positive = self._matches(users, in_targets, earlier, events)
        loss = info_nce(queries, positive, seeds[1])
        loss += info_nce(outputs[masked], events.history[masked], seeds[2])
        if self.loss_config.next_item:
            follows = present[:, 1:] & ~masked[:, :-1]
            loss += self.loss_config.next_item * info_nce(
                outputs[:, :-1][follows], events.history[:, 1:][follows], seeds[4]
            )
        if self.loss_config.diversity:
            crowding = tf.reduce_sum(mean_pairwise_cosine(queries, power=2))
            loss += self.loss_config.diversity * crowding
        loss /= tf.cast(tf.shape(present)[0], tf.float32)
        self.mean_loss.update_state(loss)
        return loss

    def _matches(
        self,
        users: tf.Tensor,
        in_targets: tf.Tensor,
        earlier: dict[str, tf.Tensor] | None,
        events: BatchEvents,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Users `[P, C, d]` and the events `[P]` that follow."""
        queries = tf.gather(users[:, 0], tf.where(in_targets)[:, 0])
        positive = events.targets[in_targets]
        if earlier is None:
            return queries, positive
        where = tf.where(earlier["targets"])  # in the batch's own width
        queries = tf.concat([queries, tf.gather_nd(users[:, 1:], where[:, :2])], axis=0)
        more = tf.gather_nd(events.history, tf.gather(where, [0, 2], axis=1))
        return queries, tf.concat([positive, more], axis=0)

    def _padded(self, x: tf.Tensor) -> tf.Tensor:
        missing = self.max_length - tf.shape(x)[1]
        return tf.pad(x, [[0, 0], [0, missing]] + [[0, 0]] * (x.shape.rank - 2))

    def _encode_each(self, events: Events, seed: tf.Tensor, training: bool) -> tf.Tensor:
        if training and self.loss_config.id_dropout:
            hidden = drop_ids(events[names.ITEM_INDEX], self.loss_config.id_dropout, seed)
            events = events | {names.ITEM_INDEX: hidden}
        return self.item_encoder(events)

    def _encode(
        self,
        items: tf.Tensor,
        history: Events,
        present: tf.Tensor,
        masked: tf.Tensor,
        as_of: tf.Tensor,
        earlier: dict[str, tf.Tensor] | None,
        training: bool,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Users `[B, 1 + G, C, d]` and the last layer at every event `[B, N, d]`."""
        encoder = self.user_encoder
        timestamp = history[names.TIMESTAMP]
        items = tf.where(masked[..., None], encoder.mask_vector, items)
        events = items + encoder.time_embedding(timestamp, as_of[:, None])
        batch, width = tf.shape(present)[0], tf.shape(present)[1]
        start = tf.tile(encoder.time_embedding.start()[None], [batch, 1, 1])
        cutoffs = as_of[:, None]
        if earlier is not None:
            more = earlier["as_of"]
            start = tf.concat([start, encoder.time_embedding(more, cutoffs)], axis=1)
            cutoffs = tf.concat([cutoffs, more], axis=1)
        moments, interests = tf.shape(cutoffs)[1], encoder.interests
        first = moments * interests
        cls = tf.reshape(start[:, :, None, :] + encoder.cls_table, [batch, first, encoder.dim])
        tokens = _norm(encoder.input_norm, tf.concat([cls, events], axis=1))
        tokens = _dropout(tokens, encoder.dropout, training)
        moment = tf.range(first) // interests
        among = tf.repeat((moment[:, None] == moment[None, :])[None], batch, axis=0)
        before = (timestamp[:, None, :] < cutoffs[:, :, None]) & present[:, None, :]
        of_events = tf.repeat(present[:, None, :], width, axis=1)
        if encoder.causal:
            of_events &= tf.range(width)[None, :] <= tf.range(width)[:, None]
        sees_cls = tf.fill([batch, width, first], not encoder.causal)
        visible = tf.concat(
            [
                tf.concat([among, tf.repeat(before, interests, axis=1)], axis=2),
                tf.concat([sees_cls, of_events], axis=2),
            ],
            axis=1,
        )
        for block in encoder.blocks:
            tokens = _block(block, tokens, visible, training)
        users = _linear(encoder.user_projection, tokens[:, :first])
        return tf.reshape(users, [batch, moments, interests, encoder.dim]), tokens[:, first:]


def _block(
    block: TransformerBlock, tokens: tf.Tensor, visible: tf.Tensor, training: bool
) -> tf.Tensor:
    attention, size = block.attention, block.dim // block.heads
    kernels = tf.reshape(attention.project.kernel, [block.dim, 3, block.heads, size])
    biases = tf.reshape(attention.project.bias, [3, block.heads, size])
    query, key, value = (
        tf.einsum("bsd,dhe->bshe", tokens, kernels[:, part]) + biases[part] for part in range(3)
    )
    logits = tf.einsum("bshe,bthe->bhst", query * size**-0.5, key)
    logits += (1.0 - tf.cast(visible[:, None], tf.float32)) * logits.dtype.min
    weights = _dropout(tf.nn.softmax(logits), block.dropout, training)
    mixed = tf.einsum("bhst,bthe->bshe", weights, value)
    mixed = tf.reshape(mixed, tf.shape(tokens))
    mixed = _dropout(_linear(attention.mix, mixed), block.dropout, training)
    tokens = _norm(block.attention_norm, tokens + mixed)
    hidden = tf.nn.gelu(_linear(block.expand, tokens))
    out = _dropout(_linear(block.contract, hidden), block.dropout, training)
    return _norm(block.output_norm, tokens + out)


def _linear(layer: Linear, x: tf.Tensor) -> tf.Tensor:
    return tf.tensordot(x, layer.kernel, axes=1) + layer.bias


def _norm(layer: LayerNorm, x: tf.Tensor) -> tf.Tensor:
    mean, variance = tf.nn.moments(x, axes=[-1], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, layer.beta, layer.gamma, 1e-12)


def _dropout(x: tf.Tensor, rate: float, training: bool) -> tf.Tensor:
    return tf.nn.dropout(x, rate) if training and rate else x


def plain_optimizer(learning_rate: float) -> keras.optimizers.Optimizer:
    """AdamW that moves every row of every table at every step."""
    return keras.optimizers.AdamW(learning_rate, weight_decay=0.01, global_clipnorm=1.0)
