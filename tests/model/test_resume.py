"""Whatever stops a run, the same command ends as if nothing had happened, or says what is wrong."""

import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from guim_tf import checkpoints, fitting
from guim_tf.config import Config, configure
from guim_tf.runs import RunError, load_run, read_history
from guim_tf.schema import DatasetError
from guim_tf.shards import shard_files
from guim_tf.strict_json import load, to_json
from guim_tf.training import train


class _Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def same_weights(run, other) -> None:
    """Bit for bit."""
    (one, *_), (two, *_) = load_run(run), load_run(other)
    for mine, expected in zip(one.weights, two.weights, strict=True):
        np.testing.assert_array_equal(mine, expected, err_msg=mine.name)


def same_history(run, other) -> None:
    mine, expected = (
        [{key: x for key, x in line.items() if key != "seconds"} for line in read_history(path)]
        for path in (run, other)
    )
    assert mine == expected


@pytest.fixture
def kill_at(monkeypatch):
    """Kills training after so many steps, once a number of the list."""
    original = checkpoints.SteppedRunState.on_train_batch_end
    steps: list[int] = []

    def killing(self, batch, logs=None):
        original(self, batch, logs)
        if steps and self.done >= steps[0]:
            steps.pop(0)
            raise _Killed

    monkeypatch.setattr(checkpoints.SteppedRunState, "on_train_batch_end", killing)
    return steps


def test_kills_change_no_bit_of_the_weights(shop_dataset, small_config, tmp_path, kill_at):
    """One of them with a checkpoint at each step, one with those of the epochs alone.

    The time of an epoch counts over its sessions.
    """
    config = configure(
        small_config,
        [
            *("model.dropout=0.2", "loss.id_dropout=0.1", "loss.negatives_per_user=null"),
            *("model.causal=true", "loss.next_item=0.3"),
            *("training.table_slots=row", "training.table_rate=30"),
        ],
    )
    straight = train(dataset=shop_dataset, run=tmp_path / "straight", config=config, progress=False)
    steps = straight.steps // 3
    kill_at += [steps + 1, steps + 3]
    seconds = []
    for save_minutes in (0.0, 1e9):
        with pytest.raises(_Killed):
            train(
                dataset=shop_dataset,
                run=tmp_path / "killed",
                config=config,
                save_minutes=save_minutes,
                progress=False,
            )
        saved = tf.train.latest_checkpoint(tmp_path / "killed" / "checkpoints")
        reader = tf.train.load_checkpoint(saved)
        seconds.append(reader.get_tensor("seconds/.ATTRIBUTES/VARIABLE_VALUE"))
    result = train(dataset=shop_dataset, run=tmp_path / "killed", config=config, progress=False)
    same_weights(tmp_path / "killed", tmp_path / "straight")
    same_history(tmp_path / "killed", tmp_path / "straight")
    assert (result.best, result.steps) == (straight.best, straight.steps)
    assert seconds[0] > 0
    assert read_history(tmp_path / "killed")[1]["seconds"] > seconds[0]


def command(dataset, folder, config) -> list[str]:
    (folder / "config.json").write_text(to_json(config))
    return [
        *(sys.executable, "-m", "guim_tf.cli", "train", "--save-minutes", "0"),
        *("--dataset", str(dataset), "--run", str(folder / "run")),
        *("--config", str(folder / "config.json")),
    ]


@pytest.mark.e2e
def test_the_command_is_stopped_and_the_same_command_resumes(shop_dataset, small_config, tmp_path):
    config = configure(small_config, ["training.epochs=400"])
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    stops = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
    done = 0
    for how, status in [*stops, stops[-1]]:
        process = subprocess.Popen(
            command(shop_dataset, tmp_path, config),
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            # what started the tests may ignore SIGINT, and children inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 120
        while len(read_history(tmp_path / "run")) < done + 2:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(how)
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == status, errors
        assert ("Resuming" in errors) == (done > 0), errors
        assert ("The same command resumes" in errors) == (how != signal.SIGKILL)
        done = len(read_history(tmp_path / "run"))
    epochs = [line["epoch"] for line in read_history(tmp_path / "run")]
    assert epochs == list(range(1, len(epochs) + 1))
    assert load(Config, tmp_path / "run" / "config.json").training.epochs == 400


def after_an_epoch(monkeypatch, action) -> None:
    validation = fitting.ValidationRecall

    class Both(validation):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            if epoch == 1:
                action()

    monkeypatch.setattr(fitting, "ValidationRecall", Both)


def test_a_full_disk_leaves_the_checkpoint_before_and_training_resumes(
    shop_dataset, shop_run, small_config, tmp_path, monkeypatch
):
    """A limit on the size of files stands for the disk: writing fails in the middle of one."""
    run = tmp_path / "run"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with monkeypatch.context() as patch:
            after_an_epoch(
                patch, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
            )
            with pytest.raises(RunError, match=r"run can't be written.*The last whole checkpoint"):
                train(dataset=shop_dataset, run=run, config=small_config, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [line["epoch"] for line in read_history(run)] == [1]
    train(dataset=shop_dataset, run=run, config=small_config, progress=False)
    same_weights(run, shop_run)
    same_history(run, shop_run)


def test_a_run_folder_that_vanishes_is_named(shop_dataset, small_config, tmp_path, monkeypatch):
    run = tmp_path / "run"
    after_an_epoch(monkeypatch, lambda: shutil.rmtree(run))
    with pytest.raises(RunError, match=r"run can't be written.*is gone.*bring the folder back"):
        train(dataset=shop_dataset, run=run, config=small_config, progress=False)
    assert not run.exists(), "no folder that looks like a run"


def test_a_damaged_checkpoint_is_named(shop_dataset, shop_run, small_config, tmp_path):
    run = shutil.copytree(shop_run, tmp_path / "run")
    (run / "result.json").unlink()
    last = max((run / "checkpoints").glob("*.data*"), key=lambda file: file.stat().st_mtime)
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"checkpoints/ckpt-\d+ can't be read.*--restart"):
        train(dataset=shop_dataset, run=run, config=small_config, progress=False)


def test_a_damaged_shard_is_named(shop_dataset, small_config, tmp_path):
    dataset = shutil.copytree(shop_dataset, tmp_path / "dataset")
    shard = pathlib.Path(shard_files(dataset, "train")[0])
    content = bytearray(shard.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(40)  # as long as before
    shard.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{shard.name} is damaged: .*rebuild the data set"):
        train(dataset=dataset, run=tmp_path / "run", config=small_config, progress=False)


def test_a_shard_that_vanishes_during_training_is_named(
    shop_dataset, shop_run, small_config, tmp_path, kill_at, monkeypatch
):
    """A run is resumed, reads once through the data, and then a shard is gone."""
    dataset, run = shutil.copytree(shop_dataset, tmp_path / "dataset"), tmp_path / "run"
    options = {"dataset": dataset, "run": run, "config": small_config, "progress": False}
    kill_at.append(1)
    with pytest.raises(_Killed):
        train(**options, save_minutes=0.0)
    shard = pathlib.Path(shard_files(dataset, "train")[0])
    resume = checkpoints.SteppedRunState.resume
    with monkeypatch.context() as patch:
        patch.setattr(
            checkpoints.SteppedRunState, "resume", lambda self: (shard.unlink(), resume(self))
        )
        with pytest.raises(DatasetError, match=rf"{shard.name} is missing.*Copy it again"):
            train(**options)
    shutil.copy(shop_dataset / "train" / shard.name, shard)
    train(**options)
    same_weights(run, shop_run)
