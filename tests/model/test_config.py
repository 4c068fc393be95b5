"""Strict JSON: what is accepted, and what every refusal says."""

import dataclasses

import pytest

from guim_tf.config import Config, LossConfig, ModelConfig, WindowConfig, load_over
from guim_tf.mapping import Column, Mapping, RowFilter
from guim_tf.strict_json import ConfigError, from_json, load, to_json


def mapping(**events) -> str:
    import json

    fields = {"files": ["log.csv"], "user_id": "u", "item_id": "i", "timestamp": "t"}
    return json.dumps({"events": fields | events})


def test_a_configuration_survives_json():
    config = Config(model=ModelConfig(interests=7))
    assert from_json(Config, to_json(config)) == config


def test_the_papers_mode_is_what_the_paper_states():
    """Every field, so that a new lever has to say what it is in the paper's mode: off."""
    assert dataclasses.asdict(Config.paper()) == {
        "model": {
            "interests": 4,
            "mixture": "tokens",
            "embedding_dim": 128,
            "item_id_dim": 128,
            "category_dim": 128,
            "word_dim": 32,
            "layers": 3,
            "heads": 2,
            "dropout": 0.1,
            "item_activation": "gelu",
            "initializer": "bert",
            "norm_first": False,
            "causal": False,
            "time_rows": 365,
            "time_unit": "day",
            "actions": False,
        },
        "loss": {
            "alpha": 20.0,
            "mask_probability": 0.15,
            "negatives_per_user": 1,
            "logq": False,
            "id_dropout": 0.0,
            "diversity": 0.0,
            "next_item": 0.0,
            "catalogue_negatives": 0,
            "across_replicas": True,
        },
        "window": {
            "history_days": 365,
            "target_days": 31,
            "max_length": 128,
            "training_length": None,
            "max_targets": 64,
            "random_cutoffs": False,
            "cutoff_half_life_days": None,
            "recent_days": None,
            "cutoffs": 1,
            "shuffled": 0.0,
        },
        "training": {
            "batch_size": 32,
            "epochs": 30,
            "learning_rate": 1e-3,
            "warmup_share": 0.1,
            "weight_decay": 0.01,
            "clip_norm": 1.0,
            "table_rate": 30.0,
            "table_slots": "row",
            "patience": 10,
            "seed": 0,
            "parts": 1,
        },
        "retrieval": {"repeat_weight": 0.0, "popularity_weight": 0.0, "rescore_sharpness": None},
    }


def test_left_out_sections_are_the_papers():
    assert from_json(Config, '{"model": {"interests": 1}}') == dataclasses.replace(
        Config.paper(), model=ModelConfig(interests=1)
    )


