"""Requests of concurrent clients, run together.

Batching is greedy: a thread that is free takes whatever waits, so that a lone client never waits
for company and a busy server forms large batches by itself. `batch_timeout_micros` above 0 waits
for fuller batches, as TF Serving does by default. What waits and runs is bounded: beyond it
requests are refused at once, for an answer that comes too late costs as much as one in time.
"""

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Hashable, Sequence
from concurrent import futures

import grpc
import tensorflow as tf

from guim_tf import schema
from serving import batches
from serving.batching_parameters import BatchingParameters
from serving.metrics import Metrics
from serving.servable import Call, RequestError, run

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class _Task:
    call: Call
    key: Hashable | None  # None: run alone
    rows: int  # None of its own where there is no common number
    deadline: float | None
    enqueued: float
    future: "futures.Future[batches.Arrays]"

    def is_late(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline


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
        self._held = 0  # rows that wait or run
        self._closed = False
        for number in range(parameters.num_batch_threads):
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True).start()

    def submit(
        self, call: Call, *, deadline: float | None = None
    ) -> "futures.Future[batches.Arrays]":
        """Queues a request.

        Args:
          call: what to run.
          deadline: of `time.monotonic()`, after which nobody waits for the answer.

        Returns:
          The outputs by name. It raises a RequestError or what TensorFlow raises; a cancelled one
          is not run.

        Raises:
          RequestError: RESOURCE_EXHAUSTED, there is no room; UNAVAILABLE, it is closed.
        """
        rows = batches.rows_of(call)
        task = _Task(
            call,
            self._key(call, rows),
            1 if rows is None else rows,
            deadline,
            time.monotonic(),
            futures.Future(),
        )
        with self._changed:
            if self._closed:
                raise _ending()
            self.require_room(self._cost(task))
            place = task if task.key is None else task.key
            self._queues.setdefault(place, deque()).append(task)
            self._count(self._cost(task))
            self._changed.notify()
        return task.future

    def require_room(self, rows: int = 1) -> None:
        """Whether there is room for so many rows: what runs and what waits may be `places` in all.

        Raises:
          RequestError: RESOURCE_EXHAUSTED.
        """
        if self._held + rows > self._parameters.places:
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "The batch scheduling queue to which this task was submitted is full; "
                f"{self._held} of {self._parameters.places} rows are running or waiting. "
                "Try again later.",
            )

    def close(self) -> None:
        """Ends the threads once they have run what they are running; what waits is refused."""
        with self._changed:
            self._closed = True
            waiting = [task for queue in self._queues.values() for task in queue]
            self._queues.clear()
            self._changed.notify_all()
        for task in waiting:
            if self._starts(task):
                self._fail(task, _ending())

    def _cost(self, task: _Task) -> int:
        """Places that a request takes: an empty one too, and a large one, which is run
        in pieces, not more than a batch."""
        return min(max(task.rows, 1), self._parameters.max_batch_size)

    def _count(self, rows: int) -> None:
        self._held += rows
        self._metrics.held.set(self._held)

    def _release(self, tasks: Sequence[_Task]) -> None:
        """Before they are answered: a client that comes back at once finds its old place."""
        with self._changed:
            self._count(-sum(self._cost(task) for task in tasks))

    def _fail(self, task: _Task, error: Exception) -> None:
        """Its traceback would keep the model and the inputs alive, in a cycle with the future."""
        self._release([task])
        task.future.set_exception(error.with_traceback(None))

    def _starts(self, task: _Task) -> bool:
        """Whether somebody still waits for the answer."""
        if not task.future.set_running_or_notify_cancel():
            self._release([task])
            return False
        if task.is_late():
            self._fail(task, _late())
            return False
        return True

    def _key(self, call: Call, rows: int | None) -> Hashable | None:
        ours = call.servable.row_by_row
        if not (ours or self._batch_all) or rows is None:
            return None
        if not 0 < rows <= self._parameters.max_batch_size:
            return None
        pad = ours and call.signature_name not in schema.PER_EVENT_SIGNATURES
        return batches.key_of(call, pad=pad or self._parameters.pad_variable_length_inputs)

    def _work(self) -> None:
        while True:
            with self._changed:
                tasks = self._take()
            if tasks is None:
                return
            try:
                self._run([task for task in tasks if self._starts(task)])
            except Exception as e:  # a thread less would serve nobody
                _log.exception("a batch failed")
                for task in tasks:
                    if not task.future.done():
                        self._fail(task, e)
            del tasks  # or this thread would keep a retired model alive while it waits

    def _take(self) -> list[_Task] | None:
        """The next batch, waiting for one; None when closed."""
        while not self._closed:
            now = time.monotonic()
            due = {place: self._due(queue) for place, queue in self._queues.items()}
            ready = [place for place, moment in due.items() if moment <= now]
            if ready:
                return self._pop(min(ready, key=lambda place: self._queues[place][0].enqueued))
            self._changed.wait(min(due.values()) - now if due else None)
        return None

    def _due(self, queue: deque[_Task]) -> float:
        """When a queue is to be run: at once if it fills a batch or waiting would fill nothing."""
        first = queue[0]
        rows = sum(task.rows for task in queue)
        if first.key is None or rows >= self._parameters.max_batch_size:
            return first.enqueued
        return first.enqueued + self._parameters.batch_timeout_micros / 1e6

    def _pop(self, place: Hashable) -> list[_Task]:
        queue = self._queues[place]
        tasks: list[_Task] = []
        rows = 0
        while queue and (not tasks or rows + queue[0].rows <= self._parameters.max_batch_size):
            task = queue.popleft()
            rows += 0 if task.future.cancelled() else task.rows
            tasks.append(task)
        if queue:
            self._changed.notify()
        else:
            del self._queues[place]
        return tasks

    def _run(self, tasks: Sequence[_Task]) -> None:
        if not tasks:
            return
        start = time.monotonic()
        call = tasks[0].call
        try:
            parts = [
                {name: part[name] for name in task.call.wanted}
                for task, part in zip(tasks, self._outputs(tasks), strict=True)
            ]
        except Exception as e:
            self._failed(tasks, e)
            return
        self._metrics.batch(
            call.servable.name,
            rows=sum(task.rows for task in tasks),
            seconds=time.monotonic() - start,
            waited=[start - task.enqueued for task in tasks],
        )
        self._release(tasks)
        for task, part in zip(tasks, parts, strict=True):
            task.future.set_result(part)

    def _failed(self, tasks: Sequence[_Task], error: Exception) -> None:
        """One request may spoil a batch for the others: its halves are run again."""
        if len(tasks) == 1:
            if not isinstance(error, (RequestError, tf.errors.OpError)):
                _log.error("%s failed", tasks[0].call.signature_name, exc_info=error)
            self._fail(tasks[0], error)
            return
        middle = len(tasks) // 2
        for half in (tasks[:middle], tasks[middle:]):
            for task in half:
                if task.is_late():
                    self._fail(task, _late())
            self._run([task for task in half if not task.future.done()])

    def _outputs(self, tasks: Sequence[_Task]) -> Sequence[batches.Arrays]:
        """Of each request."""
        first = tasks[0]
        servable, name = first.call.servable, first.call.signature_name
        step = self._parameters.max_batch_size
        if first.key is None:
            if not servable.row_by_row or first.rows <= step:
                return [run(servable, name, first.call.inputs)]
            pieces = []
            for inputs in batches.cut(first.call, first.rows, step):
                if first.is_late():
                    raise _late()
                pieces.append(run(servable, name, inputs))
            return [batches.join(pieces)]
        rows = sum(task.rows for task in tasks)
        allowed = self._parameters.allowed_batch_sizes
        size = next((s for s in allowed if s >= rows), rows)
        outputs = run(servable, name, batches.stack([task.call for task in tasks], size))
        return batches.split(outputs, [task.rows for task in tasks], size)


def _late() -> RequestError:
    return RequestError(
        grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline exceeded before the request was run"
    )


def _ending() -> RequestError:
    return RequestError(grpc.StatusCode.UNAVAILABLE, "The server is ending")
