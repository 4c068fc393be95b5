import collections
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from guim_tf.datasets import shop, shop_words, synthetic

USERS, ITEMS, DAYS = 3_000, 1_500, 395


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    output = tmp_path_factory.mktemp("shop")
    synthetic.generate(output=output, users=USERS, items=ITEMS, days=DAYS, seed=5)
    return output


@pytest.fixture(scope="module")
def log(folder) -> dict[str, np.ndarray]:
    """User and item numbers and days of the events."""
    table = pq.read_table(folder / "events.parquet").to_pydict()
    return {
        "user": np.array([int(each[1:]) for each in table["user_id"]]),
        "item": np.array([int(each[1:]) for each in table["item_id"]]),
        "day": (np.array(table["timestamp"]) - shop.START) / shop.DAY,
    }


@pytest.fixture(scope="module")
def truth(folder) -> dict[str, dict[str, list[int]]]:
    rows = pq.read_table(folder / "truth.parquet").to_pylist()
    return {
        kind: {row["id"]: row["interests"] for row in rows if row["kind"] == kind}
        for kind in ("user", "item")
    }


def test_equal_seeds_give_equal_files(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        synthetic.generate(output=tmp_path / name, users=50, items=100, days=60, seed=seed)
    for file in ("events", "items", "labels", "truth"):
        a, b, c = (pq.read_table(tmp_path / name / f"{file}.parquet") for name in "abc")
        assert a.equals(b)
        assert not a.equals(c)


def test_chunks_hold_what_one_piece_would_not_exceed(tmp_path, monkeypatch):
    """Chunks of 20 users: a row group each, every user in one of them, all files agree."""
    monkeypatch.setattr(synthetic, "CHUNK_PURCHASES", 1_000)
    synthetic.generate(output=tmp_path, users=50, items=100, days=60, seed=1, purchases_per_user=50)
    events = pq.ParquetFile(tmp_path / "events.parquet")
    assert events.num_row_groups == 3
    users = [
        set(events.read_row_group(group)["user_id"].to_pylist())
        for group in range(events.num_row_groups)
    ]
    everyone = {f"u{i}" for i in range(50)}
    assert set.union(*users) == everyone
    assert sum(map(len, users)) == 50
    assert set(pq.read_table(tmp_path / "labels.parquet")["user_id"].to_pylist()) == everyone


def test_purchases_a_user_have_the_shape_of_table_1(log):
    """Table 1: quantiles .25, .5, .75, .99 are 25, 58, 116 and 511 at a mean of 97."""
    counts = np.bincount(log["user"], minlength=USERS)
    assert counts.min() >= 1
    assert 54 < counts.mean() < 66
    q25, median, q75, q99 = np.quantile(counts, [0.25, 0.5, 0.75, 0.99])
    assert q25 / median == pytest.approx(25 / 58, rel=0.25)
    assert q75 / median == pytest.approx(116 / 58, rel=0.15)
    assert q99 / median == pytest.approx(511 / 58, rel=0.35)


def test_items_are_long_tailed(log):
    counts = np.sort(np.bincount(log["item"], minlength=ITEMS))[::-1]
    assert 0.3 < counts[: ITEMS // 10].sum() / counts.sum() < 0.6


def test_times_lie_in_the_log_and_winter_sells_more(log):
    assert log["day"].min() >= 0
    assert log["day"].max() < DAYS
    july = ((log["day"] > 181) & (log["day"] < 212)).mean()
    december = ((log["day"] > 334) & (log["day"] < 365)).mean()
    assert december > 1.4 * july


def test_users_buy_from_their_one_to_four_interests(log, truth):
    held = [set(truth["user"][f"u{i}"]) for i in range(USERS)]
    interest = [truth["item"][f"i{i}"][0] for i in range(ITEMS)]
    sizes = collections.Counter(map(len, held))
    assert set(sizes) == {1, 2, 3, 4}
    own = np.mean([interest[i] in held[u] for u, i in zip(log["user"], log["item"], strict=True)])
    assert own > 0.93  # at random it would be about 2.6 interests of 30
    # Both interests of a user with two are bought, mostly.
    bought = collections.defaultdict(set)
    for u, i in zip(log["user"], log["item"], strict=True):
        bought[u].add(interest[i])
    two = [u for u in range(USERS) if len(held[u]) == 2]
    assert np.mean([held[u] <= bought[u] for u in two]) > 0.8


def test_interests_drift(log, truth):
    """The interests of a user's first and last purchases differ more than by chance order."""
    interest = np.array([truth["item"][f"i{i}"][0] for i in range(ITEMS)])[log["item"]]
    early, late = log["day"] < DAYS / 4, log["day"] > 3 * DAYS / 4

    def mix(rows: np.ndarray, user: int) -> np.ndarray:
        counts = np.bincount(interest[rows & (log["user"] == user)], minlength=30)
        return counts / counts.sum()

    busy = [
        u
        for u in range(400)
        if min((early & (log["user"] == u)).sum(), (late & (log["user"] == u)).sum()) > 15
    ]
    change = np.array([np.abs(mix(early, u) - mix(late, u)).sum() / 2 for u in busy])
    assert len(busy) > 50
    assert (change > 0.4).mean() > 0.1  # some have turned to something else
    assert (change < 0.3).mean() > 0.2  # and some have not


def test_some_purchases_are_repeats_but_most_are_not(log):
    pairs = log["user"] * ITEMS + log["item"]
    repeated = 1 - len(np.unique(pairs)) / len(pairs)
    assert 0.25 < repeated < 0.6


def test_last_month_tells_more_than_all_time(log):
    """Recall of the 100 most bought items, over the purchases of the last 30 days."""
    test = log["day"] >= DAYS - 30
    recent = ~test & (log["day"] >= DAYS - 60)

    def share(history: np.ndarray) -> float:
        counts = np.bincount(log["item"][history], minlength=ITEMS)
        return np.isin(log["item"][test], np.argsort(-counts)[:100]).mean()

    assert share(recent) > share(~test) * 1.15


def test_what_a_user_likes_tells_far_more_than_popularity(log, truth):
    """Popular items of the planted interests against popular items: the model's headroom."""
    interest = np.array([truth["item"][f"i{i}"][0] for i in range(ITEMS)])
    test = log["day"] >= DAYS - 30
    counts = np.bincount(log["item"][~test], minlength=ITEMS)
    popular, personal = [], []
    for user in np.unique(log["user"][test])[:300]:
        bought = np.unique(log["item"][test & (log["user"] == user)])
        mine = np.isin(interest, truth["user"][f"u{user}"])
        popular.append(np.isin(bought, np.argsort(-counts)[:100]).mean())
        personal.append(np.isin(bought, np.argsort(-(counts * mine))[:100]).mean())
    assert np.mean(personal) > 2 * np.mean(popular)


def test_labels_follow_from_the_interests(folder, truth):
    """The strongest child interest (of the first 14) tells the child's gender and age."""
    rows = pq.read_table(folder / "labels.parquet").to_pylist()
    right = collections.Counter()
    for row in rows:
        child = [each for each in truth["user"][row["user_id"]] if each < 14]
        assert (row["has_child"] == "1") == (row["child_gender"] is not None)
        right["has_child"] += (row["has_child"] == "1") == bool(child)
        if child and row["has_child"] == "1":
            right["mothers"] += 1
            right["gender"] += row["child_gender"] == ("girl", "boy")[child[0] % 2]
            right["age"] += row["age_group"] == str(child[0] // 2)
    assert right["has_child"] / len(rows) > 0.85
    assert right["gender"] / right["mothers"] > 0.75
    assert right["age"] / right["mothers"] > 0.7
    assert {row["age_group"] for row in rows} == {None, *"0123456"}


def test_titles_tell_interest_and_category(folder, truth):
    items = pq.read_table(folder / "items.parquet").to_pylist()
    by_category = collections.defaultdict(list)
    for row in items:
        by_category[row["category_id"]].append(row["title"].split())
        assert truth["item"][row["item_id"]] == [int(row["category_id"][1:]) // 3]
    assert len(by_category) == 90
    for titles in by_category.values():
        assert len(set.intersection(*map(set, titles))) >= 2


@pytest.mark.parametrize("interests", [1, 5, 30, 100])
def test_interests_have_names_of_their_own(interests):
    titles = (shop_words.title(0, category=3 * i, interests=interests) for i in range(interests))
    names = {" ".join(title.split()[2:-2]) for title in titles}
    assert len(names) == interests


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"users": 0}, "users is 0"),
        ({"items": 89}, "items is 89, expected at least 90"),
        ({"days": 1}, "days is 1"),
        ({"purchases_per_user": 0.5}, r"purchases_per_user is 0\.5"),
    ],
)
def test_sizes_that_make_no_shop(tmp_path, sizes, message):
    with pytest.raises(ValueError, match=message):
        synthetic.generate(output=tmp_path / "x", **sizes)
    assert not (tmp_path / "x").exists()
