"""Starting and stopping: what is found, what is refused, and the process as an operator sees it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys

import grpc
import pytest
from serving_testing import make_request, start
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving import command, server
from serving.versions import find_versions

TIMEOUT = 60


@contextlib.contextmanager
def running(models, *, drain_seconds):
    """(process, address) of `guim serve` when it says that it is ready."""
    arguments = ["--models", str(models), "--model", "item_encoder", "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.command", *arguments, f"--drain-seconds={drain_seconds}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        lines = [process.stdout.readline()]
        while not lines[-1].startswith("ready at "):
            assert lines[-1], process.stderr.read()
            lines.append(process.stdout.readline())
        assert any(line.startswith("loading item_encoder version 12 from ") for line in lines)
        assert lines[-1].endswith(": item_encoder/12\n")
        yield process, lines[-1].removeprefix("ready at ").partition(": ")[0]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


@contextlib.contextmanager
def hold(address, folder):
    """(the future of a request that is running, the pipe whose reading lets it end)."""
    started, release = folder / "started", folder / "release"
    os.mkfifo(started)
    os.mkfifo(release)
    request = make_request("item_encoder", "gate", started=str(started), release=str(release))
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        held = stub.Predict.future(request, TIMEOUT)
        assert started.read_bytes() == b"running"
        yield held, release


def refusal(address: str) -> grpc.StatusCode:
    """The status of the first request that a draining server refuses."""
    with grpc.insecure_channel(address) as channel:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        while True:
            try:
                predict(make_request("item_encoder", item_id=["a"]), TIMEOUT)
            except grpc.RpcError as e:
                return e.code()


class TestDiscover:
    def names(self, **arguments):
        return [
            (config.name, version)
            for config in server.discover(**arguments)
            for version in config.candidates(find_versions(config.base_path))[: config.enough]
        ]

    def test_the_latest_version_of_each_model(self, models):
        assert self.names(model_folder=models) == [("item_encoder", 12), ("retrieval", 2)]

    def test_all_versions(self, models):
        assert self.names(model_folder=models, all_versions=True) == [
            ("item_encoder", 12),
            ("item_encoder", 3),
            ("retrieval", 2),
        ]

    def test_chosen_models(self, models):
        assert self.names(model_folder=models, models=["retrieval"]) == [("retrieval", 2)]

    def test_an_unknown_model_is_refused_with_those_there_are(self, models):
        with pytest.raises(server.ServeError, match=r"empty has no versions.*item_encoder, ret"):
            server.discover(model_folder=models, models=["empty"])

    def test_an_absent_folder_is_refused(self, tmp_path):
        with pytest.raises(server.ServeError, match=r"does not exist.*guim export"):
            server.discover(model_folder=tmp_path / "absent")

    def test_a_folder_without_models_is_refused(self, tmp_path):
        with pytest.raises(server.ServeError, match=r"no models, expected .*saved_model\.pb"):
            server.discover(model_folder=tmp_path)


class TestServe:
    def test_the_steps_are_logged(self, models, caplog):
        with caplog.at_level("INFO", "serving"):
            start(models, "retrieval").stop()

        steps = [r.message for r in caplog.records if r.name == "serving.manager"]
        assert steps[0].startswith("loading retrieval version 2 from ")
        assert steps[1].endswith(
            "1 warm-up requests, signatures: nearest_items, recommend, serving_default"
        )
        assert (caplog.records[0].model, caplog.records[0].version) == ("retrieval", 2)

    def test_it_listens_on_loopback(self, handle):
        assert handle.address == f"127.0.0.1:{handle.port}"

    @pytest.mark.parametrize("which", ["port", "rest_port"])
    def test_a_taken_port_is_refused_before_models_are_loaded(self, models, which, caplog):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            with (
                caplog.at_level("INFO", "serving"),
                pytest.raises(server.ServeError, match=rf"Can't listen.* port {port}: .*another"),
            ):
                start(models, **{which: port})
        assert not caplog.records

    def test_two_servers_never_share_a_port(self, models, handle):
        with pytest.raises(server.ServeError, match="Can't listen"):
            start(models, port=handle.port)

    def test_a_broken_model_is_reported_and_the_others_are_served(self, models, tmp_path):
        shutil.copytree(models / "item_encoder/3", tmp_path / "item_encoder/3")
        (tmp_path / "broken/5").mkdir(parents=True)
        handle = start(tmp_path)
        with grpc.insecure_channel(handle.address) as channel:
            predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
            assert predict(make_request("item_encoder", item_id=["a"]), TIMEOUT).outputs
            with pytest.raises(grpc.RpcError) as error:
                predict(make_request("broken", item_id=["a"]), TIMEOUT)
            assert error.value.code() == grpc.StatusCode.NOT_FOUND
            request = get_model_status_pb2.GetModelStatusRequest()
            request.model_spec.name = "broken"
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            (status,) = stub.GetModelStatus(request, TIMEOUT).model_version_status
        handle.stop()

        assert (status.version, status.state) == (5, 50)  # END
        assert status.status.error_code == 9  # FAILED_PRECONDITION
        assert "no saved_model.pb" in status.status.error_message

    def test_nothing_that_loads_is_an_error(self, tmp_path):
        (tmp_path / "broken/5").mkdir(parents=True)
        with pytest.raises(server.ServeError, match=r"None of .* broken version 5: .*pb"):
            start(tmp_path)


class TestMain:
    def test_what_can_not_be_served_is_said_in_one_line(self, tmp_path, capsys):
        assert command.main(["--models", str(tmp_path), "--port", "0"]) == 2
        assert capsys.readouterr().err.startswith(f"guim serve: {tmp_path} holds no models")

    @pytest.mark.parametrize(
        "flag",
        [
            *("--max-message-mb", "--drain-seconds", "--poll-seconds"),
            "--tensorflow-intra-op-parallelism",
        ],
    )
    def test_impossible_numbers_are_refused(self, flag, capsys):
        with pytest.raises(SystemExit):
            command.main([flag, "-1"])
        assert flag in capsys.readouterr().err

    def test_an_operation_has_one_thread_unless_more_are_asked_for(self, models):
        code = """
