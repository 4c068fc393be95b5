"""The one tokeniser and the one word table, run in eager mode, in pipelines and in SavedModels.

NFKC and lower case, Han, Hiragana and Katakana characters one by one, everything that is neither
letter, combining mark nor number is a space, then split. TensorFlow and tensorflow-text load on
import: pipelines import this module only where titles are tokenised.
"""

from collections.abc import Sequence

import tensorflow as tf
import tensorflow_text as tf_text

TOKENIZER = "nfkc-lower-cjk-1"  # changes whenever the tokens of any text change

_CJK = r"([\p{Han}\p{Hiragana}\p{Katakana}])"
_NOT_WORD = r"[^\p{L}\p{M}\p{N}]+"


def tokenize(titles: tf.Tensor) -> tf.RaggedTensor:
    """Words of each title.

    Args:
      titles: `[n]` string, UTF-8.

    Returns:
      `[n, (words)]` ragged string.
    """
    text = tf.strings.lower(tf_text.normalize_utf8(titles, "NFKC"), encoding="utf-8")
    text = tf.strings.regex_replace(text, _CJK, r" \1 ")
    text = tf.strings.regex_replace(text, _NOT_WORD, " ")
    return tf.strings.split(text)


class WordTable(tf.Module):
    """Rows of the word table: 0 is padding, then the vocabulary, then hashed rows.

    Args:
      vocabulary_file: a `token<TAB>count` file; becomes an asset of a SavedModel.
      size: number of its lines.
      hash_rows: how many rows unknown words share.
      max_tokens: words after these many are dropped.
    """

    def __init__(self, vocabulary_file: str, *, size: int, hash_rows: int, max_tokens: int) -> None:
        super().__init__()
        self._max_tokens = max_tokens
        self._hash_rows = hash_rows
        self._size = size
        self._table = (
            tf.lookup.StaticVocabularyTable(line_numbers(vocabulary_file, size), hash_rows)
            if size
            else None
        )

    def __call__(self, titles: tf.Tensor) -> tf.RaggedTensor:
        """Rows of the words of each title: `[n]` string -> `[n, (words)]` ragged int64."""
        words = tokenize(titles)[:, : self._max_tokens]
        return words.with_flat_values(self.rows(words.flat_values))

    def rows(self, words: tf.Tensor) -> tf.Tensor:
        """Rows of words as `tokenize` gives them: `[n]` string -> `[n]` int64."""
        if self._table is None:  # an empty vocabulary: every word is a hashed one
            return 1 + tf.strings.to_hash_bucket_fast(words, self._hash_rows)
        return 1 + self._table.lookup(words)


def line_numbers(vocabulary_file: str, size: int) -> tf.lookup.TextFileInitializer:
    """A table initialiser: token -> its line in a `token<TAB>count` file."""
    return tf.lookup.TextFileInitializer(
        vocabulary_file,
        key_dtype=tf.string,
        key_index=0,
        value_dtype=tf.int64,
        value_index=tf.lookup.TextFileIndex.LINE_NUMBER,
        vocab_size=size,
        delimiter="\t",
    )


def token_lists(titles: Sequence[str], batch_size: int = 4096) -> list[list[str]]:
    """`tokenize` for plain Python, in batches: words of each title."""
    words: list[list[str]] = []
    for start in range(0, len(titles), batch_size):
        ragged = tokenize(tf.constant(list(titles[start : start + batch_size]), tf.string))
        words += [[w.decode("utf-8") for w in row] for row in ragged.to_list()]
    return words


def row_lists(table: WordTable, titles: Sequence[str], batch_size: int = 4096) -> list[list[int]]:
    """`WordTable` for plain Python, in batches: word rows of each title."""
    rows: list[list[int]] = []
    for start in range(0, len(titles), batch_size):
        rows += table(tf.constant(list(titles[start : start + batch_size]), tf.string)).to_list()
    return rows
