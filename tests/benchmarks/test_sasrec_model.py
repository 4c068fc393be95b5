"""RecTools' SASRec itself. Runs where RecTools is installed, and is skipped elsewhere:

.venv-rectools/bin/pip install pytest pytest-timeout
.venv-rectools/bin/python -m pytest tests/benchmarks
"""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("rectools", reason="see benchmarks/requirements-rectools.txt")

import sasrec_model
import torch
from rectools import Columns
from rectools.models.nn.transformers.lightning import TransformerLightningModule
from sasrec_files import BaselineError, Settings

DAY = 86_400
USERS = 80
ITEMS = 40  # many more than the 10 of validation, or its first epoch would be the best
SETTINGS = Settings(
    factors=16, max_length=8, batch_size=16, learning_rate=5e-3, epochs=40, threads=1
)


def next_of(item: int) -> int:
    """The planted rule: after item i always comes i + 7 (of 40)."""
    return (item + 7) % ITEMS


@pytest.fixture(scope="module")
def events():
    """80 users of 2 to 11 events at equal times each, so that the order of rows alone counts."""
    users, items = [], []
    for user in range(USERS):
        item = user % ITEMS
        for _ in range(2 + user % 10):
            users.append(f"u{user}")
            items.append(f"i{item}")
            item = next_of(item)
    columns = {"user_id": users, "item_id": items, "timestamp": [5 * DAY] * len(users)}
    return pa.table(columns).replace_schema_metadata({"as_of": str(10 * DAY)})


@pytest.fixture(scope="module")
def fitted(events):
    return sasrec_model.fit(events, events, SETTINGS)


def last_item(events: pa.Table, user: str) -> int:
    rows = zip(events["user_id"].to_pylist(), events["item_id"].to_pylist(), strict=True)
    return [int(item[1:]) for of, item in rows if of == user][-1]


def test_the_dot_product_ranks_the_planted_next_item_first(events, fitted):
    best = fitted.item_ids[np.argmax(fitted.user_vectors @ fitted.item_vectors.T, axis=1)]
    hits = [
        item == f"i{next_of(last_item(events, user))}"
        for user, item in zip(fitted.user_ids, best, strict=True)
    ]
    assert sorted(fitted.user_ids) == sorted(set(events["user_id"].to_pylist()))
    assert len(fitted.item_ids) == ITEMS
    assert np.mean(hits) > 0.9
    assert 1 <= fitted.best_epoch <= fitted.epochs <= 40


def test_equal_seeds_give_equal_vectors_and_others_do_not(events):
    short = dataclasses.replace(SETTINGS, epochs=1)
    first, again = (sasrec_model.fit(events, events, short) for _ in range(2))
    other = sasrec_model.fit(events, events, dataclasses.replace(short, seed=1))
    np.testing.assert_array_equal(first.user_vectors, again.user_vectors)
    np.testing.assert_array_equal(first.item_vectors, again.item_vectors)
    assert np.abs(first.item_vectors - other.item_vectors).max() > 1e-3


def test_vectors_rank_as_the_library_recommends(events):
    dataset = sasrec_model.interactions(events)
    model = sasrec_model.make_model(dataclasses.replace(SETTINGS, epochs=2), users=USERS)
    model.fit(dataset)
    user_ids, users, item_ids, items = sasrec_model.vectors(model, dataset)
    found = model.recommend(user_ids, dataset, k=5, filter_viewed=False)
    scores = users @ items.T
    for user, row in zip(user_ids, scores, strict=True):
        theirs = found[found[Columns.User] == user].sort_values(Columns.Rank)
        assert theirs[Columns.Item].tolist() == item_ids[np.argsort(-row)[:5]].tolist()
        np.testing.assert_allclose(theirs[Columns.Score], np.sort(row)[::-1][:5], rtol=1e-4)


