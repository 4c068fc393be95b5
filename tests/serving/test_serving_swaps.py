"""Versions that change under load, configurations that change by RPC, a server that is killed."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time

import grpc
import pytest
from google.protobuf import text_format
from serving_testing import Retrieval, make_request, save, start
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

TIMEOUT = 60
AVAILABLE, END = 30, 50


def status(channel, name="item_encoder"):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    return {s.version: s for s in stub.GetModelStatus(request, TIMEOUT).model_version_status}


def wait_for(channel, version):
    """The state that a version comes to rest in."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        found = status(channel).get(version)
        if found is not None and found.state in (AVAILABLE, END):
            return found
        time.sleep(0.02)
    pytest.fail(f"version {version} came to no rest")


@contextlib.contextmanager
def clients(address, *, count=4):
    """Clients that never stop asking; yields the versions that answered and the errors."""
    answers, errors, stop = [], [], threading.Event()

    def client():
        with grpc.insecure_channel(address) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            while not stop.is_set():
                try:
                    response = stub.Predict(make_request("item_encoder", item_id=["ab"]), TIMEOUT)
                    answers.append(response.model_spec.version.value)
                except grpc.RpcError as e:
                    errors.append(e)

    threads = [threading.Thread(target=client) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield answers, errors
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_swaps_under_load_fail_no_request(models, tmp_path, caplog):
    base = tmp_path / "item_encoder"
    good = models / "item_encoder/3"
    shutil.copytree(good, base / "1")
    handle = start(tmp_path)
    broken, other, last = 4, 7, 9
    with (
        grpc.insecure_channel(handle.address) as channel,
        clients(handle.address) as (answers, errors),
    ):
        for version in range(2, last + 1):
            hidden = base / f".{version}"
            if version == other:  # clients of the served version could not go on with it
                save(hidden, Retrieval(), default="recommend", names=("recommend",))
            else:
                shutil.copytree(good, hidden)
            if version == broken:
                (hidden / "saved_model.pb").write_bytes(b"\xff")
            hidden.rename(base / str(version))
            found = wait_for(channel, version)
            assert (found.state == AVAILABLE) == (version not in (broken, other))
            before, end = len(answers), time.monotonic() + TIMEOUT
            while len(answers) < before + 20:  # each version answers under load
                assert time.monotonic() < end
                time.sleep(0.005)
        states = status(channel)
    handle.stop()

    assert errors == []
    assert sorted(set(answers)) == [1, *(v for v in range(2, last + 1) if v not in (broken, other))]
    assert [v for v, s in states.items() if s.state == AVAILABLE] == [last]
    for version, reason in ((broken, "saved_model.pb"), (other, "does not answer as version 6")):
        assert states[version].status.error_code == 9  # FAILED_PRECONDITION
        assert reason in states[version].status.error_message
        assert f"item_encoder version {version} can't be served" in caplog.text


class TestReload:
    def reload(self, channel, text):
        request = model_management_pb2.ReloadConfigRequest()
        text_format.Parse(text, request.config)
        return model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(
            request, TIMEOUT
        )

    def entry(self, name, path, more=""):
        return (
            f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" {more} }}'
        )

    @pytest.fixture
    def channel(self, models):
        handle = start(models, "item_encoder")
        with grpc.insecure_channel(handle.address) as channel:
            yield channel
        handle.stop()

    def encode(self, channel, **spec):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = make_request(spec.pop("name", "item_encoder"), item_id=["a"])
        if "label" in spec:
            request.model_spec.version_label = spec["label"]
        return stub.Predict(request, TIMEOUT).model_spec.version.value

    def test_other_models_policies_and_labels(self, channel, models):
        assert self.encode(channel) == 12
        policy = (
            "model_version_policy { specific { versions: 3 versions: 12 } } "
            'version_labels { key: "stable" value: 3 }'
        )
        answer = self.reload(
            channel,
            "model_config_list {"
            + self.entry("shop", models / "item_encoder", policy)
            + self.entry("retrieval", models / "retrieval")
            + "}",
        )

        assert answer.status.error_code == 0
        assert self.encode(channel, name="shop") == 12
        assert self.encode(channel, name="shop", label="stable") == 3
        assert status(channel, "retrieval")[2].state == AVAILABLE
        with pytest.raises(grpc.RpcError) as error:
            self.encode(channel)
        assert error.value.code() == grpc.StatusCode.NOT_FOUND

    def test_a_configuration_that_is_not_understood_changes_nothing(self, channel):
        for text in ("", f"model_config_list {{ {self.entry('e', 'relative/path')} }}"):
            with pytest.raises(grpc.RpcError) as error:
                self.reload(channel, text)
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert self.encode(channel) == 12

    def test_a_model_that_does_not_load_is_said(self, channel, tmp_path, models):
        (tmp_path / "e/1").mkdir(parents=True)
        (tmp_path / "e/1/saved_model.pb").write_bytes(b"\xff")
        with pytest.raises(grpc.RpcError) as error:
            self.reload(
                channel,
                "model_config_list {"
                + self.entry("e", tmp_path / "e")
                + self.entry("item_encoder", models / "item_encoder")
                + "}",
            )
        assert error.value.code() == grpc.StatusCode.UNKNOWN
        assert "did not become available: {e}" in error.value.details()
        assert self.encode(channel) == 12


@contextlib.contextmanager
def process(models, *arguments):
    """(process, gRPC address, its log lines) of `guim serve --log-format json`."""
    command = ["serve", "--log-format", "json", "--port", "0", "--models", str(models)]
    server = subprocess.Popen(
        [sys.executable, "-m", "guim_tf.cli", *command, *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = []
    try:
        for line in server.stdout:
            lines.append(json.loads(line))
            if lines[-1]["message"].startswith("ready at "):
                break
        yield server, lines[-1]["message"].split()[2].rstrip(":"), lines
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_a_killed_server_serves_again_and_never_half_a_version(models, tmp_path):
    """Between the kill and the restart somebody starts to copy a new version in."""
    base = tmp_path / "item_encoder"
    shutil.copytree(models / "item_encoder/3", base / "1")
    with process(tmp_path) as (server, address, _):
        with grpc.insecure_channel(address) as channel:
            assert status(channel)[1].state == AVAILABLE
        server.send_signal(signal.SIGKILL)
        server.wait()

    half = base / "2"
    half.mkdir()
    shutil.copy(models / "item_encoder/3/saved_model.pb", half)  # and no variables
    with (
        process(tmp_path, "--poll-seconds", "0.2") as (_, address, lines),
        grpc.insecure_channel(address) as channel,
    ):
        assert status(channel)[1].state == AVAILABLE
        assert status(channel)[2].state != AVAILABLE
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        answer = stub.Predict(make_request("item_encoder", item_id=["a"]), TIMEOUT)
        assert answer.model_spec.version.value == 1
        shutil.copytree(models / "item_encoder/3", half, dirs_exist_ok=True)
        end = time.monotonic() + TIMEOUT
        while status(channel)[2].state != AVAILABLE:  # once the copy is whole it takes over
            assert time.monotonic() < end
            time.sleep(0.05)

    loads = [line for line in lines if line.get("version") == 1]
    assert {line["model"] for line in loads} == {"item_encoder"}
    assert all({"timestamp", "level", "logger", "message"} <= line.keys() for line in lines)
