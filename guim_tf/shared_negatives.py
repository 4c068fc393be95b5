"""The Retrieval task where queries share their negatives: the same loss for less work."""

from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs

from guim_tf.threads import BRANCHES

# Scores of one interest in a part: more fall out of the processor's cache. A part has so many
# queries at least, and at most `_MOST_AT_ONCE`.
_SCORES_AT_ONCE = 1 << 20
_LEAST_AT_ONCE, _MOST_AT_ONCE = 64, 1024
_NEVER = -1e9  # added to the score of what is no negative
_NO_MASS = 1e-30  # of a query without a negative


class SharedNegatives(tfrs.tasks.Retrieval):
    """In-batch softmax over one list of candidates, scored by the best of C query vectors (Eq. 3).

    The loss and its gradient are those of `tfrs.tasks.Retrieval` for queries `[P, C, d]` with
    logQ, where each positive is followed by the candidates that are its negatives. That task scores
    every positive against all others to mask the scores away, and keeps each pass over `[P, C, X]`
    for the gradient. Here a query is scored once for all its positives: with the log of its
    negatives' mass, `z`, a positive of score `s` costs `softplus(z - s)`. The gradient is taken
    while a part of the scores is at hand, and flows through the winning interest alone; memory is
    that of a part for each branch of the graph (`guim_tf.threads`).

    Masses are relative to the largest score that vectors of these lengths can have, so that no pass
    over the scores looks for the largest there is: lengths must not differ much, and temperatures
    below .02 lose negatives of no weight.

    Products have a leading axis of one: oneDNN lowers batched products to bfloat16 where it is told
    to (`guim_tf.precision`), and plain ones never.

    Args:
      temperature: that scores are divided by.
    """

    def __init__(self, *, temperature: float) -> None:
        super().__init__(temperature=temperature)

    def call(
        self,
        query_embeddings: tf.Tensor,
        candidate_embeddings: tf.Tensor,
        *,
        query: tf.Tensor,
        positive: tf.Tensor,
        owner: tf.Tensor,
        negative: tf.Tensor,
        candidate_sampling_probability: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Sum over the positives of -log p(positive | query).

        Args:
          query_embeddings: `[Q, C, d]`.
          candidate_embeddings: `[X, d]`.
          query: `[P]` int32, the query that each positive is of.
          positive: `[P]` int32, the candidate that each is; no negative of its query's user.
          owner: `[Q]` int32, whose each query is.
          negative: `[U, X]` bool, whether a candidate is a negative of a user.
          candidate_sampling_probability: `[X]`, for logQ, or None.

        Returns:
          A float scalar; 0 when there is no positive.
        """
        bias = tf.zeros_like(candidate_embeddings[:, 0])
        if candidate_sampling_probability is not None:
            bias -= tf.math.log(tf.clip_by_value(candidate_sampling_probability, 1e-6, 1.0))
        queries = query_embeddings / self._temperature
        right = tf.gather(candidate_embeddings, positive)[:, None]
        scores = tf.reduce_sum(tf.gather(queries, query) * right, axis=2)
        return _loss(
            queries,
            candidate_embeddings,
            tf.reduce_max(scores, axis=1) + tf.gather(bias, positive),
            query=query,
            owner=owner,
            bias=tf.where(negative, bias, _NEVER),
        )


def _loss(
    queries: tf.Tensor,
    candidates: tf.Tensor,
    right: tf.Tensor,
    *,
    query: tf.Tensor,
    owner: tf.Tensor,
    bias: tf.Tensor,
) -> tf.Tensor:
    """Of positives with these logits, `right` `[P]`; bias: `[U, X]`, of each user's negatives."""
    interests, dim = queries.shape[1:]
    count, size = tf.shape(queries)[0], tf.shape(candidates)[0]
    at_once = tf.clip_by_value(
        _SCORES_AT_ONCE // tf.maximum(size, 1), _LEAST_AT_ONCE, _MOST_AT_ONCE
    )

    def excess(log_mass: tf.Tensor, right: tf.Tensor, first: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Of the positives of the queries from `first` on: which queries, and z - s."""
        local = query - first
        inside = (local >= 0) & (local < tf.size(log_mass))
        local = tf.boolean_mask(local, inside)
        return local, tf.gather(log_mass, local) - tf.boolean_mask(right, inside)

    @tf.custom_gradient
    def run(queries: tf.Tensor, candidates: tf.Tensor, right: tf.Tensor) -> tuple[tf.Tensor, Any]:
        longest = [
            tf.sqrt(tf.reduce_max(tf.reduce_sum(x * x, axis=-1))) for x in (queries, candidates)
        ]
        most = longest[0] * longest[1] + tf.reduce_max(bias)
        below = bias - most

        def part(
            start: tf.Tensor,
            log_masses: tf.TensorArray,
            of_queries: tf.TensorArray,
            of_candidates: tf.Tensor,
        ) -> tuple[tf.Tensor, ...]:
            here = slice(start, start + at_once)
            vectors = tf.transpose(queries[here], [1, 0, 2])  # [C, p, d]
            scores = tf.linalg.matmul(vectors, candidates[None], transpose_b=True)  # [C, p, X]
            best = tf.reduce_max(scores, axis=0) if interests > 1 else scores[0]
            mass = tf.exp(best + tf.gather(below, owner[here]))
            norm = tf.maximum(tf.reduce_sum(mass, axis=1), _NO_MASS)
            log_mass = tf.math.log(norm) + most
            local, over = excess(log_mass, right, start)
            weight = tf.math.unsorted_segment_sum(tf.sigmoid(over), local, tf.size(norm)) / norm
            # The derivative of the logits is mass * weight; it goes to the interest that has won.
            won = tf.where(scores >= best, mass, 0.0) if interests > 1 else mass[None]
            of_query = tf.linalg.matmul(won, candidates[None]) * weight[:, None]
            of_candidates += tf.linalg.matmul(
                tf.reshape(won, [1, -1, size]),
                tf.reshape(vectors * weight[:, None], [1, -1, dim]),
                transpose_a=True,
            )[0]
            index = start // at_once
            log_masses = log_masses.write(index, log_mass)
            of_queries = of_queries.write(index, tf.transpose(of_query, [1, 0, 2]))
            return start + at_once, log_masses, of_queries, of_candidates

        parts = tf.maximum(-(-count // at_once), 1)  # one at least, of no query
        arrays = [
            tf.TensorArray(queries.dtype, size=parts, infer_shape=False, element_shape=shape)
            for shape in ([None], [None, interests, dim])
        ]
        _, log_masses, of_queries, of_candidates = tf.while_loop(
            lambda start, *_: start < parts * at_once,
            part,
            [0, *arrays, tf.zeros_like(candidates)],
            parallel_iterations=BRANCHES,  # more would keep the scores of more parts
        )
        _, over = excess(log_masses.concat(), right, 0)
        of_queries = tf.reshape(of_queries.concat(), [-1, interests, dim])

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return upstream * of_queries, upstream * of_candidates, -upstream * tf.sigmoid(over)

        return tf.reduce_sum(tf.math.softplus(over)), gradient

    return run(queries, candidates, right)
