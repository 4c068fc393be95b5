"""What a data set is made of: names, special rows, layout and fingerprints. Standard library only.

Every stage reads and writes these names, and every stage that meets a `schema.json` made elsewhere
compares it with its own by `Schema.require_match`.
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

VERSION = 1
DAY = 86_400  # seconds
RECENT_DAYS = 30  # what "recent" means where popularity is concerned
TIME_UNITS = {"day": DAY, "hour": 3_600}  # seconds

# Features of a training record: one `tf.train.Example` a user, events in time order.
USER_ID = "user_id"  # bytes, [1]
TIMESTAMP = "timestamp"  # int64 seconds since the epoch, [n]
ITEM_KEY = "item_key"  # int64, `fingerprint64(item_id)`, [n]: equality of items, unknown ones too
ITEM_INDEX = "item_index"  # int64 row of the item table, [n]
CATEGORY_INDEX = "category_index"  # int64 row of the category table, [n]
ACTION_INDEX = "action_index"  # int64 row of the action table, [n]
TITLE_TOKENS = "title_tokens"  # int64 rows of the word table, flat over the events
TITLE_LENGTHS = "title_lengths"  # int64, [n]: how many of TITLE_TOKENS belong to each event

EVENT_FEATURES = (TIMESTAMP, ITEM_KEY, ITEM_INDEX, CATEGORY_INDEX, ACTION_INDEX, TITLE_LENGTHS)

# Rows of the item, category and action tables. The word table has row 0 for padding, then the
# vocabulary, then `Schema.word_hash_rows` rows that unknown words are hashed into.
PADDING_ROW = 0
UNKNOWN_ROW = 1
FIRST_ROW = 2

# Layout of a data set folder.
# Of the exported signatures, what a server that batches requests must know: this input is of the
# whole request and not of a row, and these have an output a position of the history.
CATEGORY_FILTER = "category_filter"
PER_EVENT_SIGNATURES = ("explain", "encode_users_with_attention")

SCHEMA_FILE = "schema.json"
MANIFEST_FILE = "manifest.json"  # of an exported model: each file and its size
COUNTERS_FILE = "counters.json"
ITEMS_FILE = "items.parquet"
LABELS_FILE = "labels.parquet"
VOCABULARY_FILES = {
    "items": "vocabularies/items.tsv",
    "categories": "vocabularies/categories.tsv",
    "words": "vocabularies/words.tsv",
}
RETIRED_FILE = "vocabularies/retired.json"  # rows that are kept, of tokens no longer frequent
TRAIN, VALIDATION = "train", "validation"
DEAD_LETTERS = "dead_letters"

# Columns of `items.parquet`: the catalogue in vocabulary order (most bought first, then by id).
ITEM_COLUMNS = (
    "item_id",  # string
    "item_key",  # int64
    "item_index",  # int64
    "category_id",  # string, "" where there is none
    "category_index",  # int64
    "title",  # string, "" where there is none
    "title_tokens",  # list<int64>
    "count",  # int64: events before `Schema.as_of`
    "recent_buyers",  # int64: users with such an event in the RECENT_DAYS before it
)


class SchemaError(ValueError):
    """An artifact does not carry the schema that its reader expects."""


class DatasetError(ValueError):
    """A data set folder is missing, unfinished or damaged."""


def fingerprint64(text: str) -> int:
    """A stable signed 64-bit fingerprint of an id; never 0, which is padding."""
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) or 1


def fingerprint_lines(lines: list[str]) -> str:
    """A hex fingerprint of a vocabulary: its tokens in order."""
    return hashlib.blake2b("\n".join(lines).encode("utf-8"), digest_size=16).hexdigest()


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A vocabulary file: one `token<TAB>count` a line, most frequent first."""

    size: int
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class Schema:
    """The contract between a data set and everything that reads it.

    `as_of` is the moment that divides what may be learned from (before it) from what is held out
    for evaluation (at or after it): no vocabulary, count or training target looks past it. Titles
    and categories are what items are called now: the latest of the log.
    Timestamps are seconds since the epoch.
    """

    items: Vocabulary
    categories: Vocabulary
    words: Vocabulary
    word_hash_rows: int
    max_title_tokens: int
    tokenizer: str
    actions: tuple[str, ...]
    first_timestamp: int
    last_timestamp: int
    as_of: int
    compression: str = ""  # "" or "GZIP"
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise SchemaError(
                f"This is schema version {self.version}, and this build reads version {VERSION}. "
                "Rebuild the data set with `guim build-dataset`."
            )
        if self.compression not in ("", "GZIP"):
            raise SchemaError(f"compression is {self.compression!r}, expected '' or 'GZIP'.")

    @property
    def item_rows(self) -> int:
        """Rows of the item table: padding, the common row of rare items, the vocabulary."""
        return FIRST_ROW + self.items.size

    @property
    def category_rows(self) -> int:
        """Rows of the category table: padding, unknown, the vocabulary."""
        return FIRST_ROW + self.categories.size

    @property
    def word_rows(self) -> int:
        """Rows of the word table: padding, the vocabulary, the hashed rows."""
        return 1 + self.words.size + self.word_hash_rows

    @property
    def action_rows(self) -> int:
        """Rows of the action table: padding, unknown, the action types."""
        return FIRST_ROW + len(self.actions)

    def contract(self) -> dict[str, Any]:
        """The part that two artifacts must share to fit together; the time window is not in it."""
        fields = dataclasses.asdict(self)
        for name in ("first_timestamp", "last_timestamp", "as_of", "compression"):
            del fields[name]
        fields["actions"] = list(self.actions)
        return fields

    @property
    def fingerprint(self) -> str:
        """Hex fingerprint of `contract()`."""
        text = json.dumps(self.contract(), sort_keys=True)
        return hashlib.blake2b(text.encode("utf-8"), digest_size=16).hexdigest()

    def require_match(self, other: "Schema", *, mine: str, theirs: str) -> None:
        """Raises `SchemaError` naming every field in which two artifacts differ.

        Args:
          other: the schema to compare with.
          mine: what carries this schema, for the message ("the model in /models/1").
          theirs: what carries the other one.
        """
        a, b = self.contract(), other.contract()
        differences = [f"{key}: {a[key]} != {b[key]}" for key in a if a[key] != b[key]]
        if differences:
            raise SchemaError(
                f"{mine} and {theirs} were not made from the same vocabularies: "
                + "; ".join(differences)
                + ". Train, export and evaluate with the data set that the model was made from, "
                "or train again on the new one."
            )

    def to_json(self) -> str:
        fields = dataclasses.asdict(self) | {"fingerprint": self.fingerprint}
        return json.dumps(fields, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, *, source: str = SCHEMA_FILE) -> "Schema":
        """Reads what `to_json` wrote; raises `SchemaError` for anything else."""
        try:
            fields = json.loads(text)
            stated = fields.pop("fingerprint")
            version = fields.get("version")
            if version != VERSION:
                raise SchemaError(
                    f"{source} is schema version {version}, and this build reads version "
                    f"{VERSION}. Rebuild the data set with `guim build-dataset`."
                )
            for name in ("items", "categories", "words"):
                fields[name] = Vocabulary(**fields[name])
            fields["actions"] = tuple(fields["actions"])
            schema = cls(**fields)
        except SchemaError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as e:
            raise SchemaError(f"{source} is not a schema of this package: {e}") from e
        if stated != schema.fingerprint:
            raise SchemaError(
                f"{source} was edited: its fingerprint is {stated}, its content gives "
                f"{schema.fingerprint}. Rebuild the data set with `guim build-dataset`."
            )
        return schema

    def save(self, folder: str | pathlib.Path) -> None:
        pathlib.Path(folder, SCHEMA_FILE).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | pathlib.Path) -> "Schema":
        """Loads `schema.json` of a data set or model folder."""
        path = pathlib.Path(folder, SCHEMA_FILE)
        if not path.is_file():
            raise SchemaError(
                f"{path} does not exist: {folder} is not a finished data set or model. "
                "Make a data set with `guim build-dataset`."
            )
        return cls.from_json(path.read_text(encoding="utf-8"), source=str(path))


def read_vocabulary(path: str | pathlib.Path) -> tuple[list[str], list[int]]:
    """Tokens and counts of a vocabulary file, in row order."""
    tokens, counts = [], []
    for line in pathlib.Path(path).read_text(encoding="utf-8").split("\n"):
        if line:
            token, count = line.split("\t")
            tokens.append(token)
            counts.append(int(count))
    return tokens, counts


def write_vocabulary(path: str | pathlib.Path, tokens: list[str], counts: list[int]) -> Vocabulary:
    """Writes a vocabulary file and returns its entry in the schema."""
    lines = [f"{token}\t{count}\n" for token, count in zip(tokens, counts, strict=True)]
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")
    return Vocabulary(size=len(tokens), fingerprint=fingerprint_lines(tokens))
