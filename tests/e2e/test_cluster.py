"""Several processes by TF_CONFIG on real sockets: in step, killed, and with parameter servers."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from guim_tf.cluster import Cluster, serves
from guim_tf.config import configure
from guim_tf.precision import VARIABLE
from guim_tf.runs import load_run, read_history
from guim_tf.strict_json import ConfigError, to_json
from guim_tf.training import train


def addresses(count: int) -> list[str]:
    """Of free ports on loopback."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    found = [f"127.0.0.1:{s.getsockname()[1]}" for s in sockets]
    for s in sockets:
        s.close()
    return found


@contextlib.contextmanager
def starting(shop_dataset, folder):
    """Starts `guim train` as a task of a cluster; whatever still runs at the end is killed."""
    started = []

    def start(cluster, kind, index, config, *, run="run", save_minutes=0.0, name="config.json"):
        file = folder / name
        file.write_text(to_json(config))
        task = {"cluster": cluster, "task": {"type": kind, "index": index}}
        started.append(
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "guim_tf.cli", "train", "--config", str(file)),
                    *("--dataset", str(shop_dataset), "--run", str(folder / run)),
                    *("--save-minutes", str(save_minutes)),
                ],
                env=os.environ
                | {"TF_CONFIG": json.dumps(task), "TF_CPP_MIN_LOG_LEVEL": "3", VARIABLE: "FP32"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.fixture
def start(shop_dataset, tmp_path):
    with starting(shop_dataset, tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def config(small_config):
    """Without dropout, whose noise would be another one for each worker."""
    return configure(
        small_config,
        [
            *("model.dropout=0", "model.causal=true", "loss.negatives_per_user=null"),
            "loss.next_item=0.3",
            *("loss.id_dropout=0.1", "training.table_slots=row", "training.epochs=3"),
            *("training.patience=null", "retrieval.repeat_weight=null"),
        ],
    )


def in_step(start, config, **options):
    cluster = {"worker": addresses(2)}
    return [start(cluster, "worker", index, config, **options) for index in range(2)]


@pytest.fixture(scope="module")
def pair(shop_dataset, config, tmp_path_factory):
    """The run of two workers that nothing disturbed."""
    folder = tmp_path_factory.mktemp("pair")
    with starting(shop_dataset, folder) as start:
        workers = in_step(start, config, save_minutes=10.0)
        shown = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], shown
    results = [json.loads(out.splitlines()[-1]) for out, _ in shown]
    assert results[0] == results[1]
    return folder / "run"


def test_two_workers_have_the_loss_curve_of_one_process(shop_dataset, pair, config, tmp_path):
    train(dataset=shop_dataset, run=tmp_path / "one", config=config, progress=False)
    for two, one in zip(read_history(pair), read_history(tmp_path / "one"), strict=True):
        assert set(two) == set(one)
        for key in ("loss", "matching_loss", "mlm_loss", "next_item_loss"):
            assert two[key] == pytest.approx(one[key], rel=1e-4), key
            assert two[f"val_{key}"] == pytest.approx(one[f"val_{key}"], rel=1e-3), key


def test_a_killed_worker_ends_all_and_all_resume_as_if_it_had_lived(start, pair, config, tmp_path):
    workers = in_step(start, config)
    deadline = time.monotonic() + 120
    while not read_history(tmp_path / "run"):
        assert all(worker.poll() is None for worker in workers)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers[1].send_signal(signal.SIGKILL)
    errors = workers[0].communicate(timeout=120)[1]
    assert workers[0].returncode != 0
    assert len(read_history(tmp_path / "run")) < len(read_history(pair)), "it ended before the kill"
    assert "Start all processes again" in errors or workers[0].returncode < 0, errors
    for worker in in_step(start, config, save_minutes=10.0):
        errors = worker.communicate(timeout=300)[1]
        assert worker.returncode == 0, errors
        assert "Resuming" in errors
    pairs = zip(
        load_run(tmp_path / "run")[0].weights,
        load_run(pair)[0].weights,
        strict=True,
    )
    for mine, expected in pairs:
        np.testing.assert_array_equal(mine, expected, err_msg=mine.name)


def test_workers_that_were_started_differently_refuse_to_train(start, config):
    cluster = {"worker": addresses(2)}
    workers = []
    for index, rate in enumerate(("0.001", "0.002")):
        other = configure(config, [f"training.learning_rate={rate}"])
        workers.append(start(cluster, "worker", index, other, name=f"config-{index}.json"))
    for worker in workers:
        errors = worker.communicate(timeout=120)[1]
        assert worker.returncode != 0
        assert "Start all with the same command" in errors or "Start all processes again" in errors


def test_parameter_servers_train_and_what_they_trained_is_loaded(start, config, tmp_path):
    cluster = {"chief": addresses(1), "ps": addresses(2), "worker": addresses(2)}
    others = [start(cluster, kind, i, config) for kind in ("ps", "worker") for i in range(2)]
    chief = start(cluster, "chief", 0, config)
    out, errors = chief.communicate(timeout=300)
    assert chief.returncode == 0, errors
    assert all(process.poll() is None for process in others), "they serve until they are stopped"
    result = json.loads(out.splitlines()[-1])
    losses = [line["loss"] for line in read_history(tmp_path / "run")]
    assert len(losses) == result["epochs"] == 3
    assert losses[1] < losses[0]
    model, _, _ = load_run(tmp_path / "run")
    assert all(np.isfinite(weight).all() for weight in model.weights)


PIECES = pathlib.Path(__file__).with_name("table_in_pieces.py")


def test_a_large_table_is_in_pieces_and_is_drawn_read_and_updated_there(start, config):
    cluster = {"chief": addresses(1), "ps": addresses(2), "worker": addresses(1)}
    for kind, count in (("ps", 2), ("worker", 1)):
        for index in range(count):
            start(cluster, kind, index, config)
    task = json.dumps({"cluster": cluster, "task": {"type": "chief", "index": 0}})
    done = subprocess.run(
        [sys.executable, str(PIECES)],
        env=os.environ | {"TF_CONFIG": task, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "all is as it should be" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "evaluator", "index": 0}}',
    ],
)
def test_a_wrong_tf_config_is_refused_with_an_example(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ConfigError, match=r"Expected JSON such as .*worker"):
        Cluster.of_this_process()


def test_what_is_no_cluster_trains_alone(monkeypatch):
    for text in ("", "{}", '{"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"index": 0}}'):
        monkeypatch.setenv("TF_CONFIG", text)
        cluster = Cluster.of_this_process()
        assert cluster.alone
        assert cluster.chief
        assert cluster.all_have(3)
        assert serves() is None


def test_only_the_chief_of_parameter_servers_trains(monkeypatch):
    tasks = {"chief": ["a:1"], "ps": ["b:1"], "worker": ["c:1"]}
    for kind in ("ps", "worker"):
        config = {"cluster": tasks, "task": {"type": kind, "index": 0}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))
        with pytest.raises(ConfigError, match="the chief alone trains"):
            Cluster.of_this_process()
