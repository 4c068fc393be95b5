"""Ctrl-C is never lost, and is Python's own again afterwards."""

import signal
import threading

import pytest
import tensorflow as tf

from guim_tf.interrupt import Interruptible, Terminated
from guim_tf.keras_compat import keras


@pytest.fixture(autouse=True)
def _pythons_own_handlers():
    """Whatever started the tests may ignore SIGINT, as a shell does for background jobs."""
    own = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def fit(*callbacks, epochs=50, validation=None):
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensors((tf.ones([2, 1]), tf.ones([2, 1]))).repeat(4)
    return model.fit(
        data, validation_data=validation, epochs=epochs, callbacks=list(callbacks), verbose=0
    )


class SwallowedInterrupt(keras.callbacks.Callback):
    """Gets SIGINT where an exception is caught, as in a callback that TensorFlow runs."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                self.swallowed = True


def test_an_interrupt_that_others_would_swallow_stops_training():
    alone = SwallowedInterrupt()
    assert len(fit(alone, epochs=3).epoch) == 3, "without it the interrupt is lost"
    assert alone.swallowed
    with Interruptible() as interruptible, pytest.raises(KeyboardInterrupt):
        fit(SwallowedInterrupt(), interruptible)


def test_a_second_interrupt_is_raised_at_once():
    with Interruptible():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGINT)
    with Interruptible():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


def test_in_another_thread_it_changes_nothing():
    before, inside = signal.getsignal(signal.SIGINT), []

    def work():
        with Interruptible() as interruptible:
            inside.append(signal.getsignal(signal.SIGINT))
            fit(interruptible, epochs=1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert inside == [before]


def test_where_interrupts_are_ignored_they_stay_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interruptible() as interruptible:
        signal.raise_signal(signal.SIGINT)
        assert len(fit(interruptible, epochs=2).epoch) == 2


class Signal(keras.callbacks.Callback):
    """Sends itself a signal once, in a training or in a validation batch; notes what it sees."""

    def __init__(self, number, *, validating=False) -> None:
        super().__init__()
        self.number, self.validating = number, validating
        self.seen: list[str] = []

    def _send(self) -> None:
        if self.number:
            signal.raise_signal(self.number)
            self.number = None

    def on_train_batch_begin(self, batch, logs=None):
        self.seen.append("train")
        if not self.validating:
            self._send()

    def on_test_batch_begin(self, batch, logs=None):
        self.seen.append("test")
        if self.validating:
            self._send()

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append("end")


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)]
)
def test_a_signal_lets_the_batch_end_and_the_state_be_kept(number, error):
    kept, sender = [], Signal(number)
    with Interruptible(before=lambda: kept.append("state")) as last, pytest.raises(error):
        fit(sender, last)
    assert (sender.seen, kept) == (["train"], ["state"])


@pytest.mark.parametrize(
    ("number", "error", "seen"),
    [
        (signal.SIGINT, KeyboardInterrupt, ["test"]),
        (signal.SIGTERM, Terminated, ["test", "test", "end"]),
    ],
)
def test_in_validation_sigterm_waits_for_the_end_of_the_epoch(number, error, seen):
    kept, sender = [], Signal(number, validating=True)
    data = tf.data.Dataset.from_tensors((tf.ones([2, 1]), tf.ones([2, 1])))
    with Interruptible(before=lambda: kept.append("state")) as last, pytest.raises(error):
        fit(sender, last, validation=data.repeat(2))
    assert (sender.seen, kept) == (["train"] * 4 + seen, [])


def test_sigterm_is_the_systems_own_again_afterwards():
    with Interruptible():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_somebody_else_stays():
    def somebody_elses(number, frame):
        pass

    signal.signal(signal.SIGTERM, somebody_elses)
    with Interruptible():
        assert signal.getsignal(signal.SIGTERM) is somebody_elses
