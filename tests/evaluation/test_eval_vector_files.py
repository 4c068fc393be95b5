"""Vectors from elsewhere: what is read, what is refused, and who has none."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from guim_tf.evaluation import evaluate
from guim_tf.evaluation.command import main
from guim_tf.evaluation.ragged import ragged
from guim_tf.evaluation.vector_files import VectorFileError, read_vectors
from guim_tf.evaluation.vectors import rank_vectors, read

A, B, D, C, E = range(5)


def write_npy(path, ids, vectors):
    np.save(path, np.asarray(vectors, np.float32))
    path.with_suffix(".ids.txt").write_text("".join(f"{x}\n" for x in ids), encoding="utf-8")
    return path


def write_parquet(path, kind, ids, vectors, *, interests=None, value=np.float32):
    """As `guim embed-users` and `embed-items` write it."""
    vectors = np.asarray(vectors, value)
    flat = pa.array(vectors.reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, math.prod(vectors.shape[1:]))
    table = pa.table({f"{kind}_id": pa.array(ids, pa.string()), f"{kind}_embedding": column})
    if interests is not None:
        table = table.replace_schema_metadata({"interests": str(interests), "dimension": "0"})
    pq.write_table(table, path)
    return path


def test_parquet_and_npy_are_the_same(tmp_path):
    ids, sets = ["ü 1", "b"], np.arange(12.0).reshape(2, 3, 2)
    parquet = read_vectors(
        write_parquet(tmp_path / "u.parquet", "user", ids, sets, interests=3), kind="user"
    )
    npy = read_vectors(write_npy(tmp_path / "u.npy", ids, sets), kind="user")
    for file in (parquet, npy):
        assert file.ids.tolist() == ids
        np.testing.assert_array_equal(file.vectors, sets)


def test_one_vector_each_is_a_set_of_one(tmp_path):
    flat = read_vectors(write_npy(tmp_path / "u.npy", "ab", np.eye(2)), kind="user")
    assert flat.vectors.shape == (2, 1, 2)
    bare = read_vectors(write_parquet(tmp_path / "i", "item", "ab", np.eye(2)), kind="item")
    assert bare.vectors.shape == (2, 1, 2)


def test_vectors_are_found_by_id_in_any_order(tmp_path):
    file = read_vectors(write_npy(tmp_path / "u.npy", "abc", [[1], [2], [3]]), kind="user")
    found, known = file.select(np.array(["c", "x", "a"], object))
    assert found[:, 0, 0].tolist() == [3, 0, 1]
    assert known.tolist() == [True, False, True]


def test_the_files_of_embed_are_the_models_vectors(shop, shop_models, shop_protocol, tmp_path):
    from beam_pipelines.embed import embed_items, embed_users
    from guim_tf.evaluation.vectors import encode

    embed_users(model=shop_models / "user_encoder", dataset=shop, output=tmp_path / "u.parquet")
    embed_items(model=shop_models / "item_encoder", dataset=shop, output=tmp_path / "i.parquet")
    of_files = read(
        tmp_path / "u.parquet",
        tmp_path / "i.parquet",
        user_ids=shop_protocol.user_ids,
        catalogue=shop_protocol.catalogue,
    )
    of_models = encode(shop_models, shop_protocol, progress=False)
    np.testing.assert_array_equal(of_files.user_embedding, of_models.user_embedding)
    np.testing.assert_array_equal(of_files.item_embedding, of_models.item_embedding)
    assert of_files.has_user is None
    assert of_files.has_item is None


def shop_vectors(tmp_path, protocol, **options):
    """Anna likes A then D, finn C; ben has no vector, and neither has item B."""
    users = write_npy(
        tmp_path / "u.npy", ["finn", "anna", "stranger"], [[0, 0, 3], [9, 1, 0], [1] * 3]
    )
    items = write_npy(tmp_path / "i.npy", "DACE", [[0, 1, 0], [0.1, 0, 0], [0, 0, 1], [0] * 3])
    return read(users, items, user_ids=protocol.user_ids, catalogue=protocol.catalogue, **options)


def test_who_has_no_vector_finds_nothing_and_is_not_found(shop_protocol, tmp_path):
    vectors = shop_vectors(tmp_path, shop_protocol)
    rows, interests = rank_vectors(vectors, k=5)
    assert rows.tolist() == [[A, D, C, E, -1], [-1] * 5, [C, A, D, E, -1]]
    assert interests.tolist() == [[0, 0, 0, 0, -1], [-1] * 5, [0, 0, 0, 0, -1]]


def test_dot_products_know_lengths(shop_protocol, tmp_path):
    # Anna: A 0.9, D 1.
    rows, _ = rank_vectors(shop_vectors(tmp_path, shop_protocol, score="dot"), k=2)
    assert rows[0].tolist() == [D, A]


def test_excluded_rows_are_those_of_the_catalogue(shop_protocol, tmp_path):
    vectors = shop_vectors(tmp_path, shop_protocol)
    rows, _ = rank_vectors(vectors, k=3, exclude=ragged([[A, B, C], [A], [D]]))
    assert rows.tolist() == [[D, E, -1], [-1] * 3, [C, A, E]]


def test_a_report_counts_who_is_missing(shop, shop_protocol, tmp_path):
    shop_vectors(tmp_path, shop_protocol)
    report = evaluate(
        dataset=shop,
        models=None,
        user_vectors=tmp_path / "u.npy",
        item_vectors=tmp_path / "i.npy",
        output=tmp_path / "report",
    )
    name = "given vectors, C = 1"
    assert report.document["notes"] == [
        f"{name}: 1 of 3 users have no vector and get no recommendations and no hits.",
        f"{name}: 1 of 5 items have no vector and are never found.",
    ]
    # Anna bought A, D and C, finn A: all found. Ben's mean is 0, and he is in it.
    assert report.document["methods"][0]["tasks"]["CMP-L"]["recall@100"]["users"] == 3
    assert report.mean(name, "CMP-L", "recall@100") == pytest.approx(2 / 3)
    # Anna's best for A and D and C is her one vector; B was no candidate.
    assert report.document["methods"][0]["interests"]["purchased"] == [1]
    assert report.document["models"] == [str(tmp_path / "u.npy"), str(tmp_path / "i.npy")]
    assert "1 of 3 users have no vector" in report.html_path.read_text(encoding="utf-8")


def test_files_that_are_refused(tmp_path):
    eye = np.eye(2)
    (tmp_path / "text.parquet").write_text("no")
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([{"a": 1}], object), allow_pickle=True)
    np.save(tmp_path / "alone.npy", eye)
    np.save(tmp_path / "whole.npy", np.eye(2, dtype=int))
    lists = pa.table({"user_id": ["a"], "user_embedding": pa.array([[1.0, 2.0]])})
    pq.write_table(lists, tmp_path / "lists.parquet")
    for path, message in (
        (tmp_path / "none.npy", "does not exist"),
        (tmp_path / "text.parquet", "is not a file of vectors"),
        (objects, "objects.npy is not an array of numbers: .*[Pp]ython objects"),
        (tmp_path / "alone.npy", "alone.ids.txt can't be read"),
        (tmp_path / "whole.npy", r"an array int64 of shape \(2, 2\), expected floats"),
        (tmp_path / "lists.parquet", "'user_embedding' is list<"),
        (write_npy(tmp_path / "a.npy", "abc", eye), "has 3 ids and a.npy 2 rows"),
        (write_npy(tmp_path / "b.npy", "aa", eye), "names user 'a' twice"),
        (write_parquet(tmp_path / "c", "item", "ab", eye), "'user_id'"),
        (write_parquet(tmp_path / "d", "user", "ab", eye, interests=3), "state 3 interests"),
        (write_npy(tmp_path / "e.npy", "", np.zeros((0, 8))), "e.npy holds no vectors"),
        (write_npy(tmp_path / "f.npy", "ab", np.zeros((2, 0))), "f.npy holds no vectors"),
        (write_npy(tmp_path / "g.npy", "ab", np.zeros((2, 0, 8))), "g.npy holds no vectors"),
        (write_parquet(tmp_path / "h", "user", "", np.zeros((0, 2))), "h.* holds no vectors"),
    ):
        with pytest.raises(VectorFileError, match=message):
            read_vectors(path, kind="user")


def test_zeros_are_no_vector(tmp_path):
    """All cosines with them are one, and of equals those come first that sell most."""
    file = read_vectors(
        write_npy(tmp_path / "u.npy", "abc", [[0, 1], [0, 0], [0, -1]]), kind="user"
    )
    _, given = file.select(np.array(["a", "b", "c", "d"], object))
    assert given.tolist() == [True, False, True, False]
    with pytest.raises(VectorFileError, match="vectors of all users are zeros"):
        file.select(np.array(["b"], object))


def test_files_that_do_not_fit(shop_protocol, tmp_path):
    def reading(users, items):
        return read(
            users, items, user_ids=shop_protocol.user_ids, catalogue=shop_protocol.catalogue
        )

    users = write_npy(tmp_path / "u.npy", ["anna"], np.eye(1, 2))
    items = write_npy(tmp_path / "i.npy", "A", np.eye(1, 2))
    for pair, message in (
        ((users, write_npy(tmp_path / "3.npy", "A", np.eye(1, 3))), "size 2 and .* of size 3"),
        ((users, write_npy(tmp_path / "s.npy", "A", np.ones((1, 2, 2)))), "2 vectors for each"),
        ((write_npy(tmp_path / "x.npy", "x", np.eye(1, 2)), items), "none of the 3 users"),
        (
            (write_npy(tmp_path / "n.npy", ["anna"], [[np.nan, 1]]), items),
            "vector of user 'anna' holds NaN",
        ),
    ):
        with pytest.raises(VectorFileError, match=message):
            reading(*pair)


def test_one_item_to_find_is_compared_once_by_its_hit_rate(shop_writer, tmp_path, capsys):
    log = {"x": [(-2, "A"), (0.1, "B")], "y": [(-3, "A"), (-1, "B"), (0.2, "C")]}
    write_npy(tmp_path / "u.npy", ["x", "y"], np.eye(2))
    write_npy(tmp_path / "i.npy", ["B", "A"], np.eye(2))
    arguments = ["--dataset", str(shop_writer(tmp_path / "dataset", log))]
    arguments += ["--user-vectors", str(tmp_path / "u.npy")]
    arguments += ["--item-vectors", str(tmp_path / "i.npy")]
    assert main([*arguments, "--output", str(tmp_path / "report")]) == 0
    (line,) = json.loads((tmp_path / "report" / "report.json").read_text())["comparisons"]
    assert (line["task"], line["metric"]) == ("CMP-N", "recall@10")
    # C has no vector and is never found; popularity finds all three items.
    assert line["difference"]["mean"] == pytest.approx(-1 / 2)
    assert "CMP-N HR@10: −.5000" in " ".join(capsys.readouterr().out.split())
