"""What a server says of users and items: each question of the page as one or two requests."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import grpc
import numpy as np

from serving.client import RETRIEVAL, Recommendation, predict, recommend, recommend_inputs
from serving.client import signature_inputs as inputs_of
from serving.histories import History, Item

USER_ENCODER, ITEM_ENCODER = "user_encoder", "item_encoder"
_EVENTS = 512  # of a history that are sent, the latest; the model keeps what its window holds
_BATCH = 256  # items a request: well below the size of message that servers take


@dataclasses.dataclass(frozen=True)
class Found:
    """An item of a list, with its score there."""

    item_id: str
    score: float


@dataclasses.dataclass(frozen=True)
class Server:
    """A TF Serving, or two: the encoders may be served elsewhere than the index.

    Attributes:
      retrieval: channel to the index.
      encoders: channel to both encoders.
      model: name of the index.
      timeout: seconds a request.
    """

    retrieval: grpc.Channel
    encoders: grpc.Channel
    model: str = RETRIEVAL
    timeout: float = 30.0

    def require(self) -> None:
        """Raises `grpc.RpcError` when a model that the page needs is not served."""
        for channel, model, signature in (
            (self.retrieval, self.model, "recommend"),
            (self.encoders, USER_ENCODER, "encode_users"),
            (self.encoders, ITEM_ENCODER, "encode_items"),
        ):
            inputs_of(channel, model, signature, timeout=self.timeout)

    def recommend(self, history: History, *, k: int, exclude_seen: bool) -> list[Recommendation]:
        """The k best items of all interests together, best first."""
        [answer] = recommend(
            self.retrieval,
            [_latest(history)],
            k=k,
            exclude_seen=exclude_seen,
            model=self.model,
            timeout=self.timeout,
        )
        return answer

    def encode_user(self, history: History) -> np.ndarray:
        """`[C, d]` float32."""
        inputs = recommend_inputs([_latest(history)], k=1, exclude_seen=False)
        asked = inputs_of(self.encoders, USER_ENCODER, "encode_users", timeout=self.timeout)
        inputs = {name: values for name, values in inputs.items() if name in asked}
        outputs = predict(self.encoders, USER_ENCODER, "encode_users", inputs, timeout=self.timeout)
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
        outputs = predict(
            self.retrieval,
            self.model,
            "nearest_items_to_user",
            {"user_embedding": alone, "k": np.array(k + len(left_out), np.int32)},
            timeout=self.timeout,
        )
        return [_found(*rows, k, left_out) for rows in _rows(outputs)]

    def neighbours(self, item: Item, *, k: int) -> list[Found]:
        """The k items nearest to one, without itself, best first."""
        outputs = predict(
            self.retrieval,
            self.model,
            "nearest_items",
            {"item_embedding": self.encode_items([item]), "k": np.array(k + 1, np.int32)},
            timeout=self.timeout,
        )
        [rows] = _rows(outputs)
        return _found(*rows, k, {item.item_id})

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
            outputs = predict(
                self.encoders, ITEM_ENCODER, "encode_items", columns, timeout=self.timeout
            )
            vectors.append(outputs["item_embedding"])
            progress(len(some))
        return np.concatenate(vectors)


def _latest(history: History) -> History:
    return dataclasses.replace(history, events=history.events[-_EVENTS:])


def _rows(outputs: dict[str, np.ndarray]) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    return zip(outputs["item_id"], outputs["score"], strict=True)


def _found(ids: np.ndarray, scores: np.ndarray, k: int, without: set[str]) -> list[Found]:
    found = (Found(i.decode("utf-8"), float(s)) for i, s in zip(ids, scores, strict=True) if i)
    return [one for one in found if one.item_id not in without][:k]