def test_a_file_changes_a_mode_and_leaves_the_rest_of_it(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"model": {"interests": 1}, "training": {"epochs": 3}}')
    tuned = Config.tuned()
    assert load_over(tuned, file) == dataclasses.replace(
        tuned,
        model=dataclasses.replace(tuned.model, interests=1),
        training=dataclasses.replace(tuned.training, epochs=3),
    )
    assert load_over(Config.paper(), file).loss == Config.paper().loss
    for text, message in (
        ('{"modle": {}}', "unknown key 'modle'"),
        ('{"model": {"wings": 2}}', r"mine.json.model: unknown key 'wings'"),
        ('{"model": 4}', r"mine.json.model: expected an object, got 4"),
        ("[]", "expected an object"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_over(tuned, file)


def test_catalogue_negatives_go_with_whole_batches():
    with pytest.raises(
        ConfigError, match=r"catalogue_negatives is 5, .* negatives_per_user = null"
    ):
        LossConfig(catalogue_negatives=5)
    LossConfig(catalogue_negatives=5, negatives_per_user=None)


def test_several_cutoffs_need_a_causal_model():
    window = WindowConfig(cutoffs=2, random_cutoffs=True)
    with pytest.raises(ConfigError, match=r"cutoffs is 2: .* need model.causal"):
        Config(window=window)
    Config(window=window, model=ModelConfig(causal=True))


def test_the_next_item_is_predicted_by_a_causal_model_alone():
    loss = LossConfig(next_item=0.3)
    with pytest.raises(ConfigError, match=r"next_item is 0.3: .* Set loss.next_item=0 or model.c"):
        Config(loss=loss)
    Config(loss=loss, model=ModelConfig(causal=True))


@pytest.mark.parametrize("field", ["recent_days", "cutoff_half_life_days"])
def test_what_random_cutoffs_are_drawn_from_is_positive_and_beside_them(field):
    for days, random in ((0, True), (-30, True), (30, False)):
        with pytest.raises(ConfigError, match=f"{field} is {days}, expected a positive number bes"):
            WindowConfig(random_cutoffs=random, **{field: days})
    WindowConfig(random_cutoffs=True, **{field: 30})


def test_a_mapping_is_read_with_short_and_long_columns():
    text = mapping(
        category_id={"column": "i", "prefix": 3},
        filters=[{"column": "q", "operator": ">", "value": 0}],
    )
    events = from_json(Mapping, text).events
    assert events.user_id == Column("u")
    assert events.category_id == Column("i", prefix=3)
    assert events.filters == (RowFilter("q", ">", 0),)
    assert events.filters[0].reason == "q > 0"


@pytest.mark.parametrize(
    ("cls", "text", "message"),
    [
        (Config, "{", "is not JSON"),
        (Config, "[]", "expected an object"),
        (Config, '{"modle": {}}', "unknown key 'modle'; known: model, loss, window, training"),
        (Config, '{"model": {"interests": "4"}}', r"model\.interests: expected int, got '4'"),
        (Config, '{"model": {"interests": true}}', r"model\.interests: expected int, got True"),
        (Config, '{"model": {"interests": 1.5}}', r"model\.interests: expected int, got 1.5"),
        (Config, '{"model": {"interests": 0}}', r"interests is 0, expected a positive number"),
        (Config, '{"model": {"mixture": "experts"}}', "mixture is 'experts', expected tokens or"),
        (Config, '{"model": {"time_unit": "week"}}', "time_unit is 'week', expected day or hour"),
        (Config, '{"retrieval": {"rescore_sharpness": -1}}', "expected zero or more, or null"),
        (Config, '{"loss": {"alpha": -1}}', "alpha is -1.0, expected a positive scale"),
        (Config, '{"loss": {"alpha": 60}}', "alpha is 60.0, expected a positive scale up to 50"),
        (
            Config,
            '{"window": {"max_length": 8, "training_length": 9}}',
            "training_length is 9, expected a positive number up to max_length = 8, or null",
        ),
        (Config, '{"window": {"shuffled": 2}}', "shuffled is 2.0, expected a share in"),
        (Config, '{"loss": {"logq": 1}}', "logq: expected bool, got 1"),
        (Config, '{"training": {"batch_size": 1}}', "at least 2"),
        (Mapping, "{}", "missing 'events'"),
        (Mapping, mapping(colour="c"), "unknown key 'colour'"),
        (Mapping, mapping(timestamp_unit="days"), "timestamp_unit is 'days', expected one of"),
        (Mapping, mapping(files=[]), "at least one file"),
        (Mapping, mapping(files="log.csv"), "expected a list"),
        (Mapping, mapping(filters=[{"column": "q", "operator": "~"}]), "operator is '~'"),
        (Mapping, mapping(filters=[{"column": "q", "operator": ">"}]), "expected a value"),
    ],
)
def test_what_is_wrong_is_named(cls, text, message):
    with pytest.raises(ConfigError, match=message):
        from_json(cls, text, source="it")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.json does not exist"):
        load(Config, tmp_path / "nowhere.json")


def test_an_integer_is_a_number_where_a_float_is_asked():
    assert from_json(Config, '{"loss": {"alpha": 5}}').loss.alpha == 5.0


def test_null_is_all_negatives():
    assert (
        from_json(Config, '{"loss": {"negatives_per_user": null}}').loss.negatives_per_user is None
    )
