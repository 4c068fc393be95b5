"""Requests that nobody should send, against real models: each gets its documented status.

The statuses are those of the table "What a server answers" in serving/README.md.
"""

import gc
import os
import pathlib
import threading

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2

from guim_tf.catalogue import Catalogue
from guim_tf.schema import Schema
from serving import tensors
from serving.server import discover, serve

EXAMPLES = int(os.environ.get("GUIM_FUZZ_EXAMPLES", "800"))
TIMEOUT = 60
OK, INVALID = grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND, INTERNAL = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INTERNAL
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
METHOD = "/tensorflow.serving.PredictionService/Predict"
SIGNATURES = {
    "user_encoder": ["encode_users"],
    "item_encoder": ["encode_items"],
    "retrieval": ["recommend", "nearest_items", "nearest_items_to_user"],
    "retrieval_exact": ["recommend", "nearest_items", "nearest_items_to_user"],
}
CALLS = [(model, name) for model, names in SIGNATURES.items() for name in names]
# No request may need more than this: the messages are small.
MEMORY_MB = 400


@pytest.fixture(scope="module")
def handle(shop_models):
    handle = serve(discover(model_folder=shop_models), port=0)
    yield handle
    assert handle.stop(drain_seconds=TIMEOUT)


@pytest.fixture(scope="module")
def call(handle):
    """Status, details and answer of bytes."""
    with grpc.insecure_channel(handle.address) as channel:
        predict = channel.unary_unary(METHOD)

        def call(data: bytes):
            try:
                answer = predict(data, timeout=TIMEOUT)
            except grpc.RpcError as e:
                return e.code(), e.details(), None
            return OK, "", predict_pb2.PredictResponse.FromString(answer)

        yield call


@pytest.fixture(scope="module")
def shop(shop_dataset, small_config):
    """(catalogue, schema, C, d)"""
    model = small_config.model
    return Catalogue(shop_dataset), Schema.load(shop_dataset), model.interests, model.embedding_dim


def good_inputs(shop, name: str, rows: int, length: int) -> dict[str, np.ndarray]:
    catalogue, schema, interests, dim = shop
    random = np.random.default_rng(rows * 100 + length)
    shape = (rows,) if name == "encode_items" else (rows, length)
    chosen = random.integers(0, len(catalogue), shape)
    texts = {
        "item_id": catalogue.item_id[chosen],
        "category_id": catalogue.category_id[chosen],
        "title": catalogue.title[chosen],
    }
    k = {"k": np.array(5, np.int32)}
    if name == "encode_items":
        return texts
    if name == "nearest_items":
        return {"item_embedding": random.normal(size=(rows, dim)).astype(np.float32)} | k
    if name == "nearest_items_to_user":
        vectors = random.normal(size=(rows, interests, dim))
        return {"user_embedding": vectors.astype(np.float32)} | k
    ages = np.sort(random.integers(1, 10**7, shape), axis=1)[:, ::-1]
    events = texts | {"timestamp": schema.as_of - ages, "as_of": np.full(rows, schema.as_of)}
    if name == "encode_users":
        return events
    return events | k | {"exclude_seen": np.array(True)}


def message(model: str, name: str, inputs: dict[str, np.ndarray]) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = name
    for alias, values in inputs.items():
        request.inputs[alias].CopyFrom(tensors.to_proto(values, name=alias))
    return request


