"""The Retrieval task where every positive has a few negatives of its own."""

import tensorflow as tf
import tensorflow_recommenders as tfrs

_NEVER = -1e9  # the score of what is no negative


class DrawnNegatives(tfrs.tasks.Retrieval):
    """Softmax over a positive and its K negatives (Eq. 4), scored by Eq. 3.

    The loss is that of `tfrs.tasks.Retrieval` for queries `[P, C, d]` whose score mask leaves these
    K candidates. Here a query is scored once for all its positives.

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
        negative: tf.Tensor,
        drawn: tf.Tensor,
        candidate_sampling_probability: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Sum over the positives of -log p(positive | query).

        Args:
          query_embeddings: `[Q, C, d]`.
          candidate_embeddings: `[X, d]` of different items.
          query: `[P]` int32, the query that each positive is of.
          positive: `[P]` int32, the candidate that each is.
          negative: `[P, K]` int32, candidates; where one is the positive it is an accidental hit
            and has no mass.
          drawn: `[P, K]` bool, False where there is no negative.
          candidate_sampling_probability: `[X]`, for logQ, or None.

        Returns:
          A float scalar; 0 when there is no positive.
        """
        scores = tf.linalg.matmul(
            tf.transpose(query_embeddings, [1, 0, 2]), candidate_embeddings[None], transpose_b=True
        )
        best = tf.reduce_max(scores, axis=0)  # [Q, X]
        chosen = tf.concat([positive[:, None], negative], axis=1)  # [P, 1 + K]
        place = query[:, None] * tf.shape(candidate_embeddings)[0] + chosen
        logits = tf.gather(tf.reshape(best, [-1]), place) / self._temperature
        if candidate_sampling_probability is not None:
            probability = tf.clip_by_value(candidate_sampling_probability, 1e-6, 1.0)
            logits -= tf.gather(tf.math.log(probability), chosen)
        counts = drawn & (negative != positive[:, None])
        counts = tf.concat([tf.ones_like(counts[:, :1]), counts], axis=1)
        logits = tf.where(counts, logits, _NEVER)
        return tf.reduce_sum(tf.reduce_logsumexp(logits, axis=1) - logits[:, 0])
