"""The Retrieval task where every query has a few negatives of its own: nothing else is scored."""

import tensorflow as tf
import tensorflow_recommenders as tfrs

_NEVER = -1e9  # the score of what is no negative


class DrawnNegatives(tfrs.tasks.Retrieval):
    """Softmax of each query over its positive and its K negatives (Eq. 4), by Eq. 3.

    The loss is that of `tfrs.tasks.Retrieval` whose score mask leaves these K candidates, which
    scores all candidates first.

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
        negative: tf.Tensor,
        drawn: tf.Tensor,
        candidate_sampling_probability: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Sum over the queries of -log p(positive | query).

        Args:
          query_embeddings: `[P, C, d]`.
          candidate_embeddings: `[X, d]` of different items.
          positive: `[P]` int32, the candidate that each query is for.
          negative: `[P, K]` int32, candidates; where one is the positive it is an accidental hit
            and has no mass.
          drawn: `[P, K]` bool, False where there is no negative.
          candidate_sampling_probability: `[X]`, for logQ, or None.

        Returns:
          A float scalar; 0 when there is no query.
        """
        chosen = tf.concat([positive[:, None], negative], axis=1)  # [P, 1 + K]
        vectors = tf.gather(candidate_embeddings, chosen)
        scores = tf.linalg.matmul(query_embeddings, vectors, transpose_b=True)  # [P, C, 1 + K]
        logits = tf.reduce_max(scores, axis=1) / self._temperature
        if candidate_sampling_probability is not None:
            probability = tf.clip_by_value(candidate_sampling_probability, 1e-6, 1.0)
            logits -= tf.gather(tf.math.log(probability), chosen)
        counts = drawn & (negative != positive[:, None])
        counts = tf.concat([tf.ones_like(counts[:, :1]), counts], axis=1)
        logits = tf.where(counts, logits, _NEVER)
        return tf.reduce_sum(tf.reduce_logsumexp(logits, axis=1) - logits[:, 0])
