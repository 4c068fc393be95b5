"""What a server says of users and items: each question of the page as one or two requests."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from serving import client
from serving.explore.endpoint import Endpoint
from serving.histories import Event, History, Item

USER_ENCODER, ITEM_ENCODER = "user_encoder", "item_encoder"
ENCODE_USERS, EXPLAIN = "encode_users", "explain"
_EVENTS = 512  # of a history that are sent, the latest; the model keeps what its window holds
_BATCH = 256  # items a request: well below the size of message that servers take


@dataclasses.dataclass(frozen=True)
class Found:
    """An item of a list, with its score there."""

    item_id: str
    score: float


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Why an item suits a user.

    Attributes:
      interest: the one that fetches the item; -1 for an item that the index does not have.
      scores: of each interest.
      attention: events with the share of that interest's attention that each has, largest first.
    """

    interest: int
    scores: tuple[float, ...]
    attention: tuple[tuple[Event, float], ...]


@dataclasses.dataclass(frozen=True)
class Server:
    """A TF Serving, or two: the encoders may be served elsewhere than the index.

    Every question raises `AnswerError` where there is no answer.

    Attributes:
      retrieval: has the index.
      encoders: has both encoders.
      model: name of the index.
      timeout: seconds a request.
    """

    retrieval: Endpoint
    encoders: Endpoint
    model: str = client.RETRIEVAL
    timeout: float = 30.0

    def require(self) -> None:
        """Raises `AnswerError` when a model that the page needs is not served."""
        self.retrieval.inputs_of(self.model, client.RECOMMEND, timeout=self.timeout)
        for model in (USER_ENCODER, ITEM_ENCODER):
            self.encoders.inputs_of(model, "", timeout=self.timeout)

    def recommend(
        self, history: History, *, k: int, exclude_seen: bool
    ) -> list[client.Recommendation]:
        """The k best items of all interests together, best first."""
        with self.retrieval.readable():
            [answer] = client.recommend(
                self.retrieval.channel,
                [_latest(history)],
                k=k,
                exclude_seen=exclude_seen,
                model=self.model,
                timeout=self.timeout,
            )
        return answer

    def encode_user(self, history: History) -> np.ndarray:
        """`[C, d]` float32."""
        inputs = _taken(
            _events(history),
            self.encoders.inputs_of(USER_ENCODER, ENCODE_USERS, timeout=self.timeout),
        )
        outputs = self.encoders.predict(USER_ENCODER, ENCODE_USERS, inputs, timeout=self.timeout)
        return outputs["user_embedding"][0]

    def of_each_interest(
        self, vectors: np.ndarray, *, k: int, without: Iterable[str] = ()
    ) -> list[list[Found]]:
        """The k best items of each interest on its own, best first.

        Args:
          vectors: `[C, d]`. Each is asked for as a user whose C vectors are all this one, so that
            the index ranks as it does for users and not as among items.
          k: items a list.
          without: ids that are left out.
        """
        left_out = set(without)
        alone = np.repeat(vectors[:, np.newaxis], len(vectors), axis=1)
        outputs = self.retrieval.predict(
            self.model,
            "nearest_items_to_user",
            {"user_embedding": alone, "k": np.array(k + len(left_out), np.int32)},
            timeout=self.timeout,
        )
        return [_found(*rows, k, left_out) for rows in _rows(outputs)]

    def neighbours(self, item: Item, *, k: int) -> list[Found]:
        """The k items nearest to one, without itself, best first."""
        outputs = self.retrieval.predict(
            self.model,
            "nearest_items",
            {"item_embedding": self.encode_items([item]), "k": np.array(k + 1, np.int32)},
            timeout=self.timeout,
        )
        [rows] = _rows(outputs)
        return _found(*rows, k, {item.item_id})

    def explain(self, history: History, item_id: str) -> Explanation | None:
        """None where the index has no such signature."""
        asked = self.retrieval.inputs_of(self.model, EXPLAIN, timeout=self.timeout)
        if not asked:
            return None
        inputs = _events(history) | {"explained_item_id": np.array([item_id], object)}
        outputs = self.retrieval.predict(
            self.model, EXPLAIN, _taken(inputs, asked), timeout=self.timeout
        )
        shares = map(float, outputs["attention"][0])
        attention = zip(_latest(history).events, shares, strict=False)
        return Explanation(
            interest=int(outputs["interest"][0]),
            scores=tuple(map(float, outputs["interest_score"][0])),
            attention=tuple(sorted(attention, key=lambda pair: -pair[1])),
        )

    def encode_items(
        self, items: Sequence[Item], *, progress: Callable[[int], None] = lambda done: None
    ) -> np.ndarray:
        """`[X, d]` float32, in batches; `progress` hears how many more are done."""
        vectors = []
        for start in range(0, len(items), _BATCH):
            some = items[start : start + _BATCH]
            columns = {
                name: np.array([getattr(item, name) for item in some], object)
                for name in ("item_id", "category_id", "title")
            }
            outputs = self.encoders.predict(
                ITEM_ENCODER, "encode_items", columns, timeout=self.timeout
            )
            vectors.append(outputs["item_embedding"])
            progress(len(some))
        return np.concatenate(vectors)


def _latest(history: History) -> History:
    return dataclasses.replace(history, events=history.events[-_EVENTS:])


def _events(history: History) -> dict[str, np.ndarray]:
    """Inputs of a signature that takes a history."""
    return client.recommend_inputs([_latest(history)], k=1, exclude_seen=False)


def _taken(inputs: Mapping[str, np.ndarray], asked: set[str]) -> dict[str, np.ndarray]:
    """Those that a signature takes: only models with action types take them."""
    return {name: values for name, values in inputs.items() if name in asked}


def _rows(outputs: dict[str, np.ndarray]) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    return zip(outputs["item_id"], outputs["score"], strict=True)


def _found(ids: np.ndarray, scores: np.ndarray, k: int, without: set[str]) -> list[Found]:
    found = (Found(i.decode("utf-8"), float(s)) for i, s in zip(ids, scores, strict=True) if i)
    return [one for one in found if one.item_id not in without][:k]
