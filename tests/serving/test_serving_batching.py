"""Which requests run together, in which order, and what becomes of those that can't."""

import gc
import itertools
import queue
import threading
import time
import weakref

import grpc
import numpy as np
import pytest
import tensorflow as tf

from serving.batching import Batcher
from serving.batching_parameters import BatchingParameters
from serving.metrics import Metrics
from serving.servable import Call, RequestError, Servable

TIMEOUT = 60


class Recorder:
    """A model that says what it was called with: rows plus `add`, or one that refuses a 13."""

    def __init__(self):
        self.calls = []
        self.running = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, **inputs):
        self.calls.append({name: value.numpy() for name, value in inputs.items()})
        self.running.set()
        assert self.gate.wait(TIMEOUT)
        x = inputs["x"]
        if x.dtype == tf.string:
            return {"y": tf.strings.length(x)}
        if 13 in x.numpy():
            raise tf.errors.InvalidArgumentError(None, None, "thirteen")
        return {"y": x + inputs.get("add", 0), "twice": 2 * x}

    def shapes(self):
        return [call["x"].shape for call in self.calls]


@pytest.fixture
def model():
    return Recorder()


@pytest.fixture
def start(model):
    """Starts a batcher of one thread; at the end it is closed and the model let go."""
    started = []

    def make(**parameters):
        others = {name: parameters.pop(name) for name in ["batch_all"] if name in parameters}
        found = Batcher(
            BatchingParameters(**({"num_batch_threads": 1} | parameters)),
            metrics=Metrics(),
            **others,
        )
        started.append(found)
        return found

    yield make
    model.gate.set()
    for batcher in started:
        end = time.monotonic() + TIMEOUT
        while batcher._held and not batcher._queues and time.monotonic() < end:
            time.sleep(0.01)
        assert batcher._queues or not batcher._held, "a place was never given back"
        batcher.close()


def call(model, x, *, row_by_row=True, wanted=("y",), **inputs) -> Call:
    if not hasattr(model, "servable"):
        model.servable = Servable("m", 1, None, {}, {"f": model}, row_by_row=row_by_row)
    return Call(model.servable, "f", {"x": np.asarray(x)} | inputs, wanted)


def hold(batcher, model):
    """Keeps the only thread busy with a call of its own; what follows has to wait."""
    model.gate.clear()
    model.running.clear()
    held = batcher.submit(call(model, [[0]]))
    assert model.running.wait(TIMEOUT)
    return held


def test_what_waits_together_runs_together_and_everyone_gets_his_own_rows(start, model):
    batcher = start()
    hold(batcher, model)
    futures = [batcher.submit(call(model, [[n, n]] * n)) for n in (1, 2, 3)]
    model.gate.set()

    for n, future in zip((1, 2, 3), futures, strict=True):
        np.testing.assert_array_equal(future.result(TIMEOUT)["y"], [[n, n]] * n)
    assert model.shapes() == [(1, 1), (6, 2)]


def test_only_the_outputs_that_are_wanted_come_back(start, model):
    found = start().submit(call(model, [1], wanted=["twice"])).result(TIMEOUT)
    assert found.keys() == {"twice"}


def test_shorter_rows_end_blank(start, model):
    batcher = start()
    hold(batcher, model)
    texts = [["a", "b"], ["c", "dd", "eee"], ["f"] * 4]  # four and two are too far apart
    futures = [batcher.submit(call(model, np.array([text], object))) for text in texts]
    model.gate.set()

    answers = [future.result(TIMEOUT)["y"].tolist() for future in futures]
    assert answers == [[[1, 1, 0]], [[1, 2, 3]], [[1, 1, 1, 1]]]
    assert model.calls[1]["x"].tolist() == [[b"a", b"b", b""], [b"c", b"dd", b"eee"]]
    assert model.shapes()[1:] == [(2, 3), (1, 4)]


def test_other_scalars_ranks_or_dtypes_run_apart(start, model):
    batcher = start()
    hold(batcher, model)
    futures = [batcher.submit(call(model, [1], add=np.array(n))) for n in (5, 7, 5)] + [
        batcher.submit(call(model, [[1]], add=np.array(5)))
    ]
    model.gate.set()

    answers = [future.result(TIMEOUT)["y"].tolist() for future in futures]
    assert answers == [[6], [8], [6], [[6]]]
    assert model.shapes() == [(1, 1), (2,), (1,), (1, 1)]


