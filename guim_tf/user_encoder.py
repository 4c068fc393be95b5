"""The user side: C CLS tokens and a history through BERT layers to C vectors (section 3.2)."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from guim_tf import schema as names
from guim_tf.few_shapes import pad_rows
from guim_tf.keras_compat import keras, register
from guim_tf.layers import InterestHeads, LayerNorm, Linear, Table, TimeEmbedding, TransformerBlock
from guim_tf.layers.dropout import dropout
from guim_tf.packing import Group, Packing, as_rows, pack


@register
class UserEncoder(keras.layers.Layer):
    """`<(CLS_1, t0), ..., (CLS_C, t0), (j_1, t_1), ..., (j_N, t_N)>` through L layers.

    Args:
      interests: C, the number of vectors a user.
      dim: size of a vector, d.
      layers: L.
      heads: attention heads of each layer.
      dropout: rate in the layers and on their input.
      time_rows: ages with a vector of their own.
      initializer: of the layers' kernels, as of `Linear`.
      norm_first: pre-norm layers, and a norm after the last one.
      mixture: "tokens": C CLS tokens give the C vectors. "heads": there is one, and C heads of
        another attention layer on top give them (GUIM-MH, section 4.3.2).
      action_rows: rows of the table of action types, or None where they are not used.
      time_unit: seconds of age that share a vector.
      causal: events attend to themselves and to earlier events; CLS tokens attend to all.
    """

    def __init__(
        self,
        interests: int,
        *,
        dim: int,
        layers: int,
        heads: int,
        dropout: float,
        time_rows: int,
        initializer: str = "bert",
        norm_first: bool = False,
        mixture: str = "tokens",
        action_rows: int | None = None,
        time_unit: int = names.DAY,
        causal: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._config = {
            "interests": interests,
            "dim": dim,
            "layers": layers,
            "heads": heads,
            "dropout": dropout,
            "time_rows": time_rows,
            "initializer": initializer,
            "norm_first": norm_first,
            "mixture": mixture,
            "action_rows": action_rows,
            "time_unit": time_unit,
            "causal": causal,
        }
        self.interests = interests
        self.cls_tokens = 1 if mixture == "heads" else interests
        self.dim = dim
        self.causal = causal
        self.time_embedding = TimeEmbedding(time_rows, dim=dim, unit=time_unit, name="time")
        self.action_table = Table(action_rows, dim, name="action") if action_rows else None
        self.input_norm = LayerNorm(name="input_norm")
        self.dropout = dropout
        self.blocks = [
            TransformerBlock(
                dim,
                heads=heads,
                dropout=dropout,
                initializer=initializer,
                norm_first=norm_first,
                name=f"block_{i}",
            )
            for i in range(layers)
        ]
        self.output_norm = LayerNorm(name="output_norm") if norm_first else None
        self.interest_heads = (
            InterestHeads(interests, dim=dim, dropout=dropout, name="interest_heads")
            if mixture == "heads"
            else None
        )
        self.user_projection = Linear(dim, initializer="glorot", name="f_u")
        self.item_projection = Linear(dim, initializer="glorot", name="f_o")

    def build(self, input_shape: Any) -> None:
        self.cls_table = self.add_weight(
            name="cls_table",
            shape=[self.cls_tokens, self.dim],
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
        )
        self.mask_vector = self.add_weight(
            name="mask_vector",
            shape=[self.dim],
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
        )
        super().build(input_shape)

    def call(
        self,
        items: tf.Tensor,
        *,
        lengths: tf.Tensor,
        timestamp: tf.Tensor,
        as_of: tf.Tensor,
        earlier: tf.Tensor | None = None,
        masked: tf.Tensor | None = None,
        action: tf.Tensor | None = None,
        seed: tf.Tensor | None = None,
        groups: int = 1,
        return_attention: bool = False,
    ) -> tuple[tf.Tensor, ...]:
        """Encodes histories. E is the number of events of all users, user by user in time order.

        Args:
          items: `[E, d]` vectors of the events' items.
          lengths: `[B]` int32, events of each user.
          timestamp: `[E]` int64 seconds.
          as_of: `[B]` int64 seconds, the cut-off T.
          earlier: `[B, G]` int64 seconds before T: more cut-offs, for a causal encoder. Each has
            CLS tokens of its own, which see the events before it, and has its age before T in the
            place of t0.
          masked: `[E]` bool, events whose item is replaced by MASK; time and action stay.
          action: `[E]` int64 rows of the action table, if there is one.
          seed: `[2]` int64 of dropout, which is on with it.
          groups: of users of like length, to save padding where histories differ much.
          return_attention: gives a third result; outside of training.

        Returns:
          The users `[B, C, d]`, with `earlier` `[B, 1 + G, C, d]` of which T comes first; the last
          layer at every event `[E, d]`, for `predict_items`; and on request how much each of the C
          vectors of T attends to each event of the user, `[B, C, W]` with W the longest history.
          That is the last attention there is: of a CLS token in the last layer, the mean of its
          heads; with mixture "heads" of the vector's own head. What is left of 1 goes to CLS
          tokens.
        """
        if masked is not None:
            items = tf.where(masked[:, None], self.mask_vector, items)
        owner = tf.repeat(tf.range(tf.shape(lengths)[0]), lengths)
        events = items + self.time_embedding(timestamp, tf.gather(as_of, owner))
        if self.action_table is not None:
            events += self.action_table(action)
        batch = tf.shape(lengths)[0]
        start = tf.tile(self.time_embedding.start()[None], [batch, 1, 1])
        cutoffs = as_of[:, None]
        if earlier is not None:
            start = tf.concat([start, self.time_embedding(earlier, cutoffs)], axis=1)
            cutoffs = tf.concat([cutoffs, earlier], axis=1)
        moments = tf.shape(cutoffs)[1]
        cls = tf.reshape(start[:, :, None, :] + self.cls_table, [-1, self.dim])
        packing = pack(lengths, cls_tokens=moments * self.cls_tokens, groups=groups)
        visible = [self._visible(group, timestamp, cutoffs) for group in packing.groups]
        count = tf.shape(events)[0]
        tokens = pad_rows(tf.concat([cls, events], axis=0), packing.size)
        tokens = self.input_norm(tokens)
        tokens = dropout(tokens, self.dropout, seed, 0)
        for number, block in enumerate(self.blocks):
            entering = tokens
            tokens = block(
                tokens, packing=packing, visible=visible, seed=_of_layer(seed, 1 + number)
            )
        if self.output_norm is not None:
            tokens = self.output_norm(tokens)
        users, outputs, _ = tf.split(tokens, [packing.first, count, packing.size - packing.real])
        if self.interest_heads is not None:
            users = self._by_heads(tokens, packing, visible, _of_layer(seed, 1 + len(self.blocks)))
        users = self.user_projection(users)
        shape = [batch, moments, self.interests, self.dim]
        users = tf.reshape(users, shape if earlier is not None else [batch, *shape[2:]])
        if not return_attention:
            return users, outputs
        attended = entering if self.interest_heads is None else tokens
        return users, outputs, self._attention(attended, packing, visible)

    def predict_items(self, outputs: tf.Tensor) -> tf.Tensor:
        """f_o: some of the last layer's events `[n, d]` -> what is predicted there, `[n, d]`."""
        return self.item_projection(outputs)

    def _by_heads(
        self,
        tokens: tf.Tensor,
        packing: Packing,
        visible: Sequence[tf.Tensor],
        seed: tf.Tensor | None,
    ) -> tf.Tensor:
        """The C vectors of each CLS token, `[B * moments * C, d]`."""
        found = []
        for number, ([rows], seen) in enumerate(
            zip(as_rows(packing, tokens), visible, strict=True)
        ):
            cls = tf.shape(rows)[2] - tf.shape(packing.groups[number].present)[1]
            of_cls = seen[:, :cls]
            found.append(self.interest_heads(rows[0], visible=of_cls, seed=seed, salt=number))
        order = tf.concat([group.users for group in packing.groups], axis=0)
        by_user = tf.gather(tf.concat(found, axis=0), tf.argsort(order))
        return tf.reshape(by_user, [-1, self.dim])

    def _attention(
        self, tokens: tf.Tensor, packing: Packing, visible: Sequence[tf.Tensor]
    ) -> tf.Tensor:
        """`call`'s attention `[B, C, W]`, from what enters the last attention there is."""
        of_cls = [seen[:, : self.cls_tokens] for seen in visible]
        if self.interest_heads is None:
            by_head = self.blocks[-1].attention_weights(tokens, packing=packing, visible=of_cls)
            weights = [tf.reduce_mean(x, axis=0) for x in by_head]
        else:
            rows = zip(as_rows(packing, tokens), of_cls, strict=True)
            weights = [
                self.interest_heads.attention_weights(x[0], visible=seen)[:, 0]
                for [x], seen in rows
            ]
        widths = [tf.shape(group.present)[1] for group in packing.groups]
        longest = tf.reduce_max(tf.stack(widths))
        to_events = [
            tf.pad(x[:, :, tf.shape(x)[2] - width :], [[0, 0], [0, 0], [0, longest - width]])
            for x, width in zip(weights, widths, strict=True)
        ]
        order = tf.concat([group.users for group in packing.groups], axis=0)
        return tf.gather(tf.concat(to_events, axis=0), tf.argsort(order))

    def _visible(self, group: Group, timestamp: tf.Tensor, cutoffs: tf.Tensor) -> tf.Tensor:
        """`[b, S, S]` bool, whether a token (row) attends to another."""
        cutoffs = tf.gather(cutoffs, group.users)
        timestamp = tf.gather(timestamp, group.events)
        present = group.present
        moments, width = tf.shape(cutoffs)[1], tf.shape(present)[1]
        first = moments * self.cls_tokens
        of_moment = tf.range(first) // self.cls_tokens
        among_cls = tf.repeat(
            (of_moment[:, None] == of_moment[None, :])[None], tf.shape(present)[0], axis=0
        )
        before = (timestamp[:, None, :] < cutoffs[:, :, None]) & present[:, None, :]
        of_cls = tf.concat([among_cls, tf.repeat(before, self.cls_tokens, axis=1)], axis=2)
        events = tf.repeat(present[:, None, :], width, axis=1)
        sees_cls = tf.fill([tf.shape(present)[0], width, first], not self.causal)
        if self.causal:
            place = tf.range(width)
            events &= place[None, :] <= place[:, None]
        return tf.concat([of_cls, tf.concat([sees_cls, events], axis=2)], axis=1)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | self._config


def _of_layer(seed: tf.Tensor | None, number: int) -> tf.Tensor | None:
    """A seed of its own for each layer."""
    return None if seed is None else seed + tf.constant([number, 0], seed.dtype)
