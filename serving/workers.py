"""The threads that run requests, and whether any of them is busy."""

import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any


class Workers(futures.ThreadPoolExecutor):
    """A thread pool that can be waited for without being closed.

    The server's own count of open calls is of no use for that: a load balancer that watches the
    health service keeps one open for ever.
    """

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers, thread_name_prefix="serve")
        self._idle = threading.Condition()
        self._unfinished = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future:
        with self._idle:
            future = super().submit(fn, *args, **kwargs)
            self._unfinished += 1
        future.add_done_callback(self._done)
        return future

    def _done(self, future: futures.Future) -> None:
        with self._idle:
            self._unfinished -= 1
            self._idle.notify_all()

    def wait_idle(self, seconds: float) -> bool:
        """Waits until nothing runs or is queued; False if that takes longer than `seconds`."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._unfinished, seconds)