def test_a_filter_is_of_a_whole_request_whatever_its_length(start, model):
    """It has as many rows as the request by chance."""
    batcher = start()
    hold(batcher, model)
    filters = [np.array(texts, object) for texts in (["a"], ["b"], ["a"], ["a", "b"])]
    futures = [
        batcher.submit(call(model, [n], category_filter=category))
        for n, category in enumerate(filters)
    ]
    model.gate.set()

    assert [future.result(TIMEOUT)["y"].tolist() for future in futures] == [[0], [1], [2], [3]]
    found = [(c["x"].tolist(), c["category_filter"].tolist()) for c in model.calls[1:]]
    assert found == [([0, 2], [b"a"]), ([1], [b"b"]), ([3], [b"a", b"b"])]


def test_a_filter_is_whole_in_every_piece_of_a_large_request(start, model):
    batcher = start(max_batch_size=2)
    category = np.array(["a"], object)
    batcher.submit(call(model, [1, 2, 3], category_filter=category)).result(TIMEOUT)
    assert [c["category_filter"].tolist() for c in model.calls] == [[b"a"], [b"a"]]


def test_answers_with_a_position_for_each_event_are_not_filled_up(start, model):
    batcher = start()
    model.servable = Servable("m", 1, None, {}, {"explain": model, "f": model}, row_by_row=True)
    hold(batcher, model)
    futures = [
        batcher.submit(Call(model.servable, "explain", {"x": np.ones((1, n), int)}, ["y"]))
        for n in (2, 3, 2)
    ]
    model.gate.set()

    assert [future.result(TIMEOUT)["y"].shape for future in futures] == [(1, 2), (1, 3), (1, 2)]
    assert model.shapes()[1:] == [(2, 2), (1, 3)]


def test_a_batch_ends_at_its_size_and_a_larger_request_runs_in_pieces(start, model):
    batcher = start(max_batch_size=4)
    hold(batcher, model)
    futures = [batcher.submit(call(model, range(n))) for n in (3, 2, 9)]
    model.gate.set()

    answers = [future.result(TIMEOUT)["y"].tolist() for future in futures]
    assert answers == [list(range(n)) for n in (3, 2, 9)]
    assert model.shapes()[1:] == [(3,), (2,), (4,), (4,), (1,)]  # the large one in pieces


def test_models_that_are_not_known_to_be_row_by_row_are_not_batched(start, model):
    batcher = start()
    hold(batcher, call_model := model)
    futures = [batcher.submit(call(call_model, [n])) for n in (1, 2)]
    model.servable = Servable("m", 1, None, {}, {"f": model}, row_by_row=False)
    futures += [batcher.submit(call(call_model, [n])) for n in (3, 4)]
    model.gate.set()

    futures.append(batcher.submit(call(call_model, [0] * 40)))
    assert [len(future.result(TIMEOUT)["y"]) for future in futures] == [1, 1, 1, 1, 40]
    assert model.shapes()[1:] == [(2,), (1,), (1,), (40,)]


def test_batching_of_all_models_keeps_unlike_shapes_apart(start, model):
    batcher = start(batch_all=True)
    model.servable = Servable("m", 1, None, {}, {"f": model}, row_by_row=False)
    hold(batcher, model)
    futures = [batcher.submit(call(model, [[1] * n])) for n in (2, 3, 2)]
    model.gate.set()

    assert [len(future.result(TIMEOUT)["y"][0]) for future in futures] == [2, 3, 2]
    assert model.shapes()[1:] == [(2, 2), (1, 3)]


def test_batches_are_filled_up_to_an_allowed_size(start, model):
    batcher = start(max_batch_size=4, allowed_batch_sizes=(2, 4))
    hold(batcher, model)
    futures = [batcher.submit(call(model, [n])) for n in (1, 2, 3)]
    model.gate.set()

    assert [future.result(TIMEOUT)["y"].tolist() for future in futures] == [[1], [2], [3]]
    assert model.shapes() == [(2, 1), (4,)]
    assert model.calls[1]["x"].tolist() == [1, 2, 3, 0]


def test_a_request_that_the_graph_refuses_spoils_no_other(start, model):
    batcher = start()
    hold(batcher, model)
    good, bad, also_good = [batcher.submit(call(model, [n])) for n in (1, 13, 2)]
    model.gate.set()

    assert good.result(TIMEOUT)["y"].tolist() == [1]
    assert also_good.result(TIMEOUT)["y"].tolist() == [2]
    with pytest.raises(tf.errors.InvalidArgumentError, match="thirteen"):
        bad.result(TIMEOUT)


