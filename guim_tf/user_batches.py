"""Users with histories of like length, a batch at a time.

In attention each user is a row as wide as the longest history of the batch, which costs the square
of that width: one long history among short ones is paid for by all of them.
"""

from collections.abc import Callable

import numpy as np
from tqdm import tqdm

MOST_USERS = 256  # in a batch
MOST_EVENTS = 8_192  # in a batch, as if all its histories were as long as the longest
LEAST_USERS = 16  # whatever their records hold: encoders use the last `window.max_length` events
_EVENT_BYTES = 40  # of a record, about


def estimate_lengths(examples: np.ndarray) -> np.ndarray:
    """About how many events each of some serialized records holds, by its size: `[U]` int64."""
    return np.array([len(record) for record in examples], np.int64) // _EVENT_BYTES + 1


def encode_in_batches(
    encode: Callable[[np.ndarray], np.ndarray], lengths: np.ndarray, *, title: str | None = None
) -> np.ndarray:
    """Encodes users, those with the longest histories first.

    Args:
      encode: rows of users `[b]` -> what they are encoded to, `[b, ...]`.
      lengths: `[U]` events of each user's history, U at least 1. They say how users are grouped
        and nothing else, so estimates will do.
      title: of a progress bar on stderr; none without it.

    Returns:
      `[U, ...]`, in the order of `lengths`.
    """
    order = np.argsort(-lengths, kind="stable")
    found = []
    start = 0
    with tqdm(total=len(order), desc=title, unit="user", disable=title is None) as bar:
        while start < len(order):
            width = max(int(lengths[order[start]]), 1)
            size = min(max(MOST_EVENTS // width, LEAST_USERS), MOST_USERS)
            batch = order[start : start + size]
            found.append(encode(batch))
            start += len(batch)
            bar.update(len(batch))
    longest_first = np.concatenate(found)
    result = np.empty_like(longest_first)
    result[order] = longest_first
    return result
