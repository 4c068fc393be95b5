"""What `retrieval` and `retrieval_exact` serve: recommendations, neighbours, and why."""

import tensorflow as tf

from guim_tf import schema as names
from guim_tf.artifacts import Signatures, Warmup
from guim_tf.config import Config
from guim_tf.export import EVENTS, action_inputs, warmup_history
from guim_tf.graphs import trace
from guim_tf.lookup import IdTable, SortedIds
from guim_tf.mixture import RESCORED, habit, merge_interests, prefer_repeats, rescore
from guim_tf.schema import Schema
from guim_tf.vector_search import Search, Vectors, search_within

NO_SCORE = -1.0  # beside the empty id where a catalogue has fewer than k items left
# What one request may ask for: its memory grows with both.
MAX_K = 10_000
MAX_EVENTS = 4_096
_NO_CATEGORY = 0  # the row of items that have none, whose category id is ""

Lists = tuple[tf.Tensor, tf.Tensor, tf.Tensor]  # rows, scores and interests, of `merge_interests`


class Recommender(tf.Module):
    """Encodes users, searches once for each of their vectors, merges the lists.

    Args:
      search: over `vectors`; answers catalogue rows.
      vectors: of the items, held once for all that needs them.
      item_ids: the catalogue, row by row.
      category_ids: `[X]`, the category of each item, "" where there is none.
      category_file: the distinct ones but "", as such a file.
      user_encoder: the loaded SavedModel.
      config: C, d, the window, the weight of repeats and the sharpness of Eq. 2.
    """

    def __init__(
        self,
        search: Search,
        *,
        vectors: Vectors,
        item_ids: list[str],
        category_ids: list[str],
        category_file: str,
        user_encoder: tf.Module,
        config: Config,
    ) -> None:
        super().__init__()
        self.search = search
        self.vectors = vectors
        self.item_ids = SortedIds(item_ids)
        self._categories = len(set(category_ids) - {""})
        self.category_rows = IdTable(category_file, size=self._categories)
        self.category_of = tf.Variable(
            self._category_rows(tf.constant(category_ids)), trainable=False, name="category_of"
        )
        self.user_encoder = user_encoder
        self._interests = config.model.interests
        self._model_config = config.model
        self._history_seconds = config.window.history_days * names.DAY
        self._repeat_weight = config.retrieval.repeat_weight
        self._sharpness = config.retrieval.rescore_sharpness

    def recommend(
        self,
        item_id: tf.Tensor,
        category_id: tf.Tensor,
        title: tf.Tensor,
        timestamp: tf.Tensor,
        as_of: tf.Tensor,
        k: tf.Tensor,
        exclude_seen: tf.Tensor,
        action: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """The best k items of each user: ids, scores and the interest that brought each."""
        history = _history(item_id, category_id, title, timestamp, as_of, action)
        return self._recommend(history, k, exclude_seen)

    def recommend_filtered(
        self,
        item_id: tf.Tensor,
        category_id: tf.Tensor,
        title: tf.Tensor,
        timestamp: tf.Tensor,
        as_of: tf.Tensor,
        k: tf.Tensor,
        exclude_seen: tf.Tensor,
        category_filter: tf.Tensor,
        per_interest: tf.Tensor,
        action: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """`recommend` among the items of some categories, and with a quota for each interest.

        Args:
          category_filter: `[F]`, the categories; none of them is all. Items of these alone are
            scored, each of them, so that a list is exact and is full where they have k items.
          per_interest: how many items one interest may bring; 0 is no quota.
        """
        tf.debugging.assert_non_negative(per_interest, message="per_interest must be 0 or more")
        history = _history(item_id, category_id, title, timestamp, as_of, action)
        quota = tf.where(per_interest > 0, per_interest, tf.int32.max)
        return tf.cond(
            tf.size(category_filter) > 0,
            lambda: self._recommend(
                history, k, exclude_seen, allowed=self._allowed(category_filter), quota=quota
            ),
            lambda: self._recommend(history, k, exclude_seen, quota=quota),
        )

    def nearest_items(self, item_embedding: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        """The items nearest to each vector `[B, d]`, by the cosine alone."""
        k = _bounded(k)
        answer = self._answer(*self._search(item_embedding[:, None, :], k, of_users=False))
        return {"item_id": answer["item_id"], "score": answer["score"]}

    def nearest_items_to_user(
        self, user_embedding: tf.Tensor, k: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The best items of users given by their vectors `[B, C, d]`."""
        k = _bounded(k)
        found = self._search(user_embedding, self._listed(k))
        return self._answer(*self._rescored(found, user_embedding, k))

    def explain(
        self,
        item_id: tf.Tensor,
        category_id: tf.Tensor,
        title: tf.Tensor,
        timestamp: tf.Tensor,
        as_of: tf.Tensor,
        explained_item_id: tf.Tensor,
        action: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Why an item `[B]` suits a user: by which interest, and which events made that interest.

        Scores are those of `recommend` before Eq. 2, of one interest each. An item that the index
        does not have gets interest -1, scores -1 and no attention: it is an answer and no error,
        for requests of many clients may be one batch.
        """
        history = _of_bounded_length(
            _history(item_id, category_id, title, timestamp, as_of, action)
        )
        users = self.user_encoder.signatures["encode_users_with_attention"](**history)
        row = self.item_ids(explained_item_id)
        known = row >= 0
        vector, prior = self.vectors.of(row)
        unit = tf.math.l2_normalize(users["user_embedding"], axis=-1)
        score = tf.einsum("bcd,bd->bc", unit, vector) + prior[:, None]
        if self._repeat_weight:
            score += habit(row[:, None], self._bought(history), weight=self._repeat_weight)
        interest = tf.argmax(score, axis=1, output_type=tf.int32)
        attention = tf.gather(users["attention"], interest, batch_dims=1)
        return {
            "interest": tf.where(known, interest, -1),
            "interest_score": tf.where(known[:, None], score, NO_SCORE),
            "attention": tf.where(known[:, None], attention, 0.0),
        }

    def _recommend(
        self,
        history: dict[str, tf.Tensor],
        k: tf.Tensor,
        exclude_seen: tf.Tensor,
        *,
        allowed: tf.Tensor | None = None,
        quota: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        k, history = _bounded(k), _of_bounded_length(history)
        users = self.user_encoder.signatures["encode_users"](**history)["user_embedding"]
        seen = self.item_ids(history["item_id"])  # -1 for unknown and padding
        exclude = tf.where(exclude_seen, seen, -1)
        wanted = self._listed(k)
        if self._repeat_weight:
            bought = self._bought(history)
            listed = tf.where(exclude_seen, seen, bought)
            found = self._search(users, wanted, exclude=listed, allowed=allowed, quota=quota)
            if allowed is not None:
                bought = tf.where(tf.gather(allowed, tf.maximum(bought, 0)), bought, -1)
            vectors, priors = self.vectors.of(bought)
            found = prefer_repeats(
                found,
                users,
                seen=bought,
                seen_embedding=vectors,
                seen_prior=priors,
                weight=self._repeat_weight,
                exclude=exclude,
                per_interest=quota,
            )
        else:
            found = self._search(users, wanted, exclude=exclude, allowed=allowed, quota=quota)
        return self._answer(*self._rescored(found, users, k))

    def _bought(self, history: dict[str, tf.Tensor]) -> tf.Tensor:
        """Rows `[B, N]` of the events that habits count, -1 for others and the unknown.

        As in the evaluation those are the ones of the window, which the encoder reads too.
        """
        timestamp, as_of = history["timestamp"], history["as_of"][:, None]
        inside = (timestamp < as_of) & (timestamp >= as_of - self._history_seconds)
        return tf.where(inside, self.item_ids(history["item_id"]), -1)

    def _listed(self, k: tf.Tensor) -> tf.Tensor:
        """How many items to list so that k are left in the end."""
        if self._sharpness is None:
            return k
        return tf.maximum(k, tf.minimum(RESCORED * k, self.vectors.count))

    def _rescored(self, found: Lists, users: tf.Tensor, k: tf.Tensor) -> Lists:
        if self._sharpness is None:
            return found
        vectors, _ = self.vectors.of(found[0])
        return rescore(found, users, found_embedding=vectors, sharpness=self._sharpness, k=k)

    def _search(
        self,
        vectors: tf.Tensor,
        k: tf.Tensor,
        *,
        exclude: tf.Tensor | None = None,
        allowed: tf.Tensor | None = None,
        quota: tf.Tensor | None = None,
        of_users: bool = True,
    ) -> Lists:
        """Rows, scores and interests `[B, k]`: one search for each vector, merged."""
        tf.debugging.assert_all_finite(vectors, "vectors must be finite, got NaN or infinity")
        shape = tf.shape(vectors)
        flat = tf.reshape(vectors, [-1, self.vectors.dim])
        queries = self.vectors.queries(flat, of_users=of_users)
        excluded = 0 if exclude is None else tf.shape(exclude)[1]
        fetch = tf.minimum(k + excluded, self.vectors.count)  # k are left without the seen ones
        scores, rows = (
            self.search(queries, fetch)
            if allowed is None
            else search_within(self.vectors, allowed, queries, fetch)
        )
        lists = [shape[0], shape[1], fetch]
        return merge_interests(
            tf.reshape(scores, lists),
            tf.reshape(rows, lists),
            k=k,
            exclude=exclude,
            per_interest=quota,
        )

    def _allowed(self, category_filter: tf.Tensor) -> tf.Tensor:
        """`[F]` -> `[X]` bool, which items are of these categories."""
        named = self._category_rows(category_filter)
        count = tf.math.bincount(named, minlength=names.FIRST_ROW + self._categories)
        return tf.gather(count > 0, self.category_of)

    def _category_rows(self, ids: tf.Tensor) -> tf.Tensor:
        """`[n]` string -> `[n]` int32; `names.UNKNOWN_ROW` is what the catalogue does not have."""
        return tf.where(ids == "", _NO_CATEGORY, tf.cast(self.category_rows(ids), tf.int32))

    def _answer(
        self, rows: tf.Tensor, scores: tf.Tensor, interests: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        ids = tf.gather(self.item_ids.ids, tf.maximum(rows, 0))
        return {
            "item_id": tf.where(rows < 0, "", ids),
            "score": tf.where(rows < 0, NO_SCORE, scores),
            "interest": interests,
        }

    def signatures(self) -> Signatures:
        k = tf.TensorSpec([], tf.int32, "k")
        request = [*EVENTS.values(), k, tf.TensorSpec([], tf.bool, "exclude_seen")]
        limits = [
            tf.TensorSpec([None], tf.string, "category_filter"),
            tf.TensorSpec([], tf.int32, "per_interest"),
        ]
        explained = tf.TensorSpec([None], tf.string, "explained_item_id")
        action = action_inputs(self._model_config)
        sets = [None, self._interests, self.vectors.dim]
        item = tf.TensorSpec([None, self.vectors.dim], tf.float32, "item_embedding")
        user = tf.TensorSpec(sets, tf.float32, "user_embedding")
        found = {
            "recommend": trace(self.recommend, [*request, *action]),
            "recommend_filtered": trace(self.recommend_filtered, [*request, *limits, *action]),
            "nearest_items": trace(self.nearest_items, [item, k]),
            "nearest_items_to_user": trace(self.nearest_items_to_user, [user, k]),
            "explain": trace(self.explain, [*EVENTS.values(), explained, *action]),
        }
        return {"serving_default": found["recommend"]} | found

    def warmup(self, schema: Schema) -> Warmup:
        k = tf.constant(10)
        history = warmup_history(schema, self._model_config)
        request = history | {"k": k, "exclude_seen": tf.constant(True)}
        one = tf.constant(["warm-up"])
        return {
            "recommend": request,
            "recommend_filtered": request
            | {"category_filter": one, "per_interest": tf.constant(1)},
            "nearest_items": {"item_embedding": tf.ones([1, self.vectors.dim]), "k": k},
            "explain": history | {"explained_item_id": one},
        }


def _bounded(k: tf.Tensor) -> tf.Tensor:
    """k, once it is known to be no nonsense: a check beside the graph would not wait for it."""
    checks = [
        tf.debugging.assert_positive(k, message="k must be at least 1"),
        tf.debugging.assert_less_equal(k, MAX_K, message=f"k must be at most {MAX_K}"),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(k)


def _of_bounded_length(history: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The history, once it is known to be no longer than `MAX_EVENTS`."""
    check = tf.debugging.assert_less_equal(
        tf.shape(history["item_id"])[1],
        MAX_EVENTS,
        message=f"a history may have {MAX_EVENTS} events: send the most recent ones",
    )
    with tf.control_dependencies([check]):
        return {name: tf.identity(tensor) for name, tensor in history.items()}


def _history(*inputs: tf.Tensor | None) -> dict[str, tf.Tensor]:
    """The inputs of `encode_users` by name, of which `action` may be None."""
    given = zip((*EVENTS, "action"), inputs, strict=True)
    return {name: tensor for name, tensor in given if tensor is not None}
