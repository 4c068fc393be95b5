"""Yardsticks of user vectors: which items a history holds, and the mean of its item vectors."""

import importlib.util
import json
import pathlib

import numpy as np
import pytest

from guim_tf.evaluation import main as evaluate_main

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "history_vectors", BENCHMARKS / "history_vectors.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(folder, kind):
    ids = (folder / f"{kind}.ids.txt").read_text().splitlines()
    return dict(zip(ids, np.load(folder / f"{kind}.npy"), strict=True))


def test_which_items_a_user_had_in_the_year_before(script, shop, tmp_path, capsys):
    assert script.main(["--dataset", str(shop), "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 4 users of 5 numbers\n"
    items, users = read(tmp_path, "items"), read(tmp_path, "users")
    order = "".join(items)
    assert sorted(order) == list("ABCDE")
    np.testing.assert_array_equal(np.stack(list(items.values())), np.eye(5))
    had = {user: {x for x, one in zip(order, of, strict=True) if one} for user, of in users.items()}
    # Dora came later, Emil was last seen a day too long ago, and Anna had A twice.
    assert had == {"anna": {"A", "B"}, "ben": {"C"}, "cara": {"B", "D"}, "finn": {"D"}}
    assert set(np.unique(np.stack(list(users.values())))) == {0, 1}


def test_the_mean_of_the_items_each_of_length_one(script, shop, tmp_path):
    vectors = np.array([[3, 0], [0, 2], [1, 1], [-5, 0], [0, 9]], np.float32)
    np.save(tmp_path / "given.npy", vectors)
    (tmp_path / "given.ids.txt").write_text("A\nB\nC\nD\nE\n")
    script.history_vectors(dataset=shop, output=tmp_path, item_vectors=tmp_path / "given.npy")
    users = read(tmp_path, "users")
    np.testing.assert_allclose(users["anna"], [2 / 3, 1 / 3], rtol=1e-6)  # A, A and B
    np.testing.assert_allclose(users["ben"], [0.5**0.5] * 2, rtol=1e-6)
    np.testing.assert_allclose(users["cara"], [-0.5, 0.5], rtol=1e-6)


def test_an_item_without_a_vector_is_no_zero(script, shop, tmp_path, capsys):
    np.save(tmp_path / "given.npy", np.ones([4, 2], np.float32))
    (tmp_path / "given.ids.txt").write_text("A\nB\nC\nD\n")
    arguments = ["--dataset", str(shop), "--output", str(tmp_path / "out")]
    assert script.main([*arguments, "--item-vectors", str(tmp_path / "given.npy")]) == 2
    assert "a vector for 4 of the 5 items" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_benchmark_scores_them(script, shop, tmp_path):
    script.history_vectors(dataset=shop, output=tmp_path)
    arguments = ["--dataset", str(shop), "--output", str(tmp_path / "report"), "--score", "dot"]
    for kind in ("user", "item"):
        arguments += [f"--{kind}-vectors", str(tmp_path / f"{kind}s.npy")]
    assert evaluate_main(arguments) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["methods"][0]["name"] == "given vectors, C = 1"


def test_a_log_without_a_past_is_refused(script, shop_writer, tmp_path, capsys):
    folder = shop_writer(tmp_path / "dataset", {"anna": [(1, "A")], "ben": [(2, "A")]})
    assert script.main(["--dataset", str(folder), "--output", str(tmp_path / "out")]) == 2
    assert "--as-of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
