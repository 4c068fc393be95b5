"""Formats that others rely on: a change of one of these files breaks their clients or data."""

import json
import pathlib

import pytest
import tensorflow as tf

from guim_tf import schema as names
from guim_tf.artifacts import latest
from guim_tf.data import parse_records

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"


def described(specs: dict) -> dict[str, str]:
    def shape(spec) -> str:
        return ",".join("?" if size is None else str(size) for size in spec.shape)

    return {name: f"{spec.dtype.name}[{shape(spec)}]" for name, spec in specs.items()}


@pytest.mark.parametrize("name", ["user_encoder", "item_encoder", "retrieval", "retrieval_exact"])
def test_signatures_are_the_published_ones(shop_models, name):
    expected = json.loads((GOLDEN / "signatures.json").read_text())[name]
    signatures = tf.saved_model.load(str(latest(shop_models, name))).signatures
    got = {
        signature: {
            "inputs": described(function.structured_input_signature[1]),
            "outputs": described(function.structured_outputs),
        }
        for signature, function in signatures.items()
    }
    for signature in expected:
        assert got[signature]["inputs"] == expected[signature]["inputs"], signature
        assert set(got[signature]["outputs"]) == set(expected[signature]["outputs"]), signature
        for output, text in expected[signature]["outputs"].items():
            answer = got[signature]["outputs"][output]
            assert answer.split("[")[0] == text.split("[")[0], (signature, output)
            assert answer == text or name.startswith("retrieval"), (signature, output)
    assert set(got) == set(expected)


def test_a_record_of_the_first_version_is_still_read(tiny_schema):
    """Events at days 1.5, 2 and 2 of items 2, 3, 4; titles of two, no and one word."""
    [record] = tf.data.TFRecordDataset(str(GOLDEN / "record.tfrecord"))
    parsed = {k: v.to_list() for k, v in parse_records(record[None], tiny_schema).items()}
    assert parsed == {
        names.TIMESTAMP: [[129_600, 172_800, 172_800]],
        names.ITEM_KEY: [[100, 101, 102]],
        names.ITEM_INDEX: [[2, 3, 4]],
        names.CATEGORY_INDEX: [[3, 3, 3]],
        names.ACTION_INDEX: [[1, 1, 1]],
        names.TITLE_TOKENS: [[[3, 1], [], [7]]],
    }
