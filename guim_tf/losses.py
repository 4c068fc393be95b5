"""InfoNCE against the other users of the batch (Eq. 4), on TFRS's Retrieval task."""

import dataclasses
from typing import NamedTuple

import tensorflow as tf
import tensorflow_recommenders as tfrs

from guim_tf.shared_negatives import SharedNegatives

_POSITIVES_AT_ONCE = 1024


class Candidates(NamedTuple):
    """The items of a batch as candidates: X distinct ones, of E events.

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
        self, queries: tf.Tensor, positive: tf.Tensor, candidates: Candidates, *, seed: tf.Tensor
    ) -> tf.Tensor:
        """Sum over the positives of -log p(positive | query).

        Args:
          queries: `[P, C, d]` or `[P, d]`, one a positive.
          positive: `[P]` int, which event each is for.
          candidates: all items and events of the batch.
          seed: `[2]` int, for the draw.

        Returns:
          A float scalar; 0 when there is no positive.
        """
        if queries.shape.rank == 2:
            queries = queries[:, None]
        queries = tf.math.l2_normalize(queries, axis=-1)
        candidates = candidates._replace(vector=tf.math.l2_normalize(candidates.vector, axis=-1))
        if self.negatives_per_user is None:
            return self._of_all(queries, positive, candidates)
        return self._of_drawn(queries, positive, candidates, seed, self.negatives_per_user)

    def _of_all(
        self, queries: tf.Tensor, positive: tf.Tensor, candidates: Candidates
    ) -> tf.Tensor:
        has = ownership(candidates.owner, candidates.item, tf.shape(candidates.key)[0])
        return SharedNegatives(temperature=1.0 / self.alpha)(
            queries,
            candidates.vector,
            positive=tf.gather(candidates.item, positive),
            owner=tf.gather(candidates.owner, positive),
            negative=~has,
            candidate_sampling_probability=candidates.probability if self.logq else None,
        )

    def _of_drawn(
        self,
        queries: tf.Tensor,
        positive: tf.Tensor,
        candidates: Candidates,
        seed: tf.Tensor,
        draws: int,
    ) -> tf.Tensor:
        task = tfrs.tasks.Retrieval(temperature=1.0 / self.alpha, remove_accidental_hits=True)
        events = [tf.gather(x, candidates.item) for x in candidates[:3]]

        def some(part: tf.Tensor) -> tf.Tensor:
            """The task's candidates begin with the positives: in parts they are fewer."""
            here = slice(part * _POSITIVES_AT_ONCE, (part + 1) * _POSITIVES_AT_ONCE)
            negative = draw_negatives(
                tf.gather(candidates.owner, positive[here]),
                candidates.owner,
                draws,
                seed + tf.cast(part, seed.dtype),
            )
            own = tf.eye(tf.shape(negative)[0], dtype=tf.bool)
            vector, key, probability = (
                tf.concat([tf.gather(x, positive[here]), x], axis=0) for x in events
            )
            return task(
                queries[here],
                vector,
                candidate_sampling_probability=probability if self.logq else None,
                candidate_ids=key,
                score_mask=tf.concat([own, negative], axis=1),
                compute_metrics=False,
            )

        parts = -(-tf.shape(positive)[0] // _POSITIVES_AT_ONCE)
        return tf.reduce_sum(
            tf.map_fn(some, tf.range(parts), fn_output_signature=tf.float32), axis=0
        )


def ownership(owner: tf.Tensor, which: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Whether each user has each item: `[users, X]` bool.

    Args:
      owner: `[E]` int32, whose each event is.
      which: `[E]` int32, which of the X items.
      count: X.
    """
    users = tf.reduce_max(owner, axis=0) + 1
    index = tf.stack([owner, which], axis=1)
    return tf.scatter_nd(index, tf.ones_like(which), tf.stack([users, count])) > 0


def draw_negatives(
    owner: tf.Tensor, candidate_owner: tf.Tensor, per_user: int, seed: tf.Tensor
) -> tf.Tensor:
    """For each positive, draws `per_user` items of every other user (paper: K = 31, batch 32).

    Args:
      owner: `[P]` int32, whose each positive is.
      candidate_owner: `[E]` int32, whose each candidate is.
      per_user: draws, with replacement.
      seed: `[2]` int.

    Returns:
      `[P, E]` bool, True for the drawn candidates.
    """
    users = tf.reduce_max(candidate_owner) + 1
    by_owner = tf.cast(tf.argsort(candidate_owner, stable=True), tf.int32)
    sizes = tf.math.bincount(candidate_owner, minlength=users)
    offsets = tf.math.cumsum(sizes, exclusive=True)
    positives = tf.shape(owner)[0]
    uniform = tf.random.stateless_uniform([positives, users, per_user], seed)
    last = tf.maximum(sizes - 1, 0)[None, :, None]
    pick = tf.minimum(tf.cast(uniform * tf.cast(sizes, tf.float32)[None, :, None], tf.int32), last)
    foreign = (owner[:, None] != tf.range(users)[None, :]) & (sizes > 0)[None, :]
    where = tf.where(tf.repeat(foreign[:, :, None], per_user, axis=2))
    column = tf.gather(by_owner, tf.gather_nd(pick + offsets[None, :, None], where))
    index = tf.stack([tf.cast(where[:, 0], tf.int32), column], axis=1)
    drawn = tf.scatter_nd(
        index, tf.ones([tf.shape(index)[0]], tf.int32), [positives, tf.shape(candidate_owner)[0]]
    )
    return drawn > 0
