import dataclasses
import pathlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from beam_pipelines import embed, inference
from beam_pipelines.build_dataset import build_dataset
from beam_pipelines.embed import embed_items, embed_users, find_model, main_items, main_users
from guim_tf import schema

T0 = 1_700_006_400


class TinyItems(tf.Module):
    """Vectors that tell which inputs they were made from: lengths of id, category and title."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name=n) for n in ("item_id", "category_id", "title")
        ]
    )
    def encode_items(self, item_id, category_id, title):
        parts = [tf.strings.length(each) for each in (item_id, category_id, title)]
        return {"item_embedding": tf.cast(tf.stack(parts, axis=1), tf.float32)}


class TinyUsers(tf.Module):
    """`[B, 2, 3]`: events before the cut-off, all events, and the place 0..5 in the vector."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, name="examples"),
            tf.TensorSpec([None], tf.int64, name="as_of"),
        ]
    )
    def encode_user_examples(self, examples, as_of):
        times = tf.io.parse_example(examples, {"timestamp": tf.io.RaggedFeature(tf.int64)})
        times = times["timestamp"]
        before = tf.reduce_sum(tf.cast(times < as_of[:, None], tf.float32), axis=1)
        every = tf.cast(times.row_lengths(), tf.float32)
        place = tf.reshape(tf.range(6, dtype=tf.float32), [1, 2, 3])
        return {"user_embedding": place + 100 * before[:, None, None] + 10 * every[:, None, None]}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("embed")
    rows = [f"u{user},i{i},{T0 + i},T{'x' * i}" for user in range(7) for i in range(user + 1)]
    (folder / "events.csv").write_text("\n".join(["user,item,time,title", *rows]) + "\n")
    (folder / "m.json").write_text(
        '{"events": {"files": ["events.csv"], "user_id": "user", "item_id": "item", '
        '"timestamp": "time", "title": "title"}}'
    )
    return build_dataset(
        mapping_file=folder / "m.json",
        output=folder / "ds",
        as_of=T0 + 3,
        validation_share=0.4,
        compression="GZIP",
    ).output


def save(module: tf.Module, folder: pathlib.Path, signature: str, dataset: pathlib.Path) -> None:
    function = getattr(module, signature)
    tf.saved_model.save(module, str(folder), signatures={signature: function})
    (folder / "assets.extra").mkdir()
    schema.Schema.load(dataset).save(folder / "assets.extra")


@pytest.fixture(scope="module")
def item_model(dataset) -> pathlib.Path:
    folder = dataset.parent / "models" / "items"
    save(TinyItems(), folder / "3", "encode_items", dataset)
    return folder


@pytest.fixture(scope="module")
def user_model(dataset) -> pathlib.Path:
    folder = dataset.parent / "models" / "users"
    save(TinyUsers(), folder / "1", "encode_user_examples", dataset)
    return folder


def vectors(path: pathlib.Path, column: str) -> np.ndarray:
    return np.array(pq.read_table(path)[column].to_pylist(), np.float32)


def test_items_come_in_catalogue_order(dataset, item_model, tmp_path):
    output = tmp_path / "v" / "items.parquet"
    result = embed_items(model=item_model, dataset=dataset, output=output, batch_size=3)
    assert (result.rows, result.interests, result.dimension) == (7, 1, 3)
    catalogue = pq.read_table(dataset / "items.parquet").to_pydict()
    table = pq.read_table(output)
    assert table["item_id"].to_pylist() == catalogue["item_id"]
    expected = [[2, 0, len(title)] for title in catalogue["title"]]
    assert vectors(output, "item_embedding").tolist() == expected
    assert str(table.schema.field("item_embedding").type) == "fixed_size_list<element: float>[3]"
    assert sorted(path.name for path in output.parent.iterdir()) == ["items.parquet"]


@pytest.mark.parametrize("as_of", [None, T0 + 5])
def test_users_of_both_splits_up_to_the_cut_off(dataset, user_model, tmp_path, as_of):
    """User u has u + 1 events at T0, T0 + 1, ...; the schema's cut-off is T0 + 3."""
    output = tmp_path / "users.parquet"
    result = embed_users(
        model=user_model, dataset=dataset, output=output, as_of=as_of, batch_size=2
    )
    assert (result.rows, result.interests, result.dimension) == (7, 2, 3)
    table = pq.read_table(output)
    found = dict(zip(table["user_id"].to_pylist(), vectors(output, "user_embedding"), strict=True))
    for user in range(7):
        events, seen = user + 1, min(user + 1, 3 if as_of is None else 5)
        expected = np.arange(6) + 100 * seen + 10 * events
        np.testing.assert_array_equal(found[f"u{user}"], expected)
    assert table.schema.metadata[b"interests"] == b"2"
    assert table.schema.metadata[b"dimension"] == b"3"


def test_the_highest_version_is_used(item_model, tmp_path):
    assert find_model(item_model) == item_model / "3"
    assert find_model(item_model / "3") == item_model / "3"
    for version in ("2", "10", "temp"):
        (tmp_path / version).mkdir()
    assert find_model(tmp_path).name == "10"
    with pytest.raises(ValueError, match="neither a SavedModel nor"):
        find_model(tmp_path / "temp")


