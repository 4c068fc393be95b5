"""Requests of concurrent clients, run together.

Batching is greedy: a thread that is free takes whatever waits, so that a lone client never waits
for company and a busy server forms large batches by itself. `batch_timeout_micros` above 0 waits
for fuller batches, as TF Serving does by default. What waits is bounded: beyond it requests are
refused at once, for an answer that comes too late costs as much as one in time.
"""

import dataclasses
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from concurrent import futures
from typing import Any

import grpc
import numpy as np

from guim_tf import schema
from serving.metrics import Metrics
from serving.servable import Call, RequestError, run


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """TF Serving's parameters of the same names.

    Attributes:
      max_batch_size: rows of a batch. A request with more is run by itself: in pieces where its
        model answers row by row, so that memory is bounded.
      batch_timeout_micros: how long the oldest request waits for a fuller batch.
      max_enqueued_batches: times `max_batch_size`, the rows that may wait.
      num_batch_threads: batches that run at once.
      allowed_batch_sizes: sizes that batches are filled up to; empty for any.
      pad_variable_length_inputs: also requests of models that do not come from `guim export` may
        be filled up to one length, with empty text and zeros.
    """

    max_batch_size: int = 16
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 4
    num_batch_threads: int = dataclasses.field(default_factory=lambda: os.cpu_count() or 1)
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


@dataclasses.dataclass(frozen=True)
class _Task:
    call: Call
    key: Hashable  # an object of its own for one that is run alone
    rows: int
    deadline: float | None
    enqueued: float
    future: "futures.Future[dict[str, np.ndarray]]"

    @property
    def alone(self) -> bool:
        return type(self.key) is object

    @property
    def row_by_row(self) -> bool:
        """Whether rows of this request may be run apart from each other."""
        inputs = self.call.inputs.items()
        sizes = {len(x) for name, x in inputs if not _is_shared(name, x)}
        return self.call.servable.row_by_row and sizes == {self.rows}


