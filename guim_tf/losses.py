"""InfoNCE against the other users of the batch (Eq. 4), on TFRS's Retrieval task."""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from guim_tf.drawn_negatives import DrawnNegatives
from guim_tf.shared_negatives import SharedNegatives


class Candidates(NamedTuple):
    """The items of a batch as candidates: X distinct ones, of E events; the last may be padding.

    vector: `[X, d]`; key: `[X]` int64, equality of items; probability: `[X]`, how often one
    candidate is that item (for logQ); item: `[E]` int32, which of them an event is of; owner: `[E]`
    int32, the user's row in the batch, or one more than the last for events that are nobody's.
    """

    vector: tf.Tensor
    key: tf.Tensor
    probability: tf.Tensor
    item: tf.Tensor
    owner: tf.Tensor


@dataclasses.dataclass(frozen=True)
class InfoNCE:
    """The softmax of Eq. 4 over scores of Eq. 3: a sum over positives, accidental hits removed.

    Attributes:
      alpha: scale of the cosines.
      negatives_per_user: how many items of each other user are drawn as negatives for each
        positive, with replacement; None takes every item of the batch that the positive's user has
        not, once.
      logq: whether scores are corrected for how often an item comes up as a candidate, so that a
        popular negative weighs less.
    """

    alpha: float
    negatives_per_user: int | None
    logq: bool

    def __call__(
        self,
        queries: tf.Tensor,
        positive: tf.Tensor,
        candidates: Candidates,
        *,
        query: tf.Tensor | None = None,
        seed: tf.Tensor,
    ) -> tf.Tensor:
        """Sum over the positives of -log p(positive | query).

        Args:
          queries: `[Q, C, d]` or `[Q, d]`.
          positive: `[P]` int, which event each positive is.
          candidates: all items and events of the batch.
          query: `[P]` int32, the query that each positive is of: all of one query are of one user.
            None where the first P have one each.
          seed: `[2]` int, for the draw.

        Returns:
          A float scalar; 0 when there is no positive.
        """
        if queries.shape.rank == 2:
            queries = queries[:, None]
        if query is None:
            query = tf.range(tf.shape(positive)[0])
        queries = tf.math.l2_normalize(queries, axis=-1)
        candidates = candidates._replace(vector=tf.math.l2_normalize(candidates.vector, axis=-1))
        owner = tf.gather(candidates.owner, positive)
        choice = {
            "query": query,
            "positive": tf.gather(candidates.item, positive),
            "candidate_sampling_probability": candidates.probability if self.logq else None,
        }
        if self.negatives_per_user is None:
            size = tf.shape(candidates.key)[0]
            has = ownership(candidates.owner, candidates.item, size)
            real = tf.range(size) <= tf.reduce_max(candidates.item)
            owners = tf.math.unsorted_segment_max(owner, query, tf.shape(queries)[0])
            return SharedNegatives(temperature=1.0 / self.alpha)(
                queries,
                candidates.vector,
                owner=tf.maximum(owners, 0),  # of a query without a positive anybody's
                negative=real & ~has,
                **choice,
            )
        event, drawn = draw_negatives(owner, candidates.owner, self.negatives_per_user, seed)
        return DrawnNegatives(temperature=1.0 / self.alpha)(
            queries,
            candidates.vector,
            negative=tf.gather(candidates.item, event),
            drawn=drawn,
            **choice,
        )


def ownership(owner: tf.Tensor, which: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Whether each user has each item: `[users, X]` bool.

    Args:
      owner: `[E]` int32, whose each event is.
      which: `[E]` int32, which of the X items.
      count: X.
    """
    users = tf.reduce_max(tf.concat([owner, [-1]], axis=0)) + 1
    index = tf.stack([owner, which], axis=1)
    return tf.scatter_nd(index, tf.ones_like(which), tf.stack([users, count])) > 0


def draw_negatives(
    owner: tf.Tensor, candidate_owner: tf.Tensor, per_user: int, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """For each positive, draws `per_user` items of every other user (paper: K = 31, batch 32).

    Args:
      owner: `[P]` int32, whose each positive is.
      candidate_owner: `[E]` int32, whose each candidate is.
      per_user: draws, with replacement.
      seed: `[2]` int.

    Returns:
      `[P, users * per_user]` int32, which candidates, and bool, whether one is drawn there: not of
      the positive's own user, nor of a user who has none.
    """
    users = tf.reduce_max(tf.concat([candidate_owner, [-1]], axis=0)) + 1
    by_owner = tf.cast(tf.argsort(candidate_owner, stable=True), tf.int32)
    sizes = tf.math.bincount(candidate_owner, minlength=users)
    offsets = tf.math.cumsum(sizes, exclusive=True)
    shape = [tf.shape(owner)[0], users, per_user]
    uniform = tf.random.stateless_uniform(shape, seed)
    last = tf.maximum(sizes - 1, 0)[None, :, None]
    pick = tf.minimum(tf.cast(uniform * tf.cast(sizes, tf.float32)[None, :, None], tf.int32), last)
    foreign = (owner[:, None] != tf.range(users)[None, :]) & (sizes > 0)[None, :]
    place = tf.where(foreign[:, :, None], pick + offsets[None, :, None], 0)
    flat = [shape[0], users * per_user]
    drawn = tf.repeat(foreign, per_user, axis=1)
    return tf.gather(by_owner, tf.reshape(place, flat)), drawn
