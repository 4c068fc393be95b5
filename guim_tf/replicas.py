"""Which users of a batch are whose, where several workers train one model in step.

Every worker reads the same batches; each encodes its share of the users and learns from what they
are to find. So a batch is the same one however many workers there are, no item has to travel, and
what travels is the gradients.
"""

from typing import Any, NamedTuple

import tensorflow as tf

_OF_NOBODY = ("negatives", "catalogue_size")  # parts of a batch that have no row a user


class Share(NamedTuple):
    """The users `[first, last)` of a batch, int32."""

    first: tf.Tensor
    last: tf.Tensor

    def rows(self, x: Any) -> Any:
        """Rows of these users of a tensor, or of all tensors in nested dictionaries."""
        if isinstance(x, dict):
            return {name: self.rows(value) for name, value in x.items()}
        return x[self.first : self.last]

    def or_all(self, users: tf.Tensor) -> "Share":
        """This share, or where it has no user that of all: a softmax needs a candidate."""
        empty = self.first == self.last
        return Share(tf.where(empty, 0, self.first), tf.where(empty, users, self.last))

    def of_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch of `load_dataset` with these users alone."""
        return {
            name: part if name in _OF_NOBODY else self.rows(part) for name, part in batch.items()
        }


def replicas() -> tuple[tf.Tensor | int, int]:
    """This replica's number and how many there are; 0 and 1 where one process trains alone."""
    context = tf.distribute.get_replica_context()
    if context is None:
        return 0, 1
    return context.replica_id_in_sync_group, context.num_replicas_in_sync


def my_share(users: tf.Tensor) -> Share:
    """The share of this replica in a batch of so many users, an int32 scalar."""
    number, count = replicas()
    return Share(users * number // count, users * (number + 1) // count)
