"""Mixture of representation: scores of a set of C vectors (Eq. 2, Eq. 3), and merging C lists."""

import tensorflow as tf

# How many times k the list is that Eq. 2 orders anew. With softmax weights Eq. 2 lies below Eq. 3
# by ln(C) / sharpness at most (0.07 for C = 4 at 20): only neighbours change places, and an item
# that is not among the N best by Eq. 3 can beat none whose new score is above the N-th old one.
RESCORED = 4


def max_score(user_embedding: tf.Tensor, item_embedding: tf.Tensor) -> tf.Tensor:
    """Eq. 3 without its scale: `max_c cos(u_c, v_j)`.

    Args:
      user_embedding: `[B, C, d]`, any length.
      item_embedding: `[X, d]`, any length.

    Returns:
      `[B, X]` in [-1, 1].
    """
    return tf.reduce_max(cosines(user_embedding, item_embedding), axis=1)


def softmax_score(
    user_embedding: tf.Tensor, item_embedding: tf.Tensor, *, sharpness: float
) -> tf.Tensor:
    """Eq. 2 without its scale, with `pi_c|i,j = softmax_c(sharpness * cos(u_c, v_j))`.

    At `sharpness` 0 every interest weighs 1/C; as it grows this becomes `max_score`.

    Args:
      user_embedding: `[B, C, d]`, any length.
      item_embedding: `[X, d]`, any length.
      sharpness: scale inside the softmax, 0 or more.

    Returns:
      `[B, X]` in [-1, 1].
    """
    return _weighted(cosines(user_embedding, item_embedding), sharpness)


def _weighted(cosine: tf.Tensor, sharpness: float) -> tf.Tensor:
    """The sum of Eq. 2: `[B, C, X]` -> `[B, X]`."""
    return tf.reduce_sum(tf.nn.softmax(sharpness * cosine, axis=1) * cosine, axis=1)


def cosines(user_embedding: tf.Tensor, item_embedding: tf.Tensor) -> tf.Tensor:
    """`cos(u_c, v_j)`: `[B, C, d]` and `[X, d]` -> `[B, C, X]`."""
    users = tf.math.l2_normalize(user_embedding, axis=-1)
    items = tf.math.l2_normalize(item_embedding, axis=-1)
    return tf.einsum("bcd,xd->bcx", users, items)


def mean_pairwise_cosine(user_embedding: tf.Tensor, *, power: int = 1) -> tf.Tensor:
    """How alike a user's interests are: the mean of cos(u_c, u_c') over c != c'; 0 when C = 1.

    Args:
      user_embedding: `[B, C, d]`.
      power: 2 for the mean of squares.

    Returns:
      `[B]` in [-1, 1].
    """
    users = tf.math.l2_normalize(user_embedding, axis=-1)
    cosine = tf.einsum("bcd,bed->bce", users, users) ** power
    interests = tf.cast(tf.shape(users)[1], users.dtype)
    off_diagonal = tf.reduce_sum(cosine, axis=[1, 2]) - tf.linalg.trace(cosine)
    return tf.math.divide_no_nan(off_diagonal, interests * (interests - 1))