def test_the_loss_is_the_librarys(events):
    model = sasrec_model.make_model(SETTINGS, users=USERS)
    model._build_model_from_dataset(sasrec_model.interactions(events))
    module = model.lightning_model.eval()  # no dropout: both see the same network
    module.log = lambda *_, **__: None
    for batch in model.data_preparator.get_dataloader_train():
        assert (batch["y"] == 0).any()  # there is padding to leave out
        theirs = TransformerLightningModule.training_step(module, batch, 0)
        torch.testing.assert_close(module.training_step(batch, 0), theirs)


def test_one_event_of_so_many_users_is_held_out(events):
    whole = dataclasses.replace(SETTINGS, validation_users=10, max_length=20)  # none is cut
    model = sasrec_model.make_model(whole, users=USERS)
    model._build_model_from_dataset(sasrec_model.interactions(events))
    trained = model.data_preparator.train_dataset.get_raw_interactions()
    kept = trained[Columns.User].value_counts()
    missing = {user: 2 + user % 10 - kept.get(f"u{user}", 0) for user in range(USERS)}
    assert sum(n > 0 for n in missing.values()) == 10
    for user, n in missing.items():  # one event alone is no sequence and goes too
        assert n in ((0, 2) if user % 10 == 0 else (0, 1))


def test_users_of_other_items_and_unknown_users_have_no_vector(events):
    model = sasrec_model.make_model(dataclasses.replace(SETTINGS, epochs=1), users=USERS)
    model.fit(sasrec_model.interactions(events))
    history = pa.table(
        {"user_id": ["new", "old"], "item_id": ["i3", "never sold"], "timestamp": [DAY, DAY]}
    )
    user_ids, users, _, _ = sasrec_model.vectors(model, sasrec_model.interactions(history))
    assert user_ids.tolist() == ["new"]  # was not trained on, but his item was
    assert users.shape == (1, 16)


def test_too_few_events_are_answered_with_what_is_missing(events):
    with pytest.raises(BaselineError, match="three events"):
        sasrec_model.fit(events.slice(0, 2), events, SETTINGS)  # u0 has two
    strange = pa.table(
        {"user_id": ["a"] * 3, "item_id": ["i0", "i1", "once"], "timestamp": [DAY] * 3}
    )
    with pytest.raises(BaselineError, match="held out"):
        sasrec_model.fit(strange, strange, SETTINGS)


class Trainer:
    """What the callback sees of a trainer."""

    should_stop = False

    def __init__(self, loss: float, recall: float) -> None:
        self.callback_metrics = {"train_loss": loss, "recall@10": recall}


class Module:
    def __init__(self, weight: float) -> None:
        self.torch_model = torch.nn.Linear(1, 1)
        torch.nn.init.constant_(self.torch_model.weight, weight)


def test_the_best_epoch_is_kept_and_training_stops_after_patience():
    best = sasrec_model.BestEpoch(patience=2, minutes=60)
    stops = []
    for epoch, recall in enumerate((0.1, 0.3, 0.3, 0.2), start=1):
        trainer = Trainer(1.0, recall)
        best.on_train_epoch_end(trainer, Module(epoch))
        stops.append(trainer.should_stop)
    assert stops == [False, False, False, True]  # an equal recall is no better one
    assert (best.epochs, best.best, best.recall) == (4, 2, 0.3)
    assert best.weights["weight"].item() == 2


def test_a_loss_that_is_no_number_stops_with_the_remedy():
    with pytest.raises(BaselineError, match=r"nan in epoch 1.*--learning-rate"):
        sasrec_model.BestEpoch(2, 60).on_train_epoch_end(Trainer(float("nan"), 0.1), Module(0))


def test_no_epoch_begins_that_would_end_too_late():
    for minutes, stops in ((60, False), (1e-9, True)):
        trainer = Trainer(1.0, 0.1)
        sasrec_model.BestEpoch(2, minutes).on_train_epoch_end(trainer, Module(0))
        assert trainer.should_stop == stops