def test_inputs_of_unlike_length_and_empty_ones_are_left_to_the_graph(start, model):
    batcher = start()
    with pytest.raises(tf.errors.InvalidArgumentError, match="ncompatible shapes"):
        batcher.submit(call(model, [1, 2], add=np.array([1, 2, 3]))).result(TIMEOUT)
    empty = batcher.submit(call(model, np.zeros((0, 2), np.int64))).result(TIMEOUT)
    assert empty["y"].shape == (0, 2)


def test_who_is_late_when_a_batch_is_refused_is_not_run_again(start):
    """The others are, and its place is free again."""
    deadline = time.monotonic() + 0.3
    sizes = []

    def refuse(x):
        sizes.append(len(x))
        while time.monotonic() <= deadline:
            time.sleep(0.01)
        if 13 in x.numpy():
            raise tf.errors.InvalidArgumentError(None, None, "thirteen")
        return {"y": x}

    servable = Servable("m", 1, None, {}, {"f": refuse}, row_by_row=True)
    parameters = {"max_batch_size": 3, "batch_timeout_micros": TIMEOUT * 1_000_000}
    batcher = start(**parameters)  # waits for all three
    ends = (None, deadline, None)
    bad, late, good = [
        batcher.submit(Call(servable, "f", {"x": np.array([x])}, ["y"]), deadline=end)
        for x, end in zip((13, 1, 2), ends, strict=True)
    ]
    with pytest.raises(tf.errors.InvalidArgumentError, match="thirteen"):
        bad.result(TIMEOUT)
    with pytest.raises(RequestError) as error:
        late.result(TIMEOUT)
    assert error.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert good.result(TIMEOUT)["y"].tolist() == [2]
    assert sizes == [3, 1, 1]


def test_lengths_that_disagree_are_not_filled_up_to_agree(start, model):
    batcher = start()
    hold(batcher, model)
    good = batcher.submit(call(model, [[1, 2, 3]], add=np.array([[1, 1, 1]])))
    bad = batcher.submit(call(model, [[1, 2, 3]], add=np.array([[1, 1]])))
    model.gate.set()

    assert good.result(TIMEOUT)["y"].tolist() == [[2, 3, 4]]
    with pytest.raises(tf.errors.InvalidArgumentError, match="ncompatible shapes"):
        bad.result(TIMEOUT)


def test_empty_requests_take_a_place_in_the_queue(start, model):
    batcher = start(max_batch_size=2, max_enqueued_batches=1)
    hold(batcher, model)
    futures = [batcher.submit(call(model, np.zeros((0, 2), int))) for _ in range(3)]
    with pytest.raises(RequestError, match="4 of 4 rows"):
        batcher.submit(call(model, np.zeros((0, 2), int)))
    model.gate.set()
    assert [future.result(TIMEOUT)["y"].shape for future in futures] == [(0, 2)] * 3


def test_a_thread_outlives_whatever_a_model_does(start, model):
    """The signature promises an output that the function does not give."""
    batcher = start()
    for _ in range(3):
        with pytest.raises(KeyError, match="absent"):
            batcher.submit(call(model, [1], wanted=["absent"])).result(TIMEOUT)
    assert batcher.submit(call(model, [1])).result(TIMEOUT)["y"].tolist() == [1]


def test_a_full_batch_does_not_wait_behind_one_that_fills(start, model):
    batcher = start(max_batch_size=2, batch_timeout_micros=TIMEOUT * 1_000_000)
    filling = batcher.submit(call(model, [[9]]))
    full = [batcher.submit(call(model, [n])) for n in (1, 2)]

    assert [future.result(TIMEOUT / 2)["y"].tolist() for future in full] == [[1], [2]]
    assert not filling.done()


def test_an_output_without_rows_is_refused_in_a_batch(start, model):
    """A model that was batched by request and does not answer row by row."""
    batcher = start(batch_all=True)
    odd = Servable("m", 1, None, {}, {"f": lambda x: {"y": tf.constant([1, 2, 3])}})
    future = batcher.submit(Call(odd, "f", {"x": np.array([1])}, ["y"]))
    with pytest.raises(ValueError, match=r"y of shape \(3,\) has not 1 rows"):
        future.result(TIMEOUT)


