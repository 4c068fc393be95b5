"""The user side: C CLS tokens and a history through BERT layers to C vectors (section 3.2)."""

from typing import Any

import tensorflow as tf

from guim_tf import schema as names
from guim_tf.keras_compat import keras, register
from guim_tf.layers import InterestHeads, TimeEmbedding, TransformerBlock


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
        self.action_table = (
            keras.layers.Embedding(
                action_rows,
                dim,
                embeddings_initializer=keras.initializers.TruncatedNormal(stddev=0.02),
                name="action",
            )
            if action_rows
            else None
        )
        self.input_norm = keras.layers.LayerNormalization(epsilon=1e-12, name="input_norm")
        self.input_dropout = keras.layers.Dropout(dropout)
        self.blocks = [
            TransformerBlock(
                dim, heads=heads, dropout=dropout, norm_first=norm_first, name=f"block_{i}"
            )
            for i in range(layers)
        ]
        self.output_norm = (
            keras.layers.LayerNormalization(epsilon=1e-12, name="output_norm")
            if norm_first
            else None
        )
        self.interest_heads = (
            InterestHeads(interests, dim=dim, dropout=dropout, name="interest_heads")
            if mixture == "heads"
            else None
        )
        self.user_projection = keras.layers.Dense(dim, name="f_u")
        self.item_projection = keras.layers.Dense(dim, name="f_o")

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
        timestamp: tf.Tensor,
        as_of: tf.Tensor,
        present: tf.Tensor,
        earlier: tf.Tensor | None = None,
        masked: tf.Tensor | None = None,
        action: tf.Tensor | None = None,
        training: bool = False,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Encodes histories.

        Args:
          items: `[B, N, d]` vectors of the events' items.
          timestamp: `[B, N]` int64 seconds.
          as_of: `[B]` int64 seconds, the cut-off T.
          present: `[B, N]` bool, False for padding.
          earlier: `[B, G]` int64 seconds before T: more cut-offs, for a causal encoder. Each has
            CLS tokens of its own, which see the events before it, and has its age before T in the
            place of t0.
          masked: `[B, N]` bool, events whose item is replaced by MASK; time and action stay.
          action: `[B, N]` int64 rows of the action table, if there is one.
          training: whether dropout is on.

        Returns:
          The users `[B, C, d]`, with `earlier` `[B, 1 + G, C, d]` of which T comes first; and o_n
          at every position `[B, N, d]`.
        """
        if masked is not None:
            items = tf.where(masked[..., None], tf.cast(self.mask_vector, items.dtype), items)
        events = items + self.time_embedding(timestamp, as_of)
        if self.action_table is not None:
            events += self.action_table(action)
        batch = tf.shape(events)[0]
        start = tf.tile(self.time_embedding.start()[None], [batch, 1, 1])
        cutoffs = as_of[:, None]
        if earlier is not None:
            start = tf.concat([start, self.time_embedding(earlier, as_of)], axis=1)
            cutoffs = tf.concat([cutoffs, earlier], axis=1)
        cls = start[:, :, None, :] + tf.cast(self.cls_table, events.dtype)
        groups = tf.shape(cutoffs)[1]
        cls = tf.reshape(cls, [batch, groups * self.cls_tokens, self.dim])
        tokens = tf.concat([cls, events], axis=1)
        visible = self._visible(timestamp, cutoffs, present)
        tokens = self.input_dropout(self.input_norm(tokens), training=training)
        for block in self.blocks:
            tokens = block(tokens, visible=visible, training=training)
        if self.output_norm is not None:
            tokens = self.output_norm(tokens)
        first = groups * self.cls_tokens
        users, outputs = tokens[:, :first], tokens[:, first:]
        if self.interest_heads is not None:
            users = self.interest_heads(tokens, visible=visible[:, :first], training=training)
        users = tf.reshape(users, [batch, groups, self.interests, self.dim])
        users = self.user_projection(users if earlier is not None else users[:, 0])
        return users, self.item_projection(outputs)

    def _visible(self, timestamp: tf.Tensor, cutoffs: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """`[B, S, S]` bool, whether a token (row) attends to another."""
        groups, width = tf.shape(cutoffs)[1], tf.shape(present)[1]
        first = groups * self.cls_tokens
        of_group = tf.range(first) // self.cls_tokens
        among_cls = tf.repeat(
            (of_group[:, None] == of_group[None, :])[None], tf.shape(present)[0], axis=0
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
