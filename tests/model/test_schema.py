"""The contract that artifacts carry, and what happens when two of them differ."""

import dataclasses
import json

import pytest

from guim_tf.schema import (
    Schema,
    SchemaError,
    Vocabulary,
    fingerprint64,
    read_vocabulary,
    write_vocabulary,
)


def test_rows_of_the_tables(tiny_schema):
    # 2 special rows + 30 items; 2 + 5 categories; padding + 20 words + 4 hashed
    assert (tiny_schema.item_rows, tiny_schema.category_rows, tiny_schema.word_rows) == (32, 7, 25)
    assert tiny_schema.action_rows == 2


def test_a_schema_survives_its_file(tiny_schema, tmp_path):
    tiny_schema.save(tmp_path)
    assert Schema.load(tmp_path) == tiny_schema


def test_a_mismatch_is_refused_with_what_differs(tiny_schema):
    other = dataclasses.replace(tiny_schema, items=Vocabulary(31, "j"), max_title_tokens=9)
    with pytest.raises(SchemaError) as error:
        tiny_schema.require_match(other, mine="The model M", theirs="D")
    message = str(error.value)
    assert "The model M and D" in message
    assert "items" in message
    assert "31" in message
    assert "max_title_tokens: 6 != 9" in message
    assert "categories" not in message


def test_a_newer_log_with_the_same_vocabularies_fits(tiny_schema):
    later = dataclasses.replace(tiny_schema, last_timestamp=10**9, as_of=10**9, compression="GZIP")
    tiny_schema.require_match(later, mine="a", theirs="b")
    assert later.fingerprint == tiny_schema.fingerprint


def test_an_edited_schema_is_refused(tiny_schema, tmp_path):
    fields = json.loads(tiny_schema.to_json())
    fields["word_hash_rows"] = 5
    (tmp_path / "schema.json").write_text(json.dumps(fields))
    with pytest.raises(SchemaError, match="was edited"):
        Schema.load(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"fingerprint": "x", "version": 1}', "\x00"])
def test_what_is_no_schema_is_refused(text, tmp_path):
    (tmp_path / "schema.json").write_text(text)
    with pytest.raises(SchemaError, match=r"schema\.json"):
        Schema.load(tmp_path)


def test_another_version_is_refused_with_the_remedy(tiny_schema, tmp_path):
    fields = json.loads(tiny_schema.to_json()) | {"version": 99}
    (tmp_path / "schema.json").write_text(json.dumps(fields))
    with pytest.raises(SchemaError, match="version 99.*guim build-dataset"):
        Schema.load(tmp_path)


def test_a_missing_schema_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(SchemaError, match="guim build-dataset"):
        Schema.load(tmp_path)


def test_fingerprints_are_stable_and_distinct():
    # blake2b of 8 bytes, little-endian, signed; written down so that old data sets stay readable
    assert fingerprint64("85123A") == 3141760557156334012
    assert len({fingerprint64(str(i)) for i in range(100_000)}) == 100_000


def test_a_vocabulary_survives_its_file(tmp_path):
    file = tmp_path / "deep" / "words.tsv"
    entry = write_vocabulary(file, ["灯", "b c"], [5, 2])
    assert read_vocabulary(file) == (["灯", "b c"], [5, 2])
    assert entry.size == 2
    assert entry != write_vocabulary(file, ["b c", "灯"], [5, 2]), "order is part of it"
