"""How the C interest vectors of users divide the work, and whether they have collapsed."""

import dataclasses

import numpy as np

from guim_tf.evaluation.ragged import Ragged
from guim_tf.evaluation.search import COSINE


@dataclasses.dataclass(frozen=True)
class Interests:
    """Statistics of the C interests of all users.

    Attributes:
      recommended: `[C]`, each interest's share of the ranked items that it won.
      purchased: `[C]`, its share of the true (user, item) pairs for which it scores highest.
      pair_cosines: `[C, C]`, mean over users of cos(u_c, u_c').
      mean_cosine: mean of the pairs c != c'; near 1 the interests have collapsed into one. NaN for
        C = 1.
      item_cosine: mean cosine between two different items of the catalogue.
    """

    recommended: np.ndarray
    purchased: np.ndarray
    pair_cosines: np.ndarray
    mean_cosine: float
    item_cosine: float


def describe_interests(
    *,
    user_embedding: np.ndarray,
    item_embedding: np.ndarray,
    winners: np.ndarray,
    truth: Ragged,
    score: str = COSINE,
) -> Interests:
    """Describes user vectors `[U, C, d]` and item vectors `[X, d]`.

    Args:
      user_embedding: any length.
      item_embedding: any length.
      winners: `[U, K]` interest that won each place of the ranking, -1 for none.
      truth: item rows that each user bought.
      score: how vectors are compared, "cosine" or "dot".
    """
    users, items = _unit(user_embedding), _unit(item_embedding)
    interests, count = users.shape[1], len(items)
    compared = (users, items) if score == COSINE else (user_embedding, item_embedding)
    bought = np.zeros(interests, np.int64)
    for user in range(len(users)):  # one user at a time: [pairs, C, d] would not fit
        best = (compared[0][user] @ compared[1][truth[user]].T).argmax(axis=0)
        bought += np.bincount(best, minlength=interests)
    pairs = np.einsum("ucd,ued->ce", users, users) / len(users)
    other = ~np.eye(interests, dtype=bool)
    total = np.square(items.sum(axis=0, dtype=np.float64)).sum()
    return Interests(
        recommended=_shares(np.bincount(winners[winners >= 0], minlength=interests)),
        purchased=_shares(bought),
        pair_cosines=pairs,
        mean_cosine=float(pairs[other].mean()) if interests > 1 else float("nan"),
        item_cosine=float((total - count) / (count * (count - 1))) if count > 1 else float("nan"),
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _shares(wins: np.ndarray) -> np.ndarray:
    return wins / max(wins.sum(), 1)