import sys
import tensorflow as tf
from serving import command

def serve(*_, **__):
    raise command.ServeError(f"threads: {tf.config.threading.get_intra_op_parallelism_threads()}")

command.serve = serve
flag = "--tensorflow-intra-op-parallelism"
command.main(["--models", sys.argv[1]])
command.main(["--models", sys.argv[1], flag, "3"])
"""
        shown = subprocess.run(
            [sys.executable, "-c", code, str(models)], capture_output=True, text=True, check=True
        ).stderr
        assert shown.splitlines()[-2:] == ["guim serve: threads: 1", "guim serve: threads: 3"]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_lets_the_running_request_finish(self, models, tmp_path, number):
        with (
            running(models, drain_seconds=60) as (process, address),
            hold(address, tmp_path) as (held, release),
        ):
            process.send_signal(number)
            assert process.stdout.readline() == "draining\n"
            # Cancelled: a request that met the closing of a connection half way.
            assert refusal(address) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

            assert release.read_bytes() == b"released"
            assert held.result().outputs["done"].bool_val == [True]
            output, errors = process.communicate(timeout=TIMEOUT)
            assert (process.returncode, output) == (0, "stopped\n")
            assert errors == ""  # neither TensorFlow nor gRPC chatters on the terminal

    def test_a_request_that_overruns_the_drain_is_cut_off(self, models, tmp_path):
        with (
            running(models, drain_seconds=0.1) as (process, address),
            hold(address, tmp_path) as (held, _),
        ):
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=TIMEOUT)
            assert (process.returncode, output) == (
                1,
                "draining\nstopped before all requests were answered\n",
            )
            assert held.exception().code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.CANCELLED,
            )
