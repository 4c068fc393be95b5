"""The whole model: losses of a batch, determinism, serialisation, learning, and its rank."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from guim_tf import schema as names
from guim_tf.batch_items import collect, count_events, present_events
from guim_tf.config import Config, LossConfig, ModelConfig
from guim_tf.keras_compat import keras
from guim_tf.mixture import max_score
from guim_tf.model import GUIM, TableRows
from guim_tf.strict_json import ConfigError

ROWS = TableRows(items=32, categories=7, words=25)
SMALL = ModelConfig(
    interests=3, embedding_dim=16, item_id_dim=8, category_dim=8, word_dim=4, layers=1, dropout=0.0
)


def small_model(*, causal: bool = False, **changes) -> GUIM:
    return GUIM(ROWS, model=dataclasses.replace(SMALL, causal=causal), **changes)


def items_of_others(batch) -> np.ndarray:
    """Of each user: how many different items others of the batch have and he has not."""
    keys = np.concatenate([batch[x][names.ITEM_KEY] for x in ("history", "targets")], axis=1)
    owned = [set(row[row != 0]) for row in keys]
    return np.array([len(set.union(*owned) - own) for own in owned])


def test_the_constructors_defaults_are_the_papers_mode():
    model = GUIM(ROWS)
    assert model.model_config == Config.paper().model
    assert model.loss_config == Config.paper().loss


def test_one_vector_an_item_and_c_a_user(batch):
    model = small_model()
    assert model(batch).shape == [4, 3, 16]
    items = model.encode_items(batch["targets"])
    np.testing.assert_allclose(tf.norm(items, axis=-1), np.ones([4, 3]), rtol=1e-5)


def test_losses_of_a_model_that_knows_nothing_are_chance(batch):
    """With equal scores a positive is one of 1 + (items that others alone have): ln of that."""
    model = small_model(loss=LossConfig(negatives_per_user=None, mask_probability=0.5))
    model(batch)
    model.item_encoder.projection.kernel.assign(tf.zeros_like(model.item_encoder.projection.kernel))
    model.compute_loss(batch)
    chance = np.log(1 + items_of_others(batch))
    expected = np.average(chance, weights=[2, 1, 3, 2])
    np.testing.assert_allclose(float(model.matching_loss.result()), expected, rtol=1e-5)
    assert chance.min() < float(model.mlm_loss.result()) < chance.max()


def test_the_loss_is_the_sum_of_both_over_the_users(batch):
    model = small_model(loss=LossConfig(mask_probability=0.5))
    model.compile(keras.optimizers.Adam())
    total = float(model.compute_loss(batch))
    targets = 2 + 1 + 3 + 2
    matching = float(model.matching_loss.result()) * targets
    masked = float(model.mlm_loss.count)
    assert 0 < masked < 13
    mlm = float(model.mlm_loss.result()) * masked
    np.testing.assert_allclose(total, (matching + mlm) / 4, rtol=1e-5)


def test_validation_repeats_itself_and_each_step_draws_anew(batch):
    model = small_model()
    assert float(model.compute_loss(batch)) == float(model.compute_loss(batch))
    model.compile(keras.optimizers.SGD(0.0))
    first = float(model.compute_loss(batch, training=True))
    assert first == float(model.compute_loss(batch, training=True))
    model.optimizer.iterations.assign_add(1)
    second = float(model.compute_loss(batch, training=True))
    assert first != second


def test_the_same_seed_trains_the_same_model(batch):
    def trained():
        keras.utils.set_random_seed(3)
        model = small_model(seed=3)
        model.compile(keras.optimizers.Adam(0.01))
        model.fit(tf.data.Dataset.from_tensors(batch).repeat(3), verbose=0)
        return model.get_weights()

    for a, b in zip(trained(), trained(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mixture", ["tokens", "heads"])
def test_fit_learns_what_users_buy_next(mixture, batch):
    config = dataclasses.replace(SMALL, mixture=mixture)
    model = GUIM(ROWS, model=config, loss=LossConfig(negatives_per_user=None))
    model.compile(keras.optimizers.Adam(0.01))
    data = tf.data.Dataset.from_tensors(batch)
    before = model.evaluate(data, verbose=0, return_dict=True)
    model.fit(data, epochs=60, verbose=0)
    after = model.evaluate(data, verbose=0, return_dict=True)
    assert after["matching_loss"] < 0.5 * before["matching_loss"]


@pytest.mark.parametrize(
    "changes", [{}, {"mixture": "heads"}, {"mixture": "heads", "causal": True}, {"actions": True}]
)
def test_every_trainable_weight_gets_a_gradient(changes, batch):
    config = dataclasses.replace(SMALL, **changes)
    model = GUIM(ROWS, model=config, loss=LossConfig(mask_probability=0.5))
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch, training=True)
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.name
        values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
        assert np.abs(values).max() > 1e-9, variable.name


def test_the_model_comes_back_from_its_configuration_and_weights(batch, tmp_path):
    model = small_model(loss=LossConfig(logq=True), sampling_probability=np.linspace(0, 1, 32))
    expected = model(batch)
    model.save_weights(tmp_path / "weights.h5")
    again = GUIM.from_config(model.get_config())
    assert again.loss_config == model.loss_config
    again(batch)
    again.load_weights(tmp_path / "weights.h5")
    np.testing.assert_array_equal(again(batch), expected)
    np.testing.assert_allclose(again.sampling_probability, np.linspace(0, 1, 32), rtol=1e-6)


def test_the_model_is_saved_and_loaded_as_one_keras_file(batch, tmp_path):
    model = small_model()
    expected = model.predict(tf.data.Dataset.from_tensors(batch), verbose=0)
    model.save(tmp_path / "guim.keras")
    again = keras.models.load_model(tmp_path / "guim.keras")
    np.testing.assert_allclose(
        again.predict(tf.data.Dataset.from_tensors(batch), verbose=0), expected, atol=1e-6
    )


def test_a_wrong_configuration_is_refused_with_its_field():
    with pytest.raises(ValueError, match=r"ModelConfig.heads is 3, expected a divisor"):
        dataclasses.replace(SMALL, heads=3)
    config = small_model().get_config()
    config["model"]["wings"] = 2
    with pytest.raises(ValueError, match="unknown key 'wings'"):
        GUIM.from_config(config)


def test_maximum_over_interests_breaks_the_softmax_bottleneck():
    """One vector a user gives scores of rank d at the most; C > 1 can exceed it (section 3.3)."""
    dim, users, items = 4, 60, 50
    rng = np.random.default_rng(0)
    item_vectors = rng.normal(size=[items, dim]).astype(np.float32)

    def rank(interests):
        vectors = rng.normal(size=[users, interests, dim]).astype(np.float32)
        return np.linalg.matrix_rank(max_score(vectors, item_vectors).numpy(), tol=1e-3)

    assert rank(1) == dim
    assert rank(4) > 5 * dim


def test_padding_does_not_enter_the_loss(batch):
    # with all negatives and nothing masked no draw depends on the width of the batch
    model = small_model(loss=LossConfig(negatives_per_user=None, mask_probability=1e-9))
    wider = {
        "as_of": batch["as_of"],
        "history": {k: _pad(v) for k, v in batch["history"].items()},
        "targets": {k: _pad(v) for k, v in batch["targets"].items()},
    }
    assert wider["history"][names.ITEM_INDEX].shape == [4, 9]
    np.testing.assert_allclose(model.compute_loss(wider), model.compute_loss(batch), rtol=1e-5)
    assert float(model.matching_loss.count) == 2 * 8
    assert float(model.mlm_loss.count) == 0


def _pad(value: tf.Tensor) -> tf.Tensor:
    return tf.pad(value, [[0, 0], [0, 4]] + [[0, 0]] * (len(value.shape) - 2))


def test_an_hour_matters_where_time_is_counted_in_hours(batch):
    """Two hours more of every event: the same days of age, other hours."""
    noon = batch["history"]["timestamp"] // 86_400 * 86_400 + 12 * 3600
    later = [batch | {"history": batch["history"] | {"timestamp": noon + h}} for h in (0, 7200)]
    for unit, same in (("day", True), ("hour", False)):
        model = GUIM(ROWS, model=dataclasses.replace(SMALL, time_unit=unit, time_rows=60 * 24))
        a, b = (model(each).numpy() for each in later)
        assert (np.abs(a - b).max() < 1e-6) == same, unit


def test_the_action_table_has_the_rows_of_the_schema(tiny_schema):
    schema = dataclasses.replace(tiny_schema, actions=("buy", "cart", "click"))
    model = GUIM(TableRows.of(schema), model=dataclasses.replace(SMALL, actions=True))
    assert model.user_encoder.action_table.embeddings.shape == [2 + 3, 16]
    assert GUIM(TableRows.of(schema), model=SMALL).user_encoder.action_table is None


def test_id_dropout_hides_ids_in_training_only(batch):
    model = small_model(loss=LossConfig(id_dropout=0.999, negatives_per_user=None))
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch, training=True)
    gradient = tape.gradient(loss, model.item_encoder.item_table.embeddings)
    touched = np.unique(gradient.indices.numpy()[np.abs(gradient.values.numpy()).max(axis=1) > 0])
    assert names.UNKNOWN_ROW in touched
    assert len(touched) <= 3, "nearly every event must be on the unknown row"
    plain = small_model(loss=LossConfig(negatives_per_user=None))
    plain.set_weights(model.get_weights())
    assert float(model.compute_loss(batch)) == float(plain.compute_loss(batch))


def test_next_items_are_predicted_by_what_comes_before_them(batch):
    model = small_model(causal=True, loss=LossConfig(next_item=0.5, mask_probability=1e-9))
    plain = small_model(causal=True, loss=LossConfig(mask_probability=1e-9))
    for mine, other in zip(plain.trainable_variables, model.trainable_variables, strict=True):
        mine.assign(other)
    total, without = (float(m.compute_loss(batch)) for m in (model, plain))
    # of histories of 5, 3, 1 and 4 events all but the first follow another
    assert float(model.next_item_loss.count) == 4 + 2 + 0 + 3
    following = float(model.next_item_loss.result()) * 9
    np.testing.assert_allclose(total, without + 0.5 * following / 4, rtol=1e-5)


def test_what_would_read_the_future_or_do_nothing_is_refused(batch):
    with pytest.raises(ConfigError, match=r"next_item is 0.5: without model.causal"):
        small_model(loss=LossConfig(next_item=0.5))
    earlier = {"as_of": batch["as_of"][:, None], "targets": tf.zeros([4, 1, 5], tf.bool)}
    with pytest.raises(ValueError, match="several cut-offs need ModelConfig"):
        small_model().compute_loss(batch | {"earlier": earlier}, training=True)
    small_model(causal=True).compute_loss(batch | {"earlier": earlier}, training=True)
    loss = LossConfig(negatives_per_user=None, catalogue_negatives=2)
    with pytest.raises(ValueError, match="catalogue_negatives is 2, but batches hold none"):
        small_model(loss=loss).compute_loss(batch, training=True)


def test_a_masked_event_predicts_itself_and_not_its_successor(batch):
    model = small_model(causal=True, loss=LossConfig(next_item=0.5, mask_probability=1 - 1e-9))
    model.compute_loss(batch)
    assert float(model.mlm_loss.count) == 13
    assert float(model.next_item_loss.count) == 0


def test_catalogue_negatives_are_negatives_of_those_who_do_not_have_them(batch):
    loss = LossConfig(negatives_per_user=None, mask_probability=1e-9, logq=True)
    probability = np.full(32, 1 / 32)
    model = small_model(loss=loss, sampling_probability=probability)
    event = {name: value[0, :1] for name, value in batch["targets"].items()}  # of the first user
    size = tf.constant(30, tf.int64)
    own = float(model.compute_loss(batch | {"negatives": event, "catalogue_size": size}))
    new = event | {names.ITEM_KEY: tf.constant([77], tf.int64)}
    assert float(model.compute_loss(batch | {"negatives": new, "catalogue_size": size})) > own


def test_with_logq_a_whole_batch_weighs_an_item_by_how_often_a_batch_has_it(batch):
    """Of E events with probability p each an item is among the candidates at 1 - (1 - p)^E."""
    probability = np.linspace(0.001, 0.06, 32)
    model = small_model(
        loss=LossConfig(negatives_per_user=None, logq=True), sampling_probability=probability
    )
    events = collect(batch["history"], batch["targets"], None)
    items = model._candidates(events, tf.zeros([21, 16]), None)
    p = probability[events.items[names.ITEM_INDEX]]
    assert len(events.item) == 21
    assert len(p) == len(set(events.items[names.ITEM_KEY].numpy())) < 21, "each item is there once"
    np.testing.assert_allclose(items.probability, 1 - (1 - p) ** 21, rtol=1e-4)
    negatives = {name: value[0] for name, value in batch["targets"].items()}  # two events
    more = model._candidates(
        collect(batch["history"], batch["targets"], negatives),
        tf.zeros([23, 16]),
        tf.constant(1000, tf.int64),  # more than the item table has rows
    )
    uniform = 1 - 1 / 1000
    expected = 1 - (1 - p) ** 21 * uniform**2
    np.testing.assert_allclose(more.probability[: len(p)], expected, rtol=1e-4)


def test_every_cutoff_of_a_causal_model_is_as_if_it_were_the_only_one(batch):
    """Vectors of an earlier cut-off are those of the history that ends there."""
    # What one layer has mixed the next one can pass on; away from the small start it would show.
    model = GUIM(ROWS, model=dataclasses.replace(SMALL, causal=True, layers=2))
    model.set_weights([30 * weight for weight in model.get_weights()])
    history, as_of = batch["history"], batch["as_of"]
    times = history[names.TIMESTAMP]
    earlier = tf.stack([times[:, 1], tf.zeros_like(as_of)], axis=1)  # the second moment, and none
    present = present_events(history)
    events = {name: x[present] for name, x in history.items()}
    vectors = model.item_encoder(events)
    options = {
        "lengths": count_events(present),
        "timestamp": events[names.TIMESTAMP],
        "as_of": as_of,
    }
    users, outputs = model.user_encoder(vectors, earlier=earlier, **options)
    assert users.shape == [4, 3, 3, 16]
    alone, positions = model.user_encoder(vectors, **options)
    np.testing.assert_allclose(users[:, 0], alone, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(outputs, positions, rtol=1e-3, atol=1e-3)
    # what lies at or after the earlier cut-off changes nothing there
    later = (times >= earlier[:, :1])[present]
    other = tf.where(later[:, None], -vectors, vectors)
    changed, _ = model.user_encoder(other, earlier=earlier, **options)
    np.testing.assert_array_equal(changed[:, 1], users[:, 1])
    assert np.abs(changed[:3, 0] - users[:3, 0]).max() > 0.1


def test_targets_of_earlier_cutoffs_are_positives_too(batch):
    """With equal scores each costs what it costs at T: ln(1 + items that others alone have)."""
    loss = LossConfig(negatives_per_user=None, mask_probability=1e-9)
    model = small_model(causal=True, loss=loss)
    times = batch["history"][names.TIMESTAMP]
    targets = np.zeros([4, 2, 5], bool)
    targets[0, 0, 1:3] = targets[3, 1, 3] = True
    earlier = {
        "as_of": tf.stack([times[:, 1], times[:, 3]], axis=1),
        "targets": tf.constant(targets),
    }
    model(batch)
    model.item_encoder.projection.kernel.assign(tf.zeros_like(model.item_encoder.projection.kernel))
    chance = np.log(1 + items_of_others(batch))
    for inputs, positives in ((batch, [2, 1, 3, 2]), (batch | {"earlier": earlier}, [4, 1, 3, 3])):
        model.reset_metrics()
        model.compute_loss(inputs)
        assert float(model.matching_loss.count) == sum(positives)
        expected = np.average(chance, weights=positives)
        np.testing.assert_allclose(float(model.matching_loss.result()), expected, rtol=1e-5)


def test_the_diversity_penalty_is_the_mean_squared_cosine_a_target(batch):
    # nothing is masked, so that the loss sees the users that the model gives
    plain = small_model(loss=LossConfig(mask_probability=1e-9))
    strict = small_model(loss=LossConfig(mask_probability=1e-9, diversity=3.0))
    strict.set_weights(plain.get_weights())
    users = plain(batch).numpy()
    unit = users / np.linalg.norm(users, axis=-1, keepdims=True)
    cosine = np.einsum("bcd,bed->bce", unit, unit)
    pairs = [(0, 1), (0, 2), (1, 2)]
    penalty = np.mean([cosine[:, i, j] ** 2 for i, j in pairs], axis=0)
    expected = 3.0 * (penalty * [2, 1, 3, 2]).sum() / 4  # targets of each user; four users
    difference = float(strict.compute_loss(batch)) - float(plain.compute_loss(batch))
    np.testing.assert_allclose(difference, expected, rtol=1e-3)


def test_pre_norm_layers_leave_the_parameters_of_table_3_alone():
    def size(norm_first):
        model = GUIM(ROWS, model=dataclasses.replace(SMALL, norm_first=norm_first))
        kernels = [v for v in model.trainable_variables if "kernel" in v.name]
        return sum(int(tf.size(v)) for v in kernels)

    assert size(True) == size(False)


def test_pre_norm_layers_are_another_function_of_the_same_weights(batch):
    post, pre = (
        GUIM(ROWS, model=dataclasses.replace(SMALL, norm_first=norm_first, initializer="glorot"))
        for norm_first in (False, True)
    )
    post(batch), pre(batch)
    last = {id(v) for v in pre.user_encoder.output_norm.weights}  # pre-norm has one norm more
    same = [v for v in pre.trainable_variables if id(v) not in last]
    for variable, weight in zip(same, post.trainable_variables, strict=True):
        variable.assign(weight)
    assert np.abs(post(batch) - pre(batch)).max() > 1e-3