def test_what_waits_when_it_closes_is_refused(start, model):
    batcher = start()
    held = hold(batcher, model)
    waiting = batcher.submit(call(model, [1]))
    batcher.close()
    model.gate.set()

    assert held.result(TIMEOUT)["y"].tolist() == [[0]]
    for ask in (lambda: waiting.result(TIMEOUT), lambda: batcher.submit(call(model, [1]))):
        with pytest.raises(RequestError) as error:
            ask()
        assert error.value.code == grpc.StatusCode.UNAVAILABLE


def test_what_runs_and_waits_is_bounded(start, model):
    batcher = start(max_batch_size=2, max_enqueued_batches=2)
    held = hold(batcher, model)
    futures = [batcher.submit(call(model, x)) for x in ([1, 1], [2, 2], [3])]
    with pytest.raises(RequestError, match="queue .* is full; 6 of 6 rows") as error:
        batcher.submit(call(model, [3]))
    assert error.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(RequestError):
        batcher.require_room()
    model.gate.set()

    for future in [held, *futures]:
        future.result(TIMEOUT)
    assert batcher.submit(call(model, [4])).result(TIMEOUT)["y"].tolist() == [4]


def test_as_many_clients_as_there_are_places_are_never_refused(start, model):
    """Each comes back the moment that it is answered, whatever the answer is."""
    batcher = start(max_batch_size=2, max_enqueued_batches=2, num_batch_threads=2)
    numbers, answers = itertools.count(), queue.Queue()

    def ask(_: object = None) -> None:
        if (number := next(numbers)) >= 400:
            answers.put(None)
            return
        x = 13 if number % 5 == 1 else number + 20  # the graph refuses thirteen
        deadline = time.monotonic() - (1 if number % 5 == 2 else -TIMEOUT)
        try:
            future = batcher.submit(call(model, [x]), deadline=deadline)
        except RequestError as e:
            answers.put(e)
            return
        future.add_done_callback(ask)

    for _ in range(8):
        ask()
    assert [answers.get(timeout=TIMEOUT) for _ in range(8)] == [None] * 8


def test_a_request_larger_than_the_queue_takes_the_place_of_a_batch(start, model):
    batcher = start(max_batch_size=2, max_enqueued_batches=2)
    hold(batcher, model)
    small, large = (batcher.submit(call(model, [1] * n)) for n in (1, 9))
    model.gate.set()
    assert [len(future.result(TIMEOUT)["y"]) for future in (small, large)] == [1, 9]


def test_what_nobody_waits_for_is_not_run(start, model):
    batcher = start()
    hold(batcher, model)
    cancelled = batcher.submit(call(model, [1]))
    late = batcher.submit(call(model, [2]), deadline=time.monotonic() - 1)
    good = batcher.submit(call(model, [3]), deadline=time.monotonic() + TIMEOUT)
    assert cancelled.cancel()
    model.gate.set()

    assert good.result(TIMEOUT)["y"].tolist() == [3]
    with pytest.raises(RequestError) as error:
        late.result(TIMEOUT)
    assert error.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert model.shapes() == [(1, 1), (1,)]


def test_a_timeout_waits_for_a_fuller_batch_and_a_full_one_does_not_wait(start, model):
    batcher = start(max_batch_size=2, batch_timeout_micros=TIMEOUT * 1_000_000)
    futures = [batcher.submit(call(model, [n])) for n in (1, 2)]

    assert [future.result(TIMEOUT / 2)["y"].tolist() for future in futures] == [[1], [2]]
    assert model.shapes() == [(2,)]


def test_an_idle_batcher_keeps_no_model(start, model):
    """A retired model must go when its last request is answered, also one that failed."""
    batcher = start()
    kept = weakref.ref(call(model, [1]).servable)
    gc.disable()  # references alone must do
    try:
        batcher.submit(call(model, [1])).result(TIMEOUT)
        with pytest.raises(tf.errors.InvalidArgumentError):
            batcher.submit(call(model, [13])).result(TIMEOUT)
        del model.servable
        end = time.monotonic() + TIMEOUT
        while kept() is not None and time.monotonic() < end:
            time.sleep(0.01)
        assert kept() is None
    finally:
        gc.enable()


def test_figures_are_kept(model):
    metrics = Metrics()
    batcher = Batcher(BatchingParameters(num_batch_threads=1), metrics=metrics)
    batcher.submit(call(model, [1, 2, 3])).result(TIMEOUT)
    batcher.close()

    text = metrics.text().decode()
    assert ':tensorflow:serving:batching:processed_batch_size_sum{model_name="m"} 3.0' in text
