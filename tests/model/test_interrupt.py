"""Ctrl-C is never lost, and is Python's own again afterwards."""

import signal
import threading

import pytest
import tensorflow as tf

from guim_tf.interrupt import Interruptible
from guim_tf.keras_compat import keras


@pytest.fixture(autouse=True)
def _pythons_own_handler():
    """Whatever started the tests may ignore SIGINT, as a shell does for background jobs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def fit(*callbacks, epochs=50):
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensors((tf.ones([2, 1]), tf.ones([2, 1]))).repeat(4)
    return model.fit(data, epochs=epochs, callbacks=list(callbacks), verbose=0)


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
