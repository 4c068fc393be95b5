"""Consumer profile prediction: what is learnable is learnt, what is not is not, by hand."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from guim_tf.evaluation import evaluate, main, profile
from guim_tf.evaluation.population import load_population
from guim_tf.evaluation.profile import FOLDS, Features, Fold, accuracies, vector_features
from guim_tf.evaluation.protocol import ProtocolError
from guim_tf.evaluation.tables import profile_table

DAY = 86_400
USERS = 240


def write_labels(folder, users, **labels):
    pq.write_table(pa.table({"user_id": users, **labels}), folder / "labels.parquet")
    return folder


@pytest.fixture(scope="module")
def labelled(shop_writer, tmp_path_factory):
    """Even users buy A and odd ones B, all on the day before; that is all that is known of them."""
    users = [f"u{i:03d}" for i in range(USERS)]
    log = {user: [(-1, "AB"[i % 2])] for i, user in enumerate(users)}
    folder = shop_writer(tmp_path_factory.mktemp("labelled") / "dataset", log)
    return write_labels(
        folder,
        users,
        parity=["even", "odd"] * (USERS // 2),
        rare=["yes" if i % 6 == 0 else "no" for i in range(USERS)],
        one=["same"] * USERS,
        few=[None] * (USERS - 1) + ["x"],
    )


@pytest.fixture(scope="module")
def population(labelled):
    return load_population(labelled)


def test_population_of_the_shop(shop_writer, tmp_path):
    # anna, ben, cara and finn have a history; dora came later and emil's is a day too old.
    folder = write_labels(
        shop_writer(tmp_path / "shop"),
        ["anna", "cara", "dora", "emil", "finn", "nobody"],
        likes=["x", None, "y", "x", "y", "x"],
        has=[None, "1", "1", "1", None, None],
    )
    found = load_population(folder)
    assert found.user_ids.tolist() == ["anna", "cara", "finn"]
    assert {name: x.tolist() for name, x in found.labels.items()} == {
        "likes": ["x", "", "y"],
        "has": ["", "1", ""],
    }
    assert found.without_history == 3  # dora, emil and nobody
    assert found.without_label == 1  # ben
    assert found.history.items.lengths.tolist() == [3, 2, 1]
    later = load_population(folder, as_of=found.as_of + 2 * DAY)
    assert later.user_ids.tolist() == ["anna", "cara", "dora", "emil", "finn"]
    # Two of anna's next events are in; finn's D has left the window, his A has come.
    assert later.history.items.lengths.tolist() == [5, 2, 1, 1, 1]


def test_population_needs_labels_and_histories(shop, shop_writer, tmp_path):
    with pytest.raises(ProtocolError, match=r"labels.parquet does not exist.*--tasks cmp"):
        load_population(shop)
    folder = write_labels(shop_writer(tmp_path / "shop"), ["dora"], likes=["x"])
    with pytest.raises(ProtocolError, match="none of the 1 labelled users has an event"):
        load_population(folder)


def folds(population):
    part = np.array([profile._part(user) for user in population.user_ids])
    return [Fold.of(part, number) for number in range(FOLDS)]


def test_every_user_is_tested_in_one_fold_and_parts_hold_about_their_share(population):
    every = folds(population)
    assert sorted(np.concatenate([fold.test for fold in every])) == list(range(USERS))
    for fold in every:
        whole = np.concatenate([fold.train, fold.validation, fold.test])
        assert sorted(whole) == list(range(USERS))  # nobody is in two parts
        # 70, 10 and 20 % of 240 give 168, 24 and 48, with standard deviations of 7.1, 4.6 and 6.2.
        assert abs(len(fold.train) - 168) < 29
        assert abs(len(fold.validation) - 24) < 19
        assert abs(len(fold.test) - 48) < 25


def test_users_without_a_label_are_in_no_part():
    fold = Fold.of(np.array([0, -1, 1, 2, 5, -1]), 0)
    assert [x.tolist() for x in (fold.test, fold.validation, fold.train)] == [[0, 2], [3], [4]]


def test_features_that_know_and_that_do_not(population):
    parity = np.arange(USERS) % 2
    knows = Features("knows", "", np.stack([parity, -parity], 1).astype(np.float32) + 5)
    noise = np.random.default_rng(0).normal(size=(USERS, 3)).astype(np.float32)
    blind = Features("blind", "", noise)
    some = folds(population)[:2]
    assert accuracies(knows, parity, some, classes=2) == [1, 1]
    # 48 or so test users, a fair coin: a standard deviation of .07.
    for accuracy in accuracies(blind, parity, some, classes=2):
        assert abs(accuracy - 0.5) < 0.29


def test_a_network_is_more_than_a_line(population):
    """Exclusive or: three layers find it, one layer can't."""
    x = np.random.default_rng(1).choice([-1.0, 1.0], (USERS, 2)).astype(np.float32)
    y = (x.prod(axis=1) > 0).astype(int)
    fold = folds(population)[:1]
    deep = accuracies(Features("deep", "", x), y, fold, classes=2)
    flat = accuracies(Features("flat", "", x, layers=1), y, fold, classes=2)
    assert deep == [1]
    assert flat[0] < 0.8