@st.composite
def bad_requests(draw, shop):
    """(what is wrong, bytes, statuses that are right for it)"""
    model, name = draw(st.sampled_from(CALLS))
    rows, length = draw(st.integers(1, 4)), draw(st.integers(1, 40))
    inputs = good_inputs(shop, name, rows, length)
    alias = draw(st.sampled_from(sorted(inputs)))
    shaped = sorted(a for a, x in inputs.items() if x.ndim)
    texts = sorted(a for a, x in inputs.items() if x.dtype == object)
    floats = sorted(a for a, x in inputs.items() if x.dtype == np.float32)
    kinds = ["model", "version", "label", "signature", "missing", "extra", "renamed", "dtype"]
    kinds += ["rank", "open shape", "huge shape", "more values", "content", "output", "no spec"]
    kinds += ["truncated", "noise", "empty batch", "long name"]
    kinds += ["sizes"] * (len(shaped) > 1) + ["text"] * bool(texts) + ["not finite"] * bool(floats)
    kinds += ["few items", "many items"] * ("k" in inputs) + ["moments"] * ("as_of" in inputs)
    kind = draw(st.sampled_from(kinds))

    if kind == "sizes":  # one input has a row or a column more or less than the others
        alias = draw(st.sampled_from(shaped))
        axis = draw(st.integers(0, inputs[alias].ndim - 1))
        inputs[alias] = np.concatenate([inputs[alias]] * 2, axis=axis)
    elif kind == "text":
        alias = draw(st.sampled_from(texts))
        inputs[alias] = inputs[alias].copy()
        inputs[alias].flat[0] = draw(st.binary(max_size=300))  # seldom UTF-8
    elif kind == "not finite":
        alias = draw(st.sampled_from(floats))
        inputs[alias].flat[0] = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    elif kind == "few items":
        inputs["k"] = np.array(draw(st.integers(-(1 << 31), 0)), np.int32)
    elif kind == "many items":
        inputs["k"] = np.array(draw(st.integers(10**6, (1 << 31) - 1)), np.int32)
    elif kind == "moments":
        alias = draw(st.sampled_from(["timestamp", "as_of"]))
        inputs[alias] = np.full_like(inputs[alias], draw(st.integers(-(1 << 63), (1 << 63) - 1)))
    elif kind == "rank":
        inputs[alias] = inputs[alias][None]
    elif kind == "empty batch":
        inputs = {a: x[:0] if x.ndim else x for a, x in inputs.items()}
    request = message(model, name, inputs)
    tensor = request.inputs[alias]
    expected = {INVALID}
    if kind == "model":
        request.model_spec.name = draw(st.text(min_size=1, max_size=30).map(lambda t: "x" + t))
        expected = {NOT_FOUND}
    elif kind == "version":
        request.model_spec.version.value = draw(st.integers(1000, (1 << 63) - 1))
        expected = {NOT_FOUND}
    elif kind == "label":
        request.model_spec.version_label = draw(st.text(max_size=30))
    elif kind == "signature":
        request.model_spec.signature_name = draw(st.text(max_size=30).map(lambda t: "x" + t))
        expected = {PRECONDITION}
    elif kind == "long name":
        request.model_spec.name = "x" * draw(st.integers(2_000, 50_000))
        expected = {NOT_FOUND}
    elif kind == "no spec":
        request.ClearField("model_spec")
    elif kind == "missing":
        del request.inputs[alias]
    elif kind == "extra":
        request.inputs[draw(st.text(max_size=30).map(lambda t: "x" + t))].CopyFrom(tensor)
    elif kind == "renamed":
        request.inputs[draw(st.text(max_size=30).map(lambda t: "x" + t))].CopyFrom(tensor)
        del request.inputs[alias]
    elif kind == "dtype":
        tensor.dtype = draw(st.sampled_from([d for d in range(60) if d != tensor.dtype]))
    elif kind == "open shape":
        size = draw(st.integers(-(1 << 63), -1))
        if draw(st.booleans()) or not tensor.tensor_shape.dim:
            tensor.tensor_shape.unknown_rank = True
        else:
            tensor.tensor_shape.dim[0].size = size
    elif kind == "huge shape":
        for dim in tensor.tensor_shape.dim:
            dim.size = draw(st.integers(1 << 26, (1 << 63) - 1))
        if not tensor.tensor_shape.dim:
            tensor.tensor_shape.dim.add(size=1 << 40)
    elif kind == "more values":
        field = tensors._VALUE_FIELDS[tensors.tf.as_dtype(tensor.dtype)]
        getattr(tensor, field).extend(list(getattr(tensor, field)) * 2)
    elif kind == "content":
        tensor.tensor_content = draw(st.binary(min_size=3, max_size=3))  # fits no shape of numbers
        if tensor.dtype == types_pb2.DT_STRING:  # a length and text, perhaps
            tensor.ClearField("string_val")
            expected = {INVALID, OK}
    elif kind == "output":
        known = {"encode_users": "user_embedding", "encode_items": "item_embedding"}
        twice = draw(st.booleans())
        request.output_filter.extend([known.get(name, "item_id")] * 2 if twice else ["vector"])
    elif kind in ("text", "moments"):
        expected = {OK}  # an id is any bytes, a moment any number
    elif kind == "empty batch":
        expected = {OK}
    data = request.SerializeToString()
    if kind == "truncated":
        data = data[: draw(st.integers(0, len(data) - 1))]
        expected = {INTERNAL, INVALID, NOT_FOUND, PRECONDITION, OK}  # less may be another message
    elif kind == "noise":
        data = draw(st.binary(max_size=500))
        expected = {INTERNAL, INVALID, NOT_FOUND, PRECONDITION}
    return f"{model}/{name}: {kind} ({alias})", data, expected


def memory_mb() -> int:
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


def same(one: predict_pb2.PredictResponse, other: predict_pb2.PredictResponse) -> bool:
    for alias, proto in one.outputs.items():
        found, expected = (tensors.to_array(p, name=alias) for p in (proto, other.outputs[alias]))
        if found.shape != expected.shape:
            return False
        if found.dtype == object:
            if found.tolist() != expected.tolist():
                return False
        elif not np.allclose(found, expected, rtol=1e-4, atol=1e-5):
            return False
    return one.outputs.keys() == other.outputs.keys()


def test_bad_requests(call, shop):
    good = [
        message(model, name, good_inputs(shop, name, 2, 20)).SerializeToString()
        for model, name in CALLS
    ]
    before_answers = [call(data) for data in good]
    assert all(code == OK for code, _, _ in before_answers)
    seen: dict[str, int] = {}

    @seed(0)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(bad_requests(shop))
    def ask(bad):
        what, data, expected = bad
        code, details, _ = call(data)
        assert code in expected, f"{what}: {code}, {details}"
        if code == INTERNAL:
            assert details.startswith("Error parsing request proto"), f"{what}: {details}"
        kind = what.partition(": ")[2].partition(" (")[0]
        seen[kind] = seen.get(kind, 0) + 1

    # Another client sends good requests all the while: batches hold good and bad ones.
    wrong: list[str] = []
    ended = threading.Event()

    def good_client() -> None:
        while not ended.is_set():
            for data, (_, _, answer) in zip(good, before_answers, strict=True):
                code, details, again = call(data)
                if code != OK or not same(again, answer):
                    wrong.append(details)

    neighbour = threading.Thread(target=good_client)
    neighbour.start()
    gc.collect()
    before = memory_mb()
    try:
        ask()
    finally:
        ended.set()
        neighbour.join()
    gc.collect()

    assert sum(seen.values()) >= EXAMPLES
    assert len(seen) == 25  # each kind was tried
    assert not wrong
    assert memory_mb() - before < MEMORY_MB