class Batcher:
    """A bounded queue and the threads that empty it.

    Args:
      parameters: sizes and bounds.
      batch_all: whether requests of any model are batched; otherwise only of those whose signatures
        are known to be row by row, which are the models of `guim export` and `guim index`.
      metrics: where sizes and times go.
    """

    def __init__(
        self, parameters: BatchingParameters, *, batch_all: bool = False, metrics: Metrics
    ) -> None:
        self._parameters = parameters
        self._batch_all = batch_all
        self._metrics = metrics
        self._changed = threading.Condition()
        self._queues: dict[Hashable, deque[_Task]] = {}
        self._rows = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True)
            for number in range(parameters.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, call: Call, *, deadline: float | None = None
    ) -> "futures.Future[dict[str, np.ndarray]]":
        """Queues a request.

        Args:
          call: what to run.
          deadline: of `time.monotonic()`, after which nobody waits for the answer.

        Returns:
          The outputs by name. It raises a RequestError or what TensorFlow raises; a cancelled one
          is not run.

        Raises:
          RequestError: RESOURCE_EXHAUSTED, too much is waiting.
        """
        key, rows = self._group(call)
        task = _Task(call, key, rows, deadline, time.monotonic(), futures.Future())
        with self._changed:
            self.require_room(rows)
            self._queues.setdefault(key, deque()).append(task)
            self._rows += rows
            self._metrics.queued.set(self._rows)
            self._changed.notify()
        return task.future

    def require_room(self, rows: int = 1) -> None:
        """Whether so many rows may wait.

        Raises:
          RequestError: RESOURCE_EXHAUSTED.
        """
        bound = self._parameters.max_batch_size * self._parameters.max_enqueued_batches
        if self._rows and self._rows + rows > bound:
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "The batch scheduling queue to which this task was submitted is full; "
                f"{self._rows} of {bound} rows are waiting. Try again later.",
            )

    def close(self) -> None:
        """Ends the threads once they have run what they are running; what waits is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _group(self, call: Call) -> tuple[Hashable, int]:
        """What requests must share to be run together, and the rows of this one."""
        shared: list[Hashable] = [id(call.servable), call.signature_name]
        sizes = set()
        guim = call.servable.row_by_row
        padded = self._parameters.pad_variable_length_inputs or (
            guim and call.signature_name not in schema.PER_EVENT_SIGNATURES
        )
        for name, array in sorted(call.inputs.items()):
            if _is_shared(name, array):
                shared.append((name, array.dtype, tuple(array.ravel().tolist())))
            else:
                sizes.add(array.shape[0])
                shared.append((name, array.ndim if padded else array.shape[1:]))
        if len(sizes) != 1 or not (guim or self._batch_all):  # no rows, or the graph may say why
            return object(), max(sizes, default=1)
        rows = sizes.pop()
        alone = not 0 < rows <= self._parameters.max_batch_size
        return (object() if alone else tuple(shared)), rows

    def _work(self) -> None:
        while True:
            with self._changed:
                tasks = self._take()
            if tasks is None:
                return
            self._run([task for task in tasks if _starts(task)])
            del tasks  # or this thread would keep a retired model alive while it waits

    def _take(self) -> list[_Task] | None:
        """The next batch, waiting for one; None when closed."""
        while not self._closed:
            wait = None
            if self._queues:
                key = min(self._queues, key=lambda key: self._queues[key][0].enqueued)
                queue = self._queues[key]
                due = queue[0].enqueued + self._parameters.batch_timeout_micros / 1e6
                wait = due - time.monotonic()
                full = sum(task.rows for task in queue) >= self._parameters.max_batch_size
                if full or wait <= 0 or queue[0].alone:
                    return self._pop(key)
            self._changed.wait(wait)
        return None

    def _pop(self, key: Hashable) -> list[_Task]:
        queue = self._queues[key]
        tasks = [queue.popleft()]
        rows = tasks[0].rows
        while queue and rows + queue[0].rows <= self._parameters.max_batch_size:
            rows += queue[0].rows
            tasks.append(queue.popleft())
        if queue:
            self._changed.notify()
        else:
            del self._queues[key]
        self._rows -= rows
        self._metrics.queued.set(self._rows)
        return tasks

    def _run(self, tasks: Sequence[_Task]) -> None:
        if not tasks:
            return
        start = time.monotonic()
        call = tasks[0].call
        try:
            pieces = [
                run(call.servable, call.signature_name, inputs) for inputs in self._inputs(tasks)
            ]
            outputs = pieces[0] if len(pieces) == 1 else _joined(pieces)
            parts = _split(outputs, [task.rows for task in tasks], whole=tasks[0].alone)
        except Exception as e:
            if len(tasks) == 1:
                tasks[0].future.set_exception(e)
            else:  # one request may spoil it for the others: each by itself
                for task in tasks:
                    self._run([task])
            return
        self._metrics.batch(
            call.servable.name,
            rows=sum(task.rows for task in tasks),
            seconds=time.monotonic() - start,
            waited=[start - task.enqueued for task in tasks],
        )
        for task, part in zip(tasks, parts, strict=True):
            task.future.set_result({name: part[name] for name in task.call.wanted})

    def _inputs(self, tasks: Sequence[_Task]) -> list[Mapping[str, np.ndarray]]:
        """Inputs of all requests, row after row, filled up to an allowed size; or those of one
        large request in pieces."""
        first = tasks[0]
        if first.alone:
            step = self._parameters.max_batch_size
            if not first.row_by_row or first.rows <= step:
                return [first.call.inputs]
            return [
                {
                    name: x if x.ndim == 0 else x[n : n + step]
                    for name, x in first.call.inputs.items()
                }
                for n in range(0, first.rows, step)
            ]
        rows = sum(task.rows for task in tasks)
        sizes = self._parameters.allowed_batch_sizes
        size = next((s for s in sizes if s >= rows), rows)
        return [
            {
                name: x
                if _is_shared(name, x)
                else _stack([t.call.inputs[name] for t in tasks], size)
                for name, x in first.call.inputs.items()
            }
        ]


def _is_shared(name: str, array: np.ndarray) -> bool:
    """Whether an input is of the whole request, and not of its rows."""
    return array.ndim == 0 or name == schema.CATEGORY_FILTER


def _starts(task: _Task) -> bool:
    """Whether somebody still waits for the answer."""
    if not task.future.set_running_or_notify_cancel():
        return False
    if task.deadline is not None and time.monotonic() > task.deadline:
        task.future.set_exception(
            RequestError(
                grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded before the request was run"
            )
        )
        return False
    return True


def _stack(arrays: Sequence[np.ndarray], size: int) -> np.ndarray:
    """`[size, ...]`: the rows of arrays; shorter rows end, and missing ones are, blank."""
    if sum(len(a) for a in arrays) == size and len({a.shape[1:] for a in arrays}) == 1:
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    inner = tuple(max(sizes) for sizes in zip(*(a.shape[1:] for a in arrays), strict=True))
    dtype = arrays[0].dtype
    stacked = np.full((size, *inner), b"" if dtype.kind == "O" else 0, dtype)
    row = 0
    for array in arrays:
        place = (slice(row, row + len(array)), *(slice(n) for n in array.shape[1:]))
        stacked[place] = array
        row += len(array)
    return stacked


def _joined(pieces: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _split(
    outputs: Mapping[str, np.ndarray], rows: Sequence[int], *, whole: bool
) -> list[Mapping[str, np.ndarray]]:
    """The outputs of each request.

    Raises:
      ValueError: an output has not a row for each row of the inputs.
    """
    if whole:
        return [outputs]
    ends = list(itertools.accumulate(rows))
    for name, output in outputs.items():
        if output.ndim == 0 or len(output) < ends[-1]:
            raise ValueError(f"output {name} of shape {output.shape} has not {ends[-1]} rows")
    return [
        {name: output[end - n : end] for name, output in outputs.items()}
        for n, end in zip(rows, ends, strict=True)
    ]
