import numpy as np
import pytest
import tensorflow as tf

from beam_pipelines.examples import Catalogue, RecordWriter, UserEvents, encode_examples, varints

CATALOGUE = Catalogue(
    item_key=np.array([-(2**63), 2**63 - 1, -1]),
    item_index=np.array([2, 1, 200_001]),
    category_index=np.array([1, 2, 300]),
    token_starts=np.array([0, 2, 2, 5]),  # the second item has no title
    tokens=np.array([5, 1, 9, 530_008, 127]),
)
USERS = UserEvents(
    user_ids=["u1", "客户", "x" * 300],
    starts=np.array([0, 3, 4, 6]),
    timestamp=np.array([0, 127, 128, 1_323_432_000, 4_102_444_799, 16_384]),
    item=np.array([0, 1, 2, 1, 2, 2]),
    action_index=np.array([1, 1, 2, 1, 3, 1]),
)


def expected(user: int) -> tf.train.Example:
    """The record of a user, filled value by value."""
    rows = range(USERS.starts[user], USERS.starts[user + 1])
    items = [USERS.item[row] for row in rows]
    titles = [
        CATALOGUE.tokens[CATALOGUE.token_starts[i] : CATALOGUE.token_starts[i + 1]] for i in items
    ]
    example = tf.train.Example()
    feature = example.features.feature
    feature["user_id"].bytes_list.value.append(USERS.user_ids[user].encode())
    for name, values in {
        "timestamp": [USERS.timestamp[row] for row in rows],
        "item_key": CATALOGUE.item_key[items],
        "item_index": CATALOGUE.item_index[items],
        "category_index": CATALOGUE.category_index[items],
        "action_index": [USERS.action_index[row] for row in rows],
        "title_lengths": [len(title) for title in titles],
        "title_tokens": np.concatenate(titles),
    }.items():
        feature[name].int64_list.value.extend(int(value) for value in values)
    return example


def test_records_are_what_tensorflow_writes():
    records = list(encode_examples(USERS, CATALOGUE))
    assert len(records) == 3
    for user, record in enumerate(records):
        assert tf.train.Example.FromString(record) == expected(user)
        assert record == expected(user).SerializeToString(deterministic=True)


def test_varints_of_every_length_parse():
    edges = [value for bits in range(0, 63, 7) for value in (2**bits - 1, 2**bits)]
    values = np.array([*edges, -1, -(2**63), 2**63 - 1], np.int64)
    data, ends = varints(values)
    for i, value in enumerate(values.tolist()):
        number = 0
        for shift, byte in enumerate(data[ends[i] : ends[i + 1]]):
            number |= (byte & 127) << (7 * shift)
        assert number == value % 2**64
        assert data[ends[i + 1] - 1] < 128
    assert varints(np.zeros(0, np.int64))[0] == b""


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_tensorflow_reads_the_files(tmp_path, compression):
    records = [b"", b"a", bytes(range(256)) * 50]
    path = tmp_path / "new" / "part.tfrecord"
    with RecordWriter(path, compression=compression) as writer:
        for record in records:
            writer.write(record)
        assert not path.exists()
    assert writer.records == 3
    read = tf.data.TFRecordDataset(str(path), compression_type=compression)
    assert list(read.as_numpy_iterator()) == records


def test_equal_records_give_equal_gzip_files(tmp_path):
    for name in ("a", "b"):
        with RecordWriter(tmp_path / name, compression="GZIP") as writer:
            writer.write(b"record")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_writer_leaves_nothing(tmp_path):
    with pytest.raises(TypeError), RecordWriter(tmp_path / "a", compression="") as writer:
        writer.write(None)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
