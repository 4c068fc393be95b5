"""How graphs are traced in this package: as they are written.

Conditions on tensors are `tf.cond` here and loops `tf.while_loop`. AutoGraph would look for
Python's own in the source of every function first, which takes about as long as the tracing.
"""

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

as_it_is = tf.autograph.experimental.do_not_convert  # with all that the function calls


def trace(
    function: Callable[..., Mapping[str, tf.Tensor]], inputs: Sequence[tf.TensorSpec]
) -> tf.types.experimental.ConcreteFunction:
    """A function as a signature of a SavedModel."""
    return tf.function(function, input_signature=inputs, autograph=False).get_concrete_function()
