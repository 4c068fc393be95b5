"""An index over time: new items, what was measured, and what is refused."""

import json
import pathlib
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from guim_tf.artifacts import latest, versions
from guim_tf.catalogue import Catalogue
from guim_tf.index_items import IndexItems, IndexItemsError, read_items
from guim_tf.index_report import IndexReport
from guim_tf.lookup import SortedIds
from guim_tf.retrieval import build_index, main
from guim_tf.scann_search import RecallError


@pytest.fixture(scope="module")
def catalogue(shop_dataset) -> Catalogue:
    return Catalogue(shop_dataset)


@pytest.fixture
def models(shop_models, tmp_path) -> pathlib.Path:
    """The encoders alone."""
    for name in ("user_encoder", "item_encoder"):
        shutil.copytree(latest(shop_models, name), tmp_path / "models" / name / "1")
    return tmp_path / "models"


def write_items(path, **columns) -> pathlib.Path:
    pq.write_table(pa.table({name: pa.array(x, pa.string()) for name, x in columns.items()}), path)
    return path


@pytest.fixture
def new_items(catalogue, tmp_path) -> pathlib.Path:
    """One that is like none, one with the texts of another, and one of the catalogue, changed."""
    return write_items(
        tmp_path / "new.parquet",
        item_id=["new-1", "new-2", catalogue.item_id[7]],
        category_id=["a new category", catalogue.category_id[3], catalogue.category_id[3]],
        title=["never seen", catalogue.title[3], None],
    )


def vectors_of(encoder, items) -> np.ndarray:
    answer = encoder.signatures["encode_items"](
        **{name: tf.constant(x) for name, x in items.items()}
    )
    return answer["item_embedding"].numpy()


def nearest(models, vectors, *, k, name="retrieval_exact"):
    answer = tf.saved_model.load(str(latest(models, name))).signatures["nearest_items"](
        item_embedding=tf.constant(vectors), k=tf.constant(k)
    )
    return answer["item_id"].numpy().astype(str), answer["score"].numpy()


def write_vectors(path, ids, vectors) -> pathlib.Path:
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"item_id": ids, "item_embedding": flat}), path)
    return path


@pytest.mark.parametrize("given", ["vectors", "encoded"])
def test_new_items_can_be_retrieved_beside_the_old_ones(
    given, models, shop_dataset, catalogue, new_items, tmp_path
):
    encoder = tf.saved_model.load(str(latest(models, "item_encoder")))
    texts = {n: getattr(catalogue, n).astype(str) for n in ("item_id", "category_id", "title")}
    old = vectors_of(encoder, texts)
    marked = old.copy()
    if given == "vectors":  # what is given is taken: the mark shows that nothing was encoded again
        marked[5] = -old[5]
    vectors = write_vectors(tmp_path / "v.parquet", catalogue.item_id, marked)
    result = build_index(
        dataset=shop_dataset,
        models=models,
        build="exact",
        vectors=vectors if given == "vectors" else None,
        items=new_items,
    )
    assert (result.report.items, result.report.new_items) == (len(catalogue) + 2, 2)

    table = pq.read_table(new_items).to_pydict()
    table = {name: [x or "" for x in column] for name, column in table.items()}
    new = vectors_of(encoder, table)
    ids, scores = nearest(models, new, k=1)
    np.testing.assert_allclose(scores[:, 0], np.ones(3), rtol=1e-5)
    assert ids[[0, 2], 0].tolist() == ["new-1", catalogue.item_id[7]]
    assert ids[1, 0] in ("new-2", catalogue.item_id[3]), "their texts are one"

    ids, scores = nearest(models, marked[[5, 7]], k=len(catalogue) + 2)
    assert ids[0, 0] == catalogue.item_id[5]
    assert set(ids[0]) == {*catalogue.item_id, "new-1", "new-2"}
    of_old = scores[1][ids[1] == catalogue.item_id[7]]
    np.testing.assert_allclose(of_old, [old[7] @ new[2]], atol=1e-5)  # replaced


def test_the_answers_about_new_items_are_those_about_old_ones(
    models, shop_dataset, catalogue, new_items
):
    arguments = ["--dataset", str(shop_dataset), "--models", str(models), "--build", "exact"]
    assert main([*arguments, "--items", str(new_items)]) == 0
    signatures = tf.saved_model.load(str(latest(models, "retrieval_exact"))).signatures
    history = {
        "item_id": tf.constant([["new-1", catalogue.item_id[0]]]),
        "category_id": tf.constant([["a new category", catalogue.category_id[0]]]),
        "title": tf.constant([["never seen", catalogue.title[0]]]),
        "timestamp": tf.constant([[1_699_900_000, 1_699_990_000]], tf.int64),
        "as_of": tf.constant([1_700_000_000], tf.int64),
    }
    request = history | {"k": tf.constant(3)}
    limits = {"per_interest": tf.constant(0), "category_filter": tf.constant(["a new category"])}
    for exclude, expected in ((False, [b"new-1", b"", b""]), (True, [b"", b"", b""])):
        answer = signatures["recommend_filtered"](
            **request, **limits, exclude_seen=tf.constant(exclude)
        )
        assert answer["item_id"].numpy().tolist() == [expected]
    why = signatures["explain"](**history, explained_item_id=tf.constant(["new-2"]))
    assert why["interest"].numpy()[0] >= 0
    moved = limits | {"category_filter": tf.constant([catalogue.category_id[3]])}
    answer = signatures["recommend_filtered"](
        **(request | {"k": tf.constant(20)}), **moved, exclude_seen=tf.constant(False)
    )
    assert {b"new-2", catalogue.item_id[7].encode()} <= set(answer["item_id"].numpy()[0])