def test_a_fold_repeats_itself(population):
    values = np.random.default_rng(2).normal(size=(USERS, 8)).astype(np.float32)
    y = (values[:, 0] + np.random.default_rng(3).normal(size=USERS) > 0).astype(int)
    runs = [
        accuracies(Features("x", "", values), y, folds(population)[:2], classes=2) for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert runs[0][0] != runs[0][1]


def test_a_fold_starts_anew(population):
    """A fold that went on from the last one's weights would know what that one has learnt."""
    values = np.random.default_rng(4).normal(size=(USERS, 2)).astype(np.float32)
    y = (values[:, 0] > 0).astype(int)
    seen = []

    class Network(profile.keras.Sequential):
        def fit(self, x, labels, **options):
            loss = self.evaluate(x, labels, verbose=0)
            rate = int(self.optimizer.iterations.numpy())
            seen.append((loss, rate, float(abs(self.layers[0].bias.numpy()).max())))
            return super().fit(x, labels, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile.keras, "Sequential", Network)
        accuracies(Features("x", "", values), y, folds(population)[:2], classes=2)
    (first, *zeros), (second, *others) = seen
    assert zeros == others == [0, 0]  # no step taken, biases as they start
    assert first != second  # other first weights
    assert min(first, second) > 0.4  # about ln 2 = .69: nothing is known


def test_category_counts_by_hand(shop_writer, tmp_path):
    folder = write_labels(shop_writer(tmp_path / "shop"), ["anna", "finn"], likes=["x", "y"])
    found = profile.category_features(load_population(folder))
    # All items are food: anna has three of them, finn one.
    np.testing.assert_allclose(found.values, np.log([[4], [2]]), rtol=1e-6)
    assert found.layers == 1


def test_majority_and_labels_that_cannot_be_asked(population, monkeypatch):
    monkeypatch.setattr(profile, "FOLDS", 2)

    def of_zeros_on_rare(features, y, folds, *, classes):
        if features.name != "nothing" or y.mean() > 0.3:
            return [0.5, 0.5]  # others take their time, and nobody asks
        return accuracies(features, y, folds, classes=classes)

    monkeypatch.setattr(profile, "accuracies", of_zeros_on_rare)
    values = np.zeros((USERS, 1, 2), np.float32)
    found = profile.evaluate_profile(population, [vector_features("nothing", values)])
    assert list(found.labels) == ["parity", "rare"]
    counts = found.labels["rare"]
    assert [counts.classes, counts.users, counts.unlabelled] == [2, USERS, 0]
    rows = {method.name: method for method in found.methods}
    share = np.mean([np.mean([i % 6 != 0 for i in fold.test]) for fold in folds(population)[:2]])
    majority = rows["majority class"].accuracy["rare"]
    assert majority.mean == pytest.approx(share)
    assert majority.half_width > 0
    # all that can be learnt from zeros
    assert rows["nothing"].accuracy["rare"].mean == pytest.approx(share)
    assert rows["nothing"].accuracy["rare"].users == 2
    assert [method.kind for method in found.methods] == ["model", "baseline", "baseline"]
    assert [note.split()[2] for note in found.notes] == ["one", "few"]
    assert "its 240 users with a history have 1 different values" in found.notes[0]


def test_baselines_are_left_out_on_request(population, monkeypatch):
    fitted = []

    def accuracies(features, *_, **__):
        fitted.append(features.name)
        return [0.5, 0.5]

    monkeypatch.setattr(profile, "accuracies", accuracies)
    features = [vector_features("nothing", np.zeros((USERS, 1, 2), np.float32))]
    found = profile.evaluate_profile(population, features, with_baselines=False)
    assert [method.name for method in found.methods] == ["nothing"]
    assert fitted == ["nothing", "nothing"]  # parity and rare
    assert list(found.labels) == ["parity", "rare"]


def test_interval_over_folds():
    # Mean .5, standard deviation .1 over five folds; t(4) = 2.776.
    values = [0.5 - 0.1 * np.sqrt(2), 0.5, 0.5, 0.5, 0.5 + 0.1 * np.sqrt(2)]
    found = profile._mean(values)
    assert found.mean == pytest.approx(0.5)
    assert found.half_width == pytest.approx(2.776 * 0.1 / np.sqrt(5))


def test_profile_of_a_report_without_a_future(labelled, tmp_path, capsys, monkeypatch):
    """At the end of a log nothing can be matched, but profiles can be predicted."""
    monkeypatch.setattr(profile, "FOLDS", 2)
    folder = shutil.copytree(labelled, tmp_path / "dataset")
    labels = pq.read_table(folder / "labels.parquet").select(["user_id", "parity"])
    pq.write_table(labels, folder / "labels.parquet")
    ids = [f"u{i:03d}" for i in range(USERS - 1)]
    np.save(tmp_path / "u.npy", np.eye(2, dtype=np.float32)[np.arange(USERS - 1) % 2])
    (tmp_path / "u.ids.txt").write_text("\n".join(ids))
    arguments = ["--dataset", str(folder), "--output", str(tmp_path / "report")]
    assert main(arguments) == 2
    assert "--tasks cpp" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()
    arguments += ["--tasks", "cpp", "--user-vectors", str(tmp_path / "u.npy")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "Profile as of 1972-09-27" in printed
    assert "CMP" not in printed
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "Profile prediction as of 1972-09-27" in page
    assert "Consumer matching" not in page
    assert "1 of 240 users with a profile have no vector" in page


def test_both_tasks_where_there_are_labels(shop_writer, shop_models, tmp_path):
    folder = write_labels(shop_writer(tmp_path / "shop"), ["anna", "ben"], likes=["x", "y"])
    report = evaluate(dataset=folder, models=shop_models, output=tmp_path / "both")
    assert report.document["protocol"]["users"] == 3
    assert report.document["profile"]["users"] == 2
    assert profile_table(report.document["profile"]).columns == []  # two users fill no split
    assert "The label likes was left out" in " ".join(report.document["notes"])
    alone = evaluate(dataset=folder, models=None, output=tmp_path / "cmp", tasks=["cmp"])
    assert alone.document["profile"] is None
    for tasks in ([], ["cmp", "cpx"]):
        with pytest.raises(ValueError, match="expected some of cmp, cpp"):
            evaluate(dataset=folder, models=None, output=tmp_path / "no", tasks=tasks)
