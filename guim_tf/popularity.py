"""Recent popularity as a prior: what is added to an item's cosine, whoever asks.

The cosine of two unit vectors can't say that an item sells well this month; the model learned from
all months alike. One number an item can: as one more coordinate of its vector, beside a 1 in the
user's, it is a part of the inner product that an index searches, so that Eq. 3 plus the prior costs
no more to serve than Eq. 3.
"""

import numpy as np


def prior(recent_buyers: np.ndarray, weight: float, *, sold: np.ndarray) -> np.ndarray:
    """`weight * ln(1 + buyers) / ln(1 + most buyers)`: `[X]` float32.

    Of an item that has never sold nobody knows yet how it sells: it gets the mean of the others.

    Args:
      recent_buyers: `[X]`, users who bought each item in the last `schema.RECENT_DAYS` days.
      weight: what the most popular item gets.
      sold: `[X]` bool, whether anybody has ever bought the item.
    """
    most = np.log1p(np.max(recent_buyers, initial=0))
    share = np.log1p(recent_buyers) / (most if most > 0 else 1)
    share = np.where(sold, share, share[sold].mean() if sold.any() else 0)
    return (weight * share).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, float32; a vector of zeros stays."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(length > 0, length, 1)).astype(np.float32)


def with_coordinate(vectors: np.ndarray, value: np.ndarray | float) -> np.ndarray:
    """Unit vectors with one more coordinate: `[..., d]`, `[...]` or a number -> `[..., d + 1]`.

    Of users it is 1 and of items the prior: the inner product is then cosine plus prior.
    """
    last = np.broadcast_to(np.float32(value), vectors.shape[:-1])
    return np.concatenate([unit(vectors), last[..., None]], axis=-1)