def merge_interests(
    scores: tf.Tensor,
    rows: tf.Tensor,
    *,
    k: int | tf.Tensor,
    exclude: tf.Tensor | None = None,
    per_interest: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Merges the C lists that a user's vectors fetched into one, every item once.

    An item keeps its highest score and the interest that gave it (Eq. 3). Equal scores are in the
    order of the catalogue row, then of the interest. Where fewer than k items remain, the rest of
    the list has row -1, score -inf and interest -1.

    Args:
      scores: `[B, C, M]` float.
      rows: `[B, C, M]` integer catalogue rows, -1 for none.
      k: length of the merged list.
      exclude: `[B, E]` integer rows that must not come back (-1 for none), or None.
      per_interest: quota, how many items one interest may bring. Best first, an item comes by the
        best of its interests that has room. Lists of M = k + E are long enough for that: above the
        item that an interest brings next stand only excluded items and the fewer than k that are
        on the merged list.

    Returns:
      rows `[B, k]` int64, scores `[B, k]`, interests `[B, k]` int32.
    """
    shape = tf.shape(rows)
    interests = tf.broadcast_to(tf.range(shape[1])[None, :, None], shape)
    flat = [shape[0], shape[1] * shape[2]]
    return _merge(
        *(tf.reshape(x, flat) for x in (scores, rows, interests)),
        k=k,
        exclude=exclude,
        per_interest=per_interest,
    )


def prefer_repeats(
    found: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
    user_embedding: tf.Tensor,
    *,
    seen: tf.Tensor,
    seen_embedding: tf.Tensor,
    weight: float,
    seen_prior: tf.Tensor | None = None,
    exclude: tf.Tensor | None = None,
    per_interest: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Adds `weight * ln(1 + times bought)` to the scores of items that a user has bought before.

    Repeat purchases are a habit of the user with one item, which no inner product of short vectors
    holds. The index serves as it is: it finds what was not bought, and bought items are scored
    here, so that the list is exact for a weight of either sign.

    Args:
      found: rows `[B, k]`, scores `[B, k]`, interests `[B, k]`, as from `merge_interests`; no
        bought item is in it.
      user_embedding: `[B, C, d]`, any length.
      seen: `[B, N]` integer rows of the user's purchases, -1 for none.
      seen_embedding: `[B, N, d]`, their vectors, any length.
      weight: above 0 for goods that people buy again, below 0 for what they buy once.
      seen_prior: `[B, N]`, what the scores found have beside the cosine, of purchases; None is 0.
      exclude: `[B, E]` rows that must not come back, or None.
      per_interest: as in `merge_interests`; a bought item counts for its best interest.

    Returns:
      As `found`.
    """
    rows, scores, interests = found
    cosine = tf.einsum(
        "bcd,bnd->bcn",
        tf.math.l2_normalize(user_embedding, axis=-1),
        tf.math.l2_normalize(seen_embedding, axis=-1),
    )
    seen = tf.cast(seen, tf.int64)
    boosted = tf.reduce_max(cosine, axis=1) + habit(seen, seen, weight=weight)
    if seen_prior is not None:
        boosted += seen_prior
    return _merge(
        tf.concat([scores, boosted], axis=1),
        tf.concat([rows, seen], axis=1),
        tf.concat([interests, tf.argmax(cosine, axis=1, output_type=tf.int32)], axis=1),
        k=tf.shape(rows)[1],
        exclude=exclude,
        per_interest=per_interest,
    )


def habit(rows: tf.Tensor, seen: tf.Tensor, *, weight: float) -> tf.Tensor:
    """`weight * ln(1 + times bought)` of items `[B, M]` among purchases `[B, N]`: `[B, M]`."""
    rows, ordered = tf.cast(rows, tf.int64), tf.sort(tf.cast(seen, tf.int64), axis=1)
    times = _place(ordered, rows, "right") - _place(ordered, rows, "left")
    return weight * tf.math.log1p(tf.cast(times, tf.float32))


def rescore(
    found: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
    user_embedding: tf.Tensor,
    *,
    found_embedding: tf.Tensor,
    sharpness: float,
    k: int | tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Orders a list by Eq. 2, which no index can search, and cuts it to k.

    The cosine of the interest that fetched an item gives way to `softmax_score`; what was added to
    it, as by `prefer_repeats` and `popularity.prior`, stays.

    Args:
      found: rows `[B, N]`, scores `[B, N]`, interests `[B, N]`, as from `merge_interests`.
      user_embedding: `[B, C, d]`, any length.
      found_embedding: `[B, N, d]`, vectors of the items found, any length; of row -1, whatever.
      sharpness: of `softmax_score`.
      k: length of the new list.

    Returns:
      As `found`, `[B, k]`.
    """
    rows, scores, interests = found
    cosine = tf.einsum(
        "bcd,bnd->bcn",
        tf.math.l2_normalize(user_embedding, axis=-1),
        tf.math.l2_normalize(found_embedding, axis=-1),
    )
    fetched = tf.gather(
        tf.transpose(cosine, [0, 2, 1]), tf.maximum(interests, 0)[:, :, None], batch_dims=2
    )[:, :, 0]
    scores += _weighted(cosine, sharpness) - fetched
    return _merge(scores, rows, interests, k=k, exclude=None)


def _merge(
    scores: tf.Tensor,
    rows: tf.Tensor,
    interests: tf.Tensor,
    *,
    k: int | tf.Tensor,
    exclude: tf.Tensor | None,
    per_interest: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """`merge_interests` of flat lists `[B, M]`."""
    rows = tf.cast(rows, tf.int64)
    length = tf.shape(rows)[1]
    lowest = tf.constant(float("-inf"), scores.dtype)

    def order_by(index: tf.Tensor) -> None:
        nonlocal scores, rows, interests
        scores, rows, interests = (
            tf.gather(x, index, batch_dims=1) for x in (scores, rows, interests)
        )

    # Whatever stands twice with one score stands in the order of its interests.
    order_by(tf.argsort(scores, direction="DESCENDING", stable=True))
    order_by(tf.argsort(rows, stable=True))  # duplicates side by side, the best of them first
    gone = rows < 0
    if exclude is not None:
        ordered = tf.sort(tf.cast(exclude, tf.int64), axis=1)
        gone |= _place(ordered, rows, "right") > _place(ordered, rows, "left")
    if per_interest is None:
        drop = gone | _as_before(rows)
    else:
        scores = tf.where(gone, lowest, scores)
        order_by(tf.argsort(scores, direction="DESCENDING", stable=True))
        drop = _beyond_quota(rows, tf.math.is_inf(scores), interests, per_interest)
    scores = tf.where(drop, lowest, scores)
    scores, best = tf.math.top_k(scores, tf.minimum(k, length))  # equal ones: the lower row
    padding = [[0, 0], [0, tf.maximum(0, k - length)]]
    scores = tf.pad(scores, padding, constant_values=lowest)
    ended = tf.math.is_inf(scores)
    rows, interests = (tf.pad(tf.gather(x, best, batch_dims=1), padding) for x in (rows, interests))
    return tf.where(ended, tf.constant(-1, tf.int64), rows), scores, tf.where(ended, -1, interests)


def _as_before(rows: tf.Tensor) -> tf.Tensor:
    """`[B, M]` -> `[B, M]` bool, whether a row is the one before it."""
    first = tf.zeros_like(rows[:, :1], tf.bool)
    return tf.concat([first, rows[:, 1:] == rows[:, :-1]], axis=1)[:, : tf.shape(rows)[1]]


def _place(ordered: tf.Tensor, values: tf.Tensor, side: str) -> tf.Tensor:
    """Where values `[B, M]` belong in ascending lists `[B, N]`: comparing all with all would take
    memory that grows with M times N, and a client chooses both."""
    return tf.searchsorted(ordered, values, side=side)


def _repeated(rows: tf.Tensor) -> tf.Tensor:
    """`[B, M]` -> `[B, M]` bool, whether the same row stands anywhere before."""
    by_row = tf.argsort(rows, stable=True)
    repeated = _as_before(tf.gather(rows, by_row, batch_dims=1))
    return tf.gather(repeated, tf.argsort(by_row, stable=True), batch_dims=1)


def _beyond_quota(
    rows: tf.Tensor, gone: tf.Tensor, interests: tf.Tensor, quota: tf.Tensor
) -> tf.Tensor:
    """What to drop of lists `[B, M]`, best first, so that no interest brings more than its quota.

    The first item that breaks a quota closes its interest from there on; nothing before it changes,
    what stands after it may go to another interest. Each turn closes one interest of a user.

    Args:
      rows: `[B, M]`.
      gone: `[B, M]` bool, what is dropped anyway.
      interests: `[B, M]` int32.
      quota: scalar int32, at least 1.
    """
    batch, length = tf.shape(rows)[0], tf.shape(rows)[1]
    place = tf.range(length)
    of_interest = tf.one_hot(interests, 1 + tf.reduce_max(interests), dtype=tf.int32)

    def dropped(closed: tf.Tensor) -> tf.Tensor:
        shut = place >= tf.reduce_sum(of_interest * closed[:, None, :], axis=2)
        out = gone | shut
        return out | _repeated(tf.where(out, tf.constant(-1, rows.dtype), rows))

    def close(closed: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        kept = of_interest * tf.cast(~dropped(closed), tf.int32)[:, :, None]
        rank = tf.reduce_sum(kept * tf.cumsum(kept, axis=1), axis=2)
        first = tf.reduce_min(tf.where(rank > quota, place, length), axis=1, keepdims=True)
        breaks = tf.reduce_sum(of_interest * tf.cast(place == first, tf.int32)[:, :, None], axis=1)
        return tf.where(breaks > 0, first, closed), tf.reduce_any(first < length)

    closed = tf.fill([batch, tf.shape(of_interest)[2]], length)
    closed, _ = tf.while_loop(lambda _, more: more, close, [closed, tf.constant(True)])
    return dropped(closed)


def search_exact(
    user_embedding: tf.Tensor,
    item_embedding: tf.Tensor,
    k: int | tf.Tensor,
    exclude: tf.Tensor | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The k best items of each user by Eq. 3, by scoring them all.

    Args:
      user_embedding: `[B, C, d]`, any length.
      item_embedding: `[X, d]`, any length.
      k: how many; at most X - E come back.
      exclude: `[B, E]` rows that must not come back (-1 for none), or None.

    Returns:
      rows `[B, k]` int64, scores `[B, k]` cosines, interests `[B, k]` int32; see `merge_interests`.
    """
    excluded = 0 if exclude is None else tf.shape(exclude)[1]
    fetch = tf.minimum(k + excluded, tf.shape(item_embedding)[0])
    scores, rows = tf.math.top_k(cosines(user_embedding, item_embedding), k=fetch)
    return merge_interests(scores, rows, k=k, exclude=exclude)