def test_a_model_of_another_data_set_is_refused(dataset, item_model, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    text = (dataset / "schema.json").read_text()
    made = schema.Schema.from_json(text)
    dataclasses.replace(made, max_title_tokens=3).save(other)
    (other / "items.parquet").write_bytes((dataset / "items.parquet").read_bytes())
    with pytest.raises(schema.SchemaError, match="max_title_tokens: 16 != 3"):
        embed_items(model=item_model, dataset=other, output=tmp_path / "v.parquet")
    assert not (tmp_path / "v.parquet").exists()


def test_a_wrong_signature_and_a_cut_off_shard_leave_nothing(
    dataset, item_model, user_model, tmp_path, capsys
):
    arguments = ["--dataset", str(dataset), "--output", str(tmp_path / "v.parquet")]
    assert main_users(["--model", str(item_model), *arguments]) == 2
    assert "has no signature 'encode_user_examples'; it has encode_items" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

    shutil.copytree(dataset, tmp_path / "cut")
    shard = max((tmp_path / "cut").glob("train/*"), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-12])
    arguments[1] = str(tmp_path / "cut")
    assert main_users(["--model", str(user_model), *arguments]) == 2
    assert f"{shard} is not a whole file of records" in capsys.readouterr().err
    assert not (tmp_path / "v.parquet").exists()


def test_the_commands_write_what_the_functions_do(
    dataset, item_model, user_model, tmp_path, capsys
):
    for main, model, column in (
        (main_items, item_model, "item_embedding"),
        (main_users, user_model, "user_embedding"),
    ):
        output = tmp_path / f"{column}.parquet"
        arguments = ["--model", str(model), "--dataset", str(dataset), "--output", str(output)]
        assert main([*arguments, "--batch-size", "4"]) == 0
        assert "7 rows" in capsys.readouterr().out
        assert len(vectors(output, column)) == 7


# ------------------------------------------------------------------------------- chunks


def chunk(lengths: list[int]) -> inference.Chunk:
    ids = [f"r{row}" for row in range(len(lengths))]
    values = np.array(lengths, np.float64)
    return inference.Chunk(0, 0, ids, np.array(lengths), {"x": values, "row": np.arange(len(ids))})


def test_rows_of_like_length_are_encoded_together_and_come_back_in_order():
    batches = []

    def encode(inputs):
        batches.append(inputs["x"].tolist())
        return np.stack([inputs["x"], inputs["row"]], axis=1)

    vectors = inference.encode_by_length(chunk([9, 1, 8, 1, 9]), encode, batch_size=2)
    assert batches == [[1, 1], [8, 9], [9]]
    assert vectors.tolist() == [[9, 0], [1, 1], [8, 2], [1, 3], [9, 4]]
    assert vectors.dtype == np.float32


@pytest.fixture
def encoded(monkeypatch):
    """Names of the chunks that are encoded; the third one fails while `fail` is set."""
    names, real = [], inference.encode_by_length

    def encode(chunk, *arguments, **options):
        if len(names) == 2 and names.fail:
            raise RuntimeError("out of memory")
        names.append(chunk.name)
        return real(chunk, *arguments, **options)

    class Names(list):
        fail = True

    names = Names()
    monkeypatch.setattr(inference, "encode_by_length", encode)
    monkeypatch.setattr(embed, "CHUNK_BATCHES", 1)
    return names


def test_an_interrupted_job_goes_on_with_the_chunks_that_are_missing(
    dataset, item_model, tmp_path, encoded
):
    job = {"model": item_model, "dataset": dataset, "output": tmp_path / "items.parquet"}
    with pytest.raises(Exception, match="out of memory"):
        embed_items(**job, batch_size=2)
    assert [path.name for path in tmp_path.glob("*")] == [".items.parquet.work"]
    encoded.fail = False
    assert embed_items(**job, batch_size=2).rows == 7
    assert encoded == [f"part-00000-0000{number}.parquet" for number in range(4)]
    assert [path.name for path in tmp_path.iterdir()] == ["items.parquet"]
    catalogue = pq.read_table(dataset / "items.parquet").to_pydict()
    assert pq.read_table(tmp_path / "items.parquet")["item_id"].to_pylist() == catalogue["item_id"]


def test_chunks_of_another_job_are_not_used(dataset, item_model, tmp_path, encoded):
    job = {"model": item_model, "dataset": dataset, "output": tmp_path / "items.parquet"}
    with pytest.raises(Exception, match="out of memory"):
        embed_items(**job, batch_size=2)
    encoded.fail = False
    assert embed_items(**job, batch_size=3).rows == 7  # another batch size: other chunks
    assert len(encoded) == 2 + 3


def test_a_cluster_makes_the_same_vectors(dataset, item_model, tmp_path):
    pytest.importorskip("distributed")
    job = {"model": item_model, "dataset": dataset, "batch_size": 1}
    one = embed_items(**job, output=tmp_path / "one.parquet")
    flags = ["--runner=DaskRunner"]
    other = embed_items(**job, output=tmp_path / "other.parquet", pipeline_options=flags)
    assert pq.read_table(one.output).equals(pq.read_table(other.output))


def test_rows_that_a_runner_loses_fail_the_job(dataset, item_model, tmp_path, monkeypatch):
    write = embed._write_chunk
    monkeypatch.setattr(embed, "_write_chunk", lambda e, job: e.chunk.number and write(e, job))
    monkeypatch.setattr(embed, "CHUNK_BATCHES", 1)
    job = {"model": item_model, "dataset": dataset, "output": tmp_path / "items.parquet"}
    with pytest.raises(RuntimeError, match="4 vectors were written for 7 rows"):
        embed_items(**job, batch_size=3)
    assert not (tmp_path / "items.parquet").exists()
