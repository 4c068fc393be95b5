"""Ctrl-C and SIGTERM during `model.fit`: training stops between two batches, its state kept."""

import signal
import threading
import types
from collections.abc import Callable
from typing import Any

from guim_tf.keras_compat import keras


class Terminated(KeyboardInterrupt):
    """SIGTERM came: an interruption, with an exit status of its own."""

    status = 143


class Interruptible(keras.callbacks.Callback):
    """Raises KeyboardInterrupt after the batch in which SIGINT came, `Terminated` for SIGTERM.

    Python raises the first wherever the main thread stands; inside a callback of TensorFlow's or a
    finaliser it would be printed and forgotten, and training would go on. A second signal is raised
    where it comes. During validation SIGTERM waits for its end, when the epoch is kept. To be used
    as a context around `model.fit`, which gets it as its last callback. In other threads than the
    main one, and for a signal that is ignored or handled by somebody else, as SIGINT is in a
    background job of a shell, it does nothing.

    Args:
      before: called between two training batches before it raises, to keep what there is.
    """

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._before = before
        self._asked: type[BaseException] | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruptible":
        if threading.current_thread() is threading.main_thread():
            pythons = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
            for number, handler in pythons.items():
                if signal.getsignal(number) is handler:
                    self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        error = KeyboardInterrupt if number == signal.SIGINT else Terminated
        if self._asked:
            raise error
        self._asked = error

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._asked:
            self._before()
            raise self._asked

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._asked is KeyboardInterrupt:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._asked:
            raise self._asked
