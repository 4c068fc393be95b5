"""A model that is carried on: its vectors at the start, what it learns in a day, and refusals."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.build_dataset import build_dataset
from guim_tf import checkpoints, runs
from guim_tf import schema as names
from guim_tf.config import Config, configure
from guim_tf.data import load_dataset
from guim_tf.lookup import Lookups
from guim_tf.optimizers import build_optimizer
from guim_tf.runs import build_model, load_optimizer, load_run, read_history
from guim_tf.schema import DAY, Schema, read_vocabulary
from guim_tf.strict_json import ConfigError
from guim_tf.training import main, train
from guim_tf.warm_start import Change, warm_start


@pytest.fixture(scope="module")
def config(small_config) -> Config:
    """With hidden ids, so that the row of unknown items has learned something."""
    return configure(small_config, ["loss.id_dropout=0.2", "training.epochs=2"])


@pytest.fixture(scope="module")
def yesterday(shop_dataset, shop_input, tmp_path_factory):
    """The shop 150 days earlier, when a fifth of its items were not sold yet."""
    folder = tmp_path_factory.mktemp("yesterday") / "dataset"
    as_of = Schema.load(shop_dataset).as_of - 150 * DAY
    build_dataset(mapping_file=shop_input, output=folder, shards=2, as_of=as_of)
    return folder


@pytest.fixture(scope="module")
def today(yesterday, shop_dataset, shop_input, tmp_path_factory):
    """The shop as it is, with room for so few items that some of yesterday's have none."""
    folder = tmp_path_factory.mktemp("today") / "dataset"
    room = Schema.load(yesterday).items.size - 10
    as_of = Schema.load(shop_dataset).as_of
    build_dataset(mapping_file=shop_input, output=folder, shards=2, as_of=as_of, max_items=room)
    return folder


@pytest.fixture(scope="module")
def base(yesterday, config, tmp_path_factory):
    """Yesterday's run."""
    run = tmp_path_factory.mktemp("base") / "run"
    train(dataset=yesterday, run=run, config=config, progress=False)
    return run


def carried(today, base, tmp_path, config):
    schema = Schema.load(today)
    runs.prepare_run(tmp_path / "run", today, schema, config, init_from=base, restart=False)
    model = build_model(schema, config)
    model.compile(optimizer=build_optimizer(config.training, total_steps=1))
    model.optimizer.build(model.trainable_variables)
    return model, schema, warm_start(model, tmp_path / "run", schema, base)


def items_by_strings(model, lookups: Lookups, ids, categories, titles) -> np.ndarray:
    return model.encode_items(
        {
            names.ITEM_INDEX: lookups.items(tf.constant(ids)),
            names.CATEGORY_INDEX: lookups.categories(tf.constant(categories)),
            names.TITLE_TOKENS: lookups.words(tf.constant(titles)).to_tensor(),
        }
    ).numpy()


def test_at_the_start_everything_has_the_vector_that_it_had(today, base, tmp_path, config):
    """Known items and ones that no model knows, of known and unknown categories and words."""
    model, schema, changes = carried(today, base, tmp_path, config)
    old, _, old_schema = load_run(base)
    before, after = Lookups(base, old_schema), Lookups(tmp_path / "run", schema)
    mine, _ = read_vocabulary(tmp_path / "run" / names.VOCABULARY_FILES["items"])
    theirs, _ = read_vocabulary(base / names.VOCABULARY_FILES["items"])
    words, _ = read_vocabulary(base / names.VOCABULARY_FILES["words"])
    ids = [*mine, "no such item"]
    categories = ["no such category"] * len(ids)
    titles = [f"{words[i % len(words)]} unheard{i}" for i in range(len(ids))]
    np.testing.assert_allclose(
        items_by_strings(model, after, ids, categories, titles),
        items_by_strings(old, before, ids, categories, titles),
        atol=1e-6,
    )
    assert set(mine) - set(theirs), "the test needs a new item"
    assert set(theirs) - set(mine), "the test needs a retired item"
    assert changes["items"] == Change(
        kept=len(set(mine) & set(theirs)),
        new=len(set(mine) - set(theirs)),
        retired=len(set(theirs) - set(mine)),
    )


def test_users_have_the_vectors_that_they_had(yesterday, base, tmp_path, config):
    model, _, changes = carried(yesterday, base, tmp_path, config)
    old = load_run(base)[0]
    batches = load_dataset(yesterday, "validation", window=config.window)
    np.testing.assert_array_equal(
        model.predict(batches, verbose=0), old.predict(batches, verbose=0)
    )
    assert all(change.new == change.retired == 0 for change in changes.values())


@pytest.mark.parametrize("slots", ["row", "full"])
def test_known_rows_keep_the_optimisers_state_and_new_ones_have_none(
    slots, yesterday, today, base, config, tmp_path
):
    if slots == "full":  # other than that of `base`
        config = configure(config, ["training.table_slots=full", "training.epochs=1"])
        base = tmp_path / "base"
        train(dataset=yesterday, run=base, config=config, progress=False)
    assert config.training.table_slots == slots
    model, _, _ = carried(today, base, tmp_path, config)
    old = load_run(base)[0]
    state = load_optimizer(base, old, config.training)
    mine, _ = read_vocabulary(tmp_path / "run" / names.VOCABULARY_FILES["items"])
    theirs, _ = read_vocabulary(base / names.VOCABULARY_FILES["items"])
    tables = [x.item_encoder.item_table.embeddings for x in (model, old)]
    pairs = zip(model.optimizer.state_of(tables[0]), state.state_of(tables[1]), strict=True)
    for new, before in pairs:
        assert np.any(before)
        for row, token in enumerate(mine, start=names.FIRST_ROW):
            expected = before[names.FIRST_ROW + theirs.index(token)] if token in theirs else 0.0
            np.testing.assert_array_equal(new[row], np.broadcast_to(expected, new[row].shape))