def test_an_update_keeps_rows_and_sales_of_known_items():
    def items(ids, buyers):
        text = np.array([f"of {x}" for x in buyers], object)
        sales = np.array(buyers)
        return IndexItems(np.array(list(ids), object), text, text, 10 * sales, sales)

    joined, rows = items("abc", [3, 4, 5]).updated(items("dbe", [0, 0, 0]))
    assert joined.item_id.tolist() == ["a", "b", "c", "d", "e"]
    assert joined.title.tolist() == ["of 3", "of 0", "of 5", "of 0", "of 0"]
    assert joined.recent_buyers.tolist() == [3, 4, 5, 0, 0]
    assert joined.count.tolist() == [30, 40, 50, 0, 0]
    assert rows.tolist() == [3, 1, 4]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"item_id": ["a", "b", "a"]}, "item 'a' more than once"),
        ({"item_id": ["a", "", "b"]}, "item_id is '', expected text"),
        ({"item_id": ["a", None, "b"]}, "item_id is '', expected text"),
        ({"item_id": ["a", "b\tc", "d"]}, r"item_id is 'b\\tc', expected text"),
        ({"category_id": ["a", "b\n", "d"]}, r"category_id is 'b\\n', expected text"),
    ],
)
def test_items_that_no_index_can_hold_are_named(columns, message, tmp_path):
    texts = {name: ["x", "y", "z"] for name in ("item_id", "category_id", "title")}
    with pytest.raises(IndexItemsError, match=message):
        read_items(write_items(tmp_path / "new.parquet", **(texts | columns)))


def test_files_that_are_no_items_are_named(tmp_path):
    path = write_items(tmp_path / "new.parquet", item_id=["a"], title=["b"])
    with pytest.raises(IndexItemsError, match="text columns item_id, category_id, title"):
        read_items(path)
    (tmp_path / "text").write_text("item_id")
    with pytest.raises(IndexItemsError, match="text columns item_id, category_id, title"):
        read_items(tmp_path / "text")
    with pytest.raises(IndexItemsError, match="text columns item_id, category_id, title"):
        read_items(tmp_path / "nothing")


def test_what_was_measured_is_kept_with_the_index(models, shop_dataset, catalogue):
    result = build_index(dataset=shop_dataset, models=models, min_recall=0.5)
    report = IndexReport.load(result.folder)
    assert report == result.report
    assert (report.build, report.items, report.new_items) == ("scann", len(catalogue), 0)
    assert (report.k, report.queries, report.min_recall) == (100, len(catalogue), 0.5)
    assert 0.5 <= report.recall <= 1
    assert report.leaves == report.leaves_to_search == 1, "a small catalogue needs no tree"
    assert report.seconds > 0
    exact = build_index(dataset=shop_dataset, models=models, build="exact").report
    assert exact.recall is exact.leaves is exact.min_recall is None


def test_an_index_below_its_recall_is_not_written(models, shop_dataset, capsys):
    arguments = ["--dataset", str(shop_dataset), "--models", str(models), "--build", "scann"]
    poor = ["--reordered", "100"]  # the order of the codes alone
    assert main([*arguments, *poor]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "1 of 1 leaves, 100 reordered" in error
    assert "recall@100 0." in error
    assert "expected at least 0.99" in error
    assert "--reordered" in error
    assert versions(models, "retrieval") == []
    assert not (models / "retrieval").exists()

    assert main([*arguments, *poor, "--min-recall", "0.01"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["reordered"] == 100
    assert 0.01 <= printed["recall"] < 0.99
    assert IndexReport.load(printed["folder"]).recall == printed["recall"]
    with pytest.raises(RecallError, match="recall@100"):
        build_index(dataset=shop_dataset, models=models, settings={"reordered": 100})
    assert versions(models, "retrieval") == [1], "the version before stays the newest"


def test_impossible_settings_are_named(models, shop_dataset, capsys):
    arguments = ["--dataset", str(shop_dataset), "--models", str(models), "--build", "scann"]
    assert main([*arguments, "--leaves", "4", "--leaves-to-search", "5"]) == 2
    assert "leaves_to_search is 5, expected between 1 and the 4" in capsys.readouterr().err


def test_vectors_of_another_size_are_named(models, shop_dataset, catalogue, tmp_path):
    path = write_vectors(
        tmp_path / "v.parquet", catalogue.item_id, np.ones([len(catalogue), 5], np.float32)
    )
    with pytest.raises(ValueError, match=r"expected finite numbers, 32 an item"):
        build_index(dataset=shop_dataset, models=models, build="exact", vectors=path)
    with pytest.raises(ValueError, match="columns item_id and item_embedding"):
        build_index(dataset=shop_dataset, models=models, build="exact", vectors=tmp_path / "none")


def test_ids_are_found_by_their_text_alone():
    ids = [f"item {i}" for i in range(500)] + ["", "ümläut", "x" * 300]
    table = SortedIds(ids)
    asked = tf.constant([["item 7", "item 499", "ümläut"], ["x" * 300, "item 500", "Item 7"]])
    assert table(asked).numpy().tolist() == [[7, 499, 501], [502, -1, -1]]
    assert table(tf.constant(ids)).numpy().tolist() == list(range(503))
    assert table(tf.zeros([2, 0], tf.string)).shape == (2, 0)
    with pytest.raises(ValueError, match="'b' and 'b' have the same fingerprint"):
        SortedIds(["a", "b", "c", "b"])
