"""The Retrieval task where all queries share their negatives: the same loss for less work."""

from typing import Any

import tensorflow as tf
import tensorflow_recommenders as tfrs

# Scores of one interest in a part: more fall out of the processor's cache. A part has so many
# queries at least, and at most `_MOST_AT_ONCE`.
_SCORES_AT_ONCE = 1 << 20
_LEAST_AT_ONCE, _MOST_AT_ONCE = 64, 1024
_NEVER = -1e9  # added to the score of what is no negative


class SharedNegatives(tfrs.tasks.Retrieval):
    """In-batch softmax over one list of candidates, scored by the best of C query vectors (Eq. 3).

    The loss and its gradient are those of `tfrs.tasks.Retrieval` for queries `[P, C, d]` with
    logQ, where each positive is followed by the candidates that are its negatives. That task scores
    every positive against all others to mask the scores away, and keeps each pass over `[P, C, X]`
    for the gradient. Here positives are rows of the list, the gradient is taken while a part of the
    scores is at hand, and it flows through the winning interest alone; memory is that of one part.

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
        positive: tf.Tensor,
        owner: tf.Tensor,
        negative: tf.Tensor,
        candidate_sampling_probability: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Sum over the queries of -log p(positive | query).

        Args:
          query_embeddings: `[P, C, d]`.
          candidate_embeddings: `[X, d]`.
          positive: `[P]` int32, the candidate that each query is for.
          owner: `[P]` int32, whose each query is.
          negative: `[U, X]` bool, whether a candidate is a negative of a user.
          candidate_sampling_probability: `[X]`, for logQ, or None.

        Returns:
          A float scalar; 0 when there is no query.
        """
        bias = tf.zeros_like(candidate_embeddings[:, 0])
        if candidate_sampling_probability is not None:
            bias -= tf.math.log(tf.clip_by_value(candidate_sampling_probability, 1e-6, 1.0))
        return _loss(
            query_embeddings / self._temperature,
            candidate_embeddings,
            positive=positive,
            owner=owner,
            positive_bias=tf.gather(bias, positive),
            negative_bias=tf.where(negative, bias, _NEVER),
        )


def _loss(
    queries: tf.Tensor,
    candidates: tf.Tensor,
    *,
    positive: tf.Tensor,
    owner: tf.Tensor,
    positive_bias: tf.Tensor,
    negative_bias: tf.Tensor,
) -> tf.Tensor:
    interests, dim = queries.shape[1:]
    count, size = tf.shape(queries)[0], tf.shape(candidates)[0]
    at_once = tf.clip_by_value(
        _SCORES_AT_ONCE // tf.maximum(size, 1), _LEAST_AT_ONCE, _MOST_AT_ONCE
    )

    def part(
        start: tf.Tensor,
        total: tf.Tensor,
        of_queries: tf.TensorArray,
        of_candidates: tf.Tensor,
        queries: tf.Tensor,
        candidates: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        here = slice(start, start + at_once)
        query = tf.transpose(queries[here], [1, 0, 2])  # [C, p, d]
        right = tf.gather(candidates, positive[here])
        scores = tf.linalg.matmul(query, candidates[None], transpose_b=True)  # [C, p, X]
        best = tf.reduce_max(scores, axis=0)
        logits = best + tf.gather(negative_bias, owner[here])
        right_scores = tf.reduce_sum(query * right, axis=2)  # [C, p]
        right_best = tf.reduce_max(right_scores, axis=0)
        right_logit = right_best + positive_bias[here]
        top = tf.maximum(tf.reduce_max(logits, axis=1), right_logit)
        mass, right_mass = tf.exp(logits - top[:, None]), tf.exp(right_logit - top)
        norm = tf.reduce_sum(mass, axis=1) + right_mass
        total += tf.reduce_sum(tf.math.log(norm) + top - right_logit)
        # The derivative of the logits, handed to the interest that has won.
        probability = mass * (1.0 / norm)[:, None]
        won = tf.where(scores >= best, probability, 0.0) if interests > 1 else probability[None]
        right_won = tf.where(right_scores >= right_best, right_mass / norm - 1.0, 0.0)[:, :, None]
        of_query = tf.linalg.matmul(won, candidates[None]) + right_won * right
        of_candidates += tf.linalg.matmul(
            tf.reshape(won, [1, -1, size]), tf.reshape(query, [1, -1, dim]), transpose_a=True
        )[0]
        of_candidates += tf.math.unsorted_segment_sum(
            tf.reduce_sum(right_won * query, axis=0), positive[here], size
        )
        index = of_queries.size()
        of_queries = of_queries.write(index, tf.transpose(of_query, [1, 0, 2]))
        return start + at_once, total, of_queries, of_candidates

    @tf.custom_gradient
    def run(queries: tf.Tensor, candidates: tf.Tensor) -> tuple[tf.Tensor, Any]:
        parts = tf.TensorArray(
            queries.dtype,
            size=0,
            dynamic_size=True,
            infer_shape=False,
            element_shape=[None, interests, dim],
        )
        _, total, parts, of_candidates = tf.while_loop(
            lambda start, *_: start < tf.maximum(count, 1),  # a part at least, of no query
            lambda start, total, parts, of_candidates: part(
                start, total, parts, of_candidates, queries, candidates
            ),
            [0, tf.zeros([], queries.dtype), parts, tf.zeros_like(candidates)],
            parallel_iterations=1,  # more would keep the scores of several parts
        )
        of_queries = tf.reshape(parts.concat(), [-1, interests, dim])

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return upstream * of_queries, upstream * of_candidates

        return total, gradient

    return run(queries, candidates)
