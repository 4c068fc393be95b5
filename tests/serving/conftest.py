"""Models saved once, a server that serves them, a data set folder."""

import pathlib
import time

import grpc
import pytest
import tensorflow as tf
from serving_testing import (
    Encoder,
    Retrieval,
    predict_log,
    save,
    start,
    write_dataset,
    write_warmup,
)
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving import manager


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> pathlib.Path:
    """saved_models/: retrieval 2 with a warm-up request, item_encoder 3 and 12, and no models."""
    folder = tmp_path_factory.mktemp("saved_models")
    save(
        folder / "retrieval/2",
        Retrieval(),
        default="recommend",
        names=("recommend", "nearest_items"),
    )
    warmup = predict_log(
        "nearest_items", item_embedding=tf.constant([[1.0, 0.0]]), k=tf.constant(2)
    )
    write_warmup(folder / "retrieval/2", warmup)
    for version in (3, 12):  # as text "12" < "3"
        save(
            folder / f"item_encoder/{version}",
            Encoder(),
            default="encode_items",
            names=("encode_items", "refuse", "read", "gate"),
        )
    (folder / "item_encoder/.tmp-13").mkdir()
    (folder / "README.md").write_text("not a model")
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="session")
def handle(models):
    """A server of both models, all versions, on a free loopback port, 1 MB a request at most."""
    handle = start(models, all_versions=True, max_message_mb=1, rest_port=0)
    deadline = time.monotonic() + 60
    while any(x.state != manager.AVAILABLE for x in handle.states):  # one was just written
        assert time.monotonic() < deadline, handle.states
        time.sleep(0.05)
    yield handle
    handle.stop()


@pytest.fixture(scope="session")
def channel(handle):
    with grpc.insecure_channel(handle.address) as channel:
        yield channel


@pytest.fixture(scope="session")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> pathlib.Path:
    return write_dataset(tmp_path_factory.mktemp("dataset"))
