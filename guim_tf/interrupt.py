"""Ctrl-C during `model.fit` that is never lost."""

import signal
import threading
import types
from typing import Any

from guim_tf.keras_compat import keras


class Interruptible(keras.callbacks.Callback):
    """Raises KeyboardInterrupt after the batch in which SIGINT came.

    Python raises it wherever the main thread stands; inside a callback of TensorFlow's or a
    finaliser it would be printed and forgotten, and training would go on. A second SIGINT is
    raised where it comes. To be used as a context around `model.fit`, which gets it as a callback.
    In other threads than the main one, and where SIGINT is ignored or handled by somebody else, as
    in a background job of a shell, it does nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._asked = False
        self._previous: Any = None

    def __enter__(self) -> "Interruptible":
        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if ours and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)

    def _ask(self, number: int, frame: types.FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._asked:
            raise KeyboardInterrupt

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.on_train_batch_end(batch)
