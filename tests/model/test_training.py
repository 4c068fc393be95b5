"""A run from start to end: what it writes, that it is resumed after a kill, what it refuses."""

import dataclasses
import json
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

from guim_tf.catalogue import Catalogue
from guim_tf.config import CHOSEN_WEIGHTS, Config, RetrievalConfig, configure
from guim_tf.data import load_dataset, training_cutoff
from guim_tf.divergence import DivergedError
from guim_tf.model import GUIM
from guim_tf.optimizers import WarmupLinearDecay
from guim_tf.runs import load_run, read_history
from guim_tf.schema import DAY, DatasetError, Schema, SchemaError
from guim_tf.strict_json import ConfigError
from guim_tf.training import _weights, main, train
from guim_tf.validation import Validation


def test_a_run_learns_and_writes_what_it_saw(shop_run):
    history = read_history(shop_run)
    assert [line["epoch"] for line in history] == [1, 2, 3]
    assert history[-1]["matching_loss"] < history[0]["matching_loss"]
    for key in ("loss", "mlm_loss", "val_loss", "val_recall@100", "interest_cosine", "seconds"):
        assert all(np.isfinite(line[key]) for line in history), key
    result = json.loads((shop_run / "result.json").read_text())
    recalls = [line["val_recall@100"] for line in history]
    assert result["best"] == pytest.approx(max(recalls))
    assert result["best_epoch"] == 1 + int(np.argmax(recalls))
    assert (result["epochs"], result["seed"]) == (3, 0)
    assert result["steps"] == 3 * (result["users"] // 32)
    assert list((shop_run / "tensorboard").rglob("events.out.tfevents*"))


def test_the_best_epochs_weights_come_back(shop_run, small_config):
    model, config, schema = load_run(shop_run)
    assert config == small_config
    assert schema.item_rows == model.rows.items
    saved = tf.train.load_checkpoint(tf.train.latest_checkpoint(str(shop_run / "best")))
    name = "item_encoder/projection/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    np.testing.assert_array_equal(model.item_encoder.projection.kernel, saved.get_tensor(name))


def test_a_finished_run_is_not_trained_again(shop_run, shop_dataset, small_config):
    before = (shop_run / "history.jsonl").read_text()
    result = train(dataset=shop_dataset, run=shop_run, config=small_config, progress=False)
    assert result.epochs == 3
    assert (shop_run / "history.jsonl").read_text() == before


def test_another_configuration_is_refused_and_restart_throws_the_old_run_away(
    shop_run, shop_dataset, small_config, tmp_path
):
    run = shutil.copytree(shop_run, tmp_path / "run")
    other = configure(small_config, ["training.epochs=1", "training.seed=5"])
    with pytest.raises(ConfigError, match="another configuration.*--restart"):
        train(dataset=shop_dataset, run=run, config=other, progress=False)
    result = train(dataset=shop_dataset, run=run, config=other, restart=True, progress=False)
    assert (result.epochs, result.seed) == (1, 5)


def test_action_types_are_refused_where_the_data_set_has_none(shop_dataset, small_config, tmp_path):
    config = configure(small_config, ["model.actions=true"])
    with pytest.raises(
        ConfigError, match=r"ModelConfig\.actions is true.*no action types.*mapping"
    ):
        train(dataset=shop_dataset, run=tmp_path / "run", config=config, progress=False)
    assert not (tmp_path / "run").exists()


def test_training_stops_when_patience_has_run_out(shop_dataset, small_config, tmp_path):
    config = configure(
        small_config,
        ["training.epochs=50", "training.patience=2", "training.learning_rate=1e-12"],
    )
    result = train(dataset=shop_dataset, run=tmp_path / "run", config=config, progress=False)
    assert result.epochs == result.best_epoch + 2 < 50
    again = train(dataset=shop_dataset, run=tmp_path / "run", config=config, progress=False)
    assert again == result


def test_without_patience_the_last_epoch_is_exported(shop_dataset, small_config, tmp_path):
    config = configure(
        small_config,
        ["training.epochs=3", "training.patience=null", "training.learning_rate=1e-12"],
    )
    result = train(dataset=shop_dataset, run=tmp_path / "run", config=config, progress=False)
    assert result.epochs == result.best_epoch == 3
    assert result.best == pytest.approx(read_history(tmp_path / "run")[-1]["val_recall@100"])


def test_weights_of_null_are_chosen_on_the_validation_users(shop_dataset, small_config, tmp_path):
    asked = RetrievalConfig(repeat_weight=None, popularity_weight=None, rescore_sharpness=7.0)
    config = dataclasses.replace(
        small_config,
        retrieval=asked,
        training=dataclasses.replace(small_config.training, epochs=1),
    )
    result = train(dataset=shop_dataset, run=tmp_path / "run", config=config, progress=False)
    model, loaded, schema = load_run(tmp_path / "run")
    chosen = {name: getattr(result, name) for name in CHOSEN_WEIGHTS}
    assert loaded.retrieval == dataclasses.replace(asked, **chosen)
    validation = Validation(shop_dataset, training_cutoff(schema, config.window), config.window)
    assert validation.best_weights(model) == chosen
    # the shop's users buy again what they like: an untrained model must lean on that
    assert result.repeat_weight > 0
    kept = validation.best_weights(model, repeat_weight=-1.0, popularity_weight=None)
    assert kept["repeat_weight"] == -1.0


def test_without_validation_users_popularity_still_counts_and_it_is_said(tmp_path, capsys):
    nobody = types.SimpleNamespace(users=0)
    asked = RetrievalConfig(repeat_weight=None, popularity_weight=None)
    found = _weights(tmp_path, asked, nobody)
    assert found["repeat_weight"] == 0
    assert found["popularity_weight"] > 0
    said = capsys.readouterr().err
    assert "no validation user" in said
    for name, weight in found.items():
        assert f"retrieval.{name}={weight:g}" in said
    given = RetrievalConfig(repeat_weight=0.5, popularity_weight=None)
    assert _weights(tmp_path, given, nobody) == found | {"repeat_weight": 0.5}
    assert "repeat_weight" not in capsys.readouterr().err
    vectors_alone = {"repeat_weight": 0.0, "popularity_weight": 0.0}
    assert _weights(tmp_path, RetrievalConfig(), nobody) == vectors_alone
    assert capsys.readouterr().err == ""


def test_buyers_of_validation_are_those_of_the_catalogue(shop_dataset, small_config):
    """Of both splits; the catalogue counts them at the data set's own moment."""
    schema = Schema.load(shop_dataset)
    validation = Validation(shop_dataset, schema.as_of, small_config.window)
    catalogue = Catalogue(shop_dataset)
    ever, recent = validation._buyers([schema.as_of, schema.as_of - 30 * DAY])
    np.testing.assert_array_equal(recent[0], catalogue.recent_buyers)
    assert recent[0].sum() > 0
    assert (recent[0] != recent[1]).any()
    np.testing.assert_array_equal(ever[0] > 0, catalogue.count > 0)
    assert (ever[0] >= ever[1]).all()
    assert ever[0].sum() > ever[1].sum()


def poison(monkeypatch, step, value):
    """From `step` on a table's rows are `value`, as after too large a step."""
    once, compile_model = GUIM.train_step, GUIM.compile

    def poisoned(model, inputs):
        result = once(model, inputs)
        if int(model.optimizer.iterations) == step:
            table = model.user_encoder.cls_table
            table.assign_add(tf.fill(table.shape, float(value)))
        return result

    monkeypatch.setattr(GUIM, "train_step", poisoned)
    monkeypatch.setattr(
        GUIM, "compile", lambda self, **options: compile_model(self, run_eagerly=True, **options)
    )


def steps_an_epoch(dataset, config):
    return sum(
        1
        for _ in load_dataset(dataset, window=config.window, batch_size=config.training.batch_size)
    )


def rate_of(step, config, total):
    """The learning rate of a step, of which the first is 1."""
    asked = config.training
    schedule = WarmupLinearDecay(
        asked.learning_rate, warmup_steps=round(total * asked.warmup_share), total_steps=total
    )
    rate = float(schedule(step - 1))
    assert 0 < rate < asked.learning_rate
    return rate


def test_a_run_that_diverges_names_the_step_and_keeps_the_last_good_epoch(
    shop_dataset, small_config, tmp_path, monkeypatch
):
    config = configure(small_config, ["training.epochs=3"])
    steps = steps_an_epoch(shop_dataset, config)
    poison(monkeypatch, steps + 1, "inf")
    with pytest.raises(DivergedError) as error:
        train(dataset=shop_dataset, run=tmp_path / "run", config=config, progress=False)
    step = steps + 2
    rate = rate_of(step, config, 3 * steps)
    assert f"diverged at step {step}, learning rate {rate:.3g}: " in str(error.value)
    assert "the loss is nan" in str(error.value)
    assert [line["epoch"] for line in read_history(tmp_path / "run")] == [1]
    kept, *_ = load_run(tmp_path / "run")
    assert all(np.isfinite(weight).all() for weight in kept.get_weights())


def test_weights_that_diverge_in_the_last_step_of_an_epoch_are_not_kept(
    shop_dataset, small_config, tmp_path, monkeypatch
):
    """The loss of that step is finite, and the next thing asked of the weights is recall."""
    config = configure(small_config, ["training.epochs=2"])
    step = steps_an_epoch(shop_dataset, config)
    poison(monkeypatch, step, "nan")
    with pytest.raises(DivergedError, match=r"cls_table.* holds NaN or infinity") as error:
        train(dataset=shop_dataset, run=tmp_path / "run", config=config, progress=False)
    rate = rate_of(step, config, 2 * step)
    assert f"diverged at step {step}, learning rate {rate:.3g}: " in str(error.value)
    assert read_history(tmp_path / "run") == []
    with pytest.raises(ConfigError, match="no trained weights"):
        load_run(tmp_path / "run")


def test_too_few_users_are_an_error_with_the_remedy(shop_dataset, small_config, tmp_path):
    config = configure(small_config, ["training.batch_size=5000"])
    with pytest.raises(DatasetError, match="a batch needs 5000. Use a longer log"):
        train(dataset=shop_dataset, run=tmp_path / "run", config=config)


def test_a_run_of_another_data_set_is_refused(shop_run, shop_dataset, small_config, tmp_path):
    other = shutil.copytree(shop_dataset, tmp_path / "other")
    schema = Schema.load(other)
    dataclasses.replace(schema, word_hash_rows=99).save(other)
    with pytest.raises(SchemaError, match="word_hash_rows: 8 != 99"):
        train(dataset=other, run=shop_run, config=small_config)


def test_a_folder_with_other_things_is_left_alone(shop_dataset, small_config, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not empty and not a run folder"):
        train(dataset=shop_dataset, run=tmp_path, config=small_config, restart=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_load_run_says_when_nothing_was_trained(tmp_path):
    with pytest.raises(ConfigError, match="no epoch of `guim train` has ended"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs=3", "expected section.field=value"),
        ("training.epoch=3", "training.epochs"),
        ("training.epochs=", "expected section.field=value"),
        ("training.epochs=many", "expected int, got 'many'"),
    ],
)
def test_a_wrong_setting_is_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        configure(Config.paper(), [setting])


def test_settings_change_single_values():
    config = configure(
        Config.paper(), ["model.interests=2", "loss.logq=true", "model.item_activation=linear"]
    )
    assert (config.model.interests, config.loss.logq) == (2, True)
    assert config.model.item_activation == "linear"
    assert config.training == Config.paper().training


def test_the_command_prints_one_line_of_results(shop_run, shop_dataset, tmp_path, capsys):
    config = shop_run / "config.json"
    arguments = ["--dataset", str(shop_dataset), "--run", str(shop_run), "--config", str(config)]
    assert main(arguments) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line) == json.loads((shop_run / "result.json").read_text())


def test_the_command_reports_a_missing_data_set_in_one_line(tmp_path, capsys):
    assert main(["--dataset", str(tmp_path / "no"), "--run", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("guim train: ")
    assert "guim build-dataset" in error
    assert len(error.splitlines()) == 1
