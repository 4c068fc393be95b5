"""InfoNCE against the other users of the batch (Eq. 4), on TFRS's Retrieval task."""

from typing import NamedTuple

import tensorflow as tf
import tensorflow_recommenders as tfrs


class BatchItems(NamedTuple):
    """Every event of a batch as a candidate. E is the number of events of all users.

    vector: `[E, d]`; owner: `[E]` int32, the user's row in the batch, or one more than the last for
    items that are nobody's; key: `[E]` int64, equality of items; probability: `[E]`, how often one
    candidate is that item (for logQ).
    """

    vector: tf.Tensor
    owner: tf.Tensor
    key: tf.Tensor
    probability: tf.Tensor


def retrieval_task(alpha: float) -> tfrs.tasks.Retrieval:
    """The softmax of Eq. 4 over scores of Eq. 3: a sum over positives, accidental hits removed."""
    return tfrs.tasks.Retrieval(temperature=1.0 / alpha, remove_accidental_hits=True)


def info_nce(
    task: tfrs.tasks.Retrieval,
    queries: tf.Tensor,
    items: BatchItems,
    positive: tf.Tensor,
    *,
    negatives_per_user: int | None,
    logq: bool,
    seed: tf.Tensor,
) -> tf.Tensor:
    """Sum over the positives of -log p(positive | query), Eq. 4.

    Args:
      task: see `retrieval_task`.
      queries: `[P, C, d]` or `[P, d]`, one a positive, in the order of `items`.
      items: all events of the batch.
      positive: `[E]` bool, which of them are positives; P are.
      negatives_per_user: how many items of each other user are drawn as negatives for each
        positive, with replacement; None takes every item of the batch that the positive's user has
        not, once.
      logq: whether scores are corrected for how often an item comes up as a candidate, so that a
        popular negative weighs less.
      seed: `[2]` int, for the draw.

    Returns:
      A float scalar; 0 when there is no positive.
    """
    positives = _take(items, tf.where(positive)[:, 0])
    if negatives_per_user is None:
        others, negative = distinct_negatives(positives.owner, items)
    else:
        others = items
        negative = draw_negatives(positives.owner, items.owner, negatives_per_user, seed)
    candidates = BatchItems(
        *(tf.concat(pair, axis=0) for pair in zip(positives, others, strict=True))
    )
    own = tf.eye(tf.shape(queries)[0], dtype=tf.bool)
    return task(
        tf.math.l2_normalize(queries, axis=-1),
        tf.math.l2_normalize(candidates.vector, axis=-1),
        candidate_sampling_probability=candidates.probability if logq else None,
        candidate_ids=candidates.key,
        score_mask=tf.concat([own, negative], axis=1),
        compute_metrics=False,
    )


def distinct_negatives(owner: tf.Tensor, items: BatchItems) -> tuple[BatchItems, tf.Tensor]:
    """Each item of the batch once, as a negative of the users who do not have it.

    Args:
      owner: `[P]` int32, whose each positive is.
      items: all events of the batch.

    Returns:
      The X distinct items, and `[P, X]` bool.
    """
    keys, which = tf.unique(items.key)
    distinct = tf.shape(keys)[0]
    first = tf.math.unsorted_segment_min(tf.range(tf.shape(which)[0]), which, distinct)
    has = tf.scatter_nd(
        tf.stack([items.owner, which], axis=1),
        tf.ones_like(which),
        tf.stack([tf.reduce_max(items.owner) + 1, distinct]),
    )
    return _take(items, first), tf.gather(has == 0, owner)


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


def _take(items: BatchItems, index: tf.Tensor) -> BatchItems:
    return BatchItems(*(tf.gather(field, index) for field in items))
