"""Keras layers of the encoders, one a file."""

from guim_tf.layers.attention import SelfAttention
from guim_tf.layers.interest_heads import InterestHeads
from guim_tf.layers.linear import Linear
from guim_tf.layers.norm import LayerNorm
from guim_tf.layers.table import Table
from guim_tf.layers.time_embedding import TimeEmbedding
from guim_tf.layers.transformer import TransformerBlock

__all__ = [
    "InterestHeads",
    "LayerNorm",
    "Linear",
    "SelfAttention",
    "Table",
    "TimeEmbedding",
    "TransformerBlock",
]