def test_a_day_is_learned_from_its_own_purchases_alone(today, base, config, tmp_path):
    """The cut-off of each user lies in the last day, and users without a purchase there are out."""
    schema, window = Schema.load(today), config.update().window
    moments = [batch["as_of"].numpy() for batch in load_dataset(today, window=window, batch_size=2)]
    assert moments
    assert np.min(moments) >= schema.as_of - DAY
    assert np.max(moments) < schema.as_of
    result = train(
        dataset=today, run=tmp_path / "run", config=config.update(), init_from=base, progress=False
    )
    assert 0 < result.users < 100, "of 360 training users those of one day"
    assert result.epochs == config.update().training.epochs


def test_an_update_that_is_killed_ends_as_one_that_is_not(
    today, base, config, tmp_path, monkeypatch
):
    def run(name: str):
        return train(
            dataset=today,
            run=tmp_path / name,
            config=configure(config.update(), ["training.batch_size=4"]),
            init_from=base,
            save_minutes=0.0,
            progress=False,
        )

    run("straight")
    original = checkpoints.SteppedRunState.on_train_batch_end

    def killing(self, batch, logs=None):
        original(self, batch, logs)
        if self.done == 3:
            raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.SteppedRunState, "on_train_batch_end", killing)
        with pytest.raises(_Killed):
            run("killed")
    run("killed")
    for mine, expected in zip(
        load_run(tmp_path / "killed")[0].weights,
        load_run(tmp_path / "straight")[0].weights,
        strict=True,
    ):
        np.testing.assert_array_equal(mine, expected, err_msg=mine.name)


class _Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_a_day_without_purchases_keeps_the_vectors(
    shop_dataset, shop_input, base, config, tmp_path
):
    quiet = tmp_path / "dataset"
    last = Schema.load(shop_dataset).last_timestamp
    build_dataset(mapping_file=shop_input, output=quiet, shards=1, as_of=last + 3 * DAY)
    result = train(
        dataset=quiet, run=tmp_path / "run", config=config.update(), init_from=base, progress=False
    )
    assert (result.users, result.epochs, result.steps, result.best) == (0, 0, 0, None)
    mine, theirs = (load_run(run)[0].user_encoder.weights for run in (tmp_path / "run", base))
    for weight, expected in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(weight, expected)
    again = train(
        dataset=quiet, run=tmp_path / "run", config=config.update(), init_from=base, progress=False
    )
    assert again == result


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.layers=2", r"model\.layers is 2 and was 1"),
        ("training.table_slots=full", r"training\.table_slots is 'full' and was 'row'"),
    ],
)
def test_another_network_or_state_is_refused_before_a_folder_is_made(
    yesterday, base, config, tmp_path, setting, message
):
    with pytest.raises(ConfigError, match=message):
        train(
            dataset=yesterday,
            run=tmp_path / "run",
            config=configure(config, [setting]),
            init_from=base,
        )
    assert not (tmp_path / "run").exists()


def test_what_is_no_finished_run_is_refused(yesterday, base, config, tmp_path):
    with pytest.raises(ConfigError, match="is no run folder"):
        train(dataset=yesterday, run=tmp_path / "b", config=config, init_from=tmp_path / "no")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(base, unfinished, ignore=shutil.ignore_patterns(runs.RESULT_FILE))
    with pytest.raises(ConfigError, match="has not ended"):
        train(dataset=yesterday, run=tmp_path / "b", config=config, init_from=unfinished)
    with pytest.raises(ConfigError, match="began with other weights"):
        train(dataset=yesterday, run=base, config=config, init_from=_copy(base, tmp_path / "c"))


def _copy(run, to):
    return shutil.copytree(run, to)


def test_a_run_is_not_thrown_away_to_begin_with_itself(yesterday, base, config, tmp_path):
    run = _copy(base, tmp_path / "run")
    with pytest.raises(ConfigError, match="can't begin with itself"):
        train(dataset=yesterday, run=run, config=config, init_from=run, restart=True)
    assert (run / runs.RESULT_FILE).is_file()


def test_moments_are_corrected_for_the_steps_that_they_have_seen(yesterday, base, tmp_path, config):
    """Adam's correction is for moments that began as zeros; these did so some steps ago."""
    model, _, _ = carried(yesterday, base, tmp_path, config)
    steps = json.loads((base / runs.RESULT_FILE).read_text())["steps"]
    assert int(model.optimizer.steps_before) == steps
    assert int(model.optimizer.iterations) == 0, "schedules begin anew"
    expected = [0.9 ** (steps + 1), 0.999 ** (steps + 1)]
    np.testing.assert_allclose(model.optimizer._powers(), expected, rtol=1e-4)


def test_an_update_of_an_update_learns_as_that_one_did():
    update = Config.tuned().update()
    assert update.training.learning_rate < Config.tuned().training.learning_rate
    assert update.update() == update


def test_the_command_takes_the_configuration_of_the_run_that_it_begins_with(
    today, base, tmp_path, capsys, config
):
    arguments = ["--dataset", str(today), "--run", str(tmp_path / "run"), "--init-from", str(base)]
    assert main([*arguments, "--set", "training.epochs=1"]) == 0
    shown = capsys.readouterr()
    assert "items: " in shown.err
    assert "new" in shown.err
    assert json.loads(shown.out.splitlines()[-1])["epochs"] == 1
    written = runs.load_config(tmp_path / "run")
    assert written.model == config.model
    assert written.window.recent_days == 1
    assert len(read_history(tmp_path / "run")) == 1
    assert main([*arguments[:-1], str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err
