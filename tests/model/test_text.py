"""The one tokeniser: its rules, and the same tokens in every place that runs it."""

import pytest
import tensorflow as tf

from guim_tf.schema import write_vocabulary
from guim_tf.text import WordTable, row_lists, token_lists, tokenize

TITLES = [
    "WHITE Lantern, 2-pack!",
    "红色の灯 ABC",
    "ﬁne ｆｕｌｌ",
    "ทดสอบ ดี",
    "  ",
    "",
    "çà É",
    "don't",
]


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("WHITE Lantern, 2-pack!", ["white", "lantern", "2", "pack"]),
        ("红色の灯 ABC", ["红", "色", "の", "灯", "abc"]),
        ("カップ", ["カ", "ッ", "プ"]),
        ("ﬁne ｆｕｌｌ", ["fine", "full"]),  # NFKC: ligature, full width
        ("ทดสอบ ดี", ["ทดสอบ", "ดี"]),  # combining marks stay with their letters
        ("ÉTÉ", ["été"]),
        ("E\u0301t\u00e9", ["été"]),  # composed and decomposed forms are one word
        ("", []),
        ("--- !!", []),
    ],
)
def test_words_of_a_title(title, words):
    assert token_lists([title]) == [words]


@pytest.fixture
def table(tmp_path) -> WordTable:
    file = tmp_path / "words.tsv"
    write_vocabulary(file, ["white", "lantern", "灯"], [9, 5, 2])
    return WordTable(str(file), size=3, hash_rows=4, max_tokens=3)


def test_rows_are_vocabulary_then_hashed(table):
    [[white, lantern, unknown]] = row_lists(table, ["Lantern WHITE zzz"])
    assert (white, lantern) == (2, 1)
    assert 4 <= unknown < 8


def test_an_unknown_word_always_has_the_same_row(table):
    first, second = row_lists(table, ["qqq zzz", "zzz"])
    assert first[1] == second[0]


def test_words_after_the_limit_are_dropped(table):
    assert [len(rows) for rows in row_lists(table, ["a b c d e", "a", ""])] == [3, 1, 0]


def test_an_empty_vocabulary_hashes_every_word(tmp_path):
    file = tmp_path / "words.tsv"
    write_vocabulary(file, [], [])
    table = WordTable(str(file), size=0, hash_rows=4, max_tokens=9)
    assert all(1 <= row <= 4 for row in row_lists(table, ["a b c d e f"])[0])


def test_eager_graph_data_and_saved_model_agree(table, tmp_path):
    titles = tf.constant(TITLES)
    eager = table(titles).to_list()
    in_data = next(iter(tf.data.Dataset.from_tensors(titles).map(table))).to_list()
    module = tf.Module()
    module.table = table
    module.words = tf.function(
        lambda x: table(x).to_tensor(), input_signature=[tf.TensorSpec([None], tf.string)]
    )
    tf.saved_model.save(module, str(tmp_path / "model"))
    saved = tf.saved_model.load(str(tmp_path / "model")).words(titles)
    assert in_data == eager
    assert tf.RaggedTensor.from_tensor(saved, padding=0).to_list() == eager
    assert row_lists(table, TITLES, batch_size=3) == eager
    assert tf.function(tokenize)(titles).to_list() == tokenize(titles).to_list()
