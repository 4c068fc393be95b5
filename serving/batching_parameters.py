"""How requests are batched: TF Serving's BatchingParameters."""

import dataclasses
import os
from typing import Any


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """TF Serving's parameters of the same names.

    Attributes:
      max_batch_size: rows of a batch. A request with more is run by itself: in pieces where its
        model answers row by row, so that memory is bounded.
      batch_timeout_micros: how long the oldest request waits for a fuller batch.
      max_enqueued_batches: batches' worth of rows that may wait while all threads run full ones.
      num_batch_threads: batches that run at once.
      allowed_batch_sizes: sizes that batches are filled up to; empty for any.
      pad_variable_length_inputs: also requests of models that do not come from `guim export` may
        be filled up to one length, with empty text and zeros.
    """

    max_batch_size: int = 16
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 4
    num_batch_threads: int = dataclasses.field(default_factory=lambda: len(os.sched_getaffinity(0)))
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False

    def __post_init__(self) -> None:
        least = {"batch_timeout_micros": 0}
        for name in (
            "max_batch_size",
            "batch_timeout_micros",
            "max_enqueued_batches",
            "num_batch_threads",
        ):
            if getattr(self, name) < least.get(name, 1):
                raise ValueError(
                    f"{name} is {getattr(self, name)}, expected {least.get(name, 1)} or more."
                )
        sizes = self.allowed_batch_sizes
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != self.max_batch_size):
            raise ValueError(
                f"allowed_batch_sizes are {list(sizes)}, expected increasing numbers of which the "
                f"last is max_batch_size = {self.max_batch_size}."
            )

    @property
    def places(self) -> int:
        """Rows that may run or wait at a time."""
        return (self.max_enqueued_batches + self.num_batch_threads) * self.max_batch_size

    @classmethod
    def from_proto(cls, proto: Any) -> "BatchingParameters":
        """Of a `tensorflow.serving.BatchingParameters`; what it leaves out is as by default.

        Raises:
          ValueError: a number that can't be.
        """
        found: dict[str, Any] = {}
        for field, value in proto.ListFields():
            if field.name == "thread_pool_name":
                continue
            if field.name == "allowed_batch_sizes":
                found[field.name] = tuple(value)
            else:
                found[field.name] = getattr(value, "value", value)
        return cls(**found)
