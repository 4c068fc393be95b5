"""What a user decides about a data set, and how the command line says it."""

import argparse
import dataclasses
import datetime
from collections.abc import Callable
from typing import Any

from beam_pipelines.errors import InputError
from beam_pipelines.vocabulary import Limits


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a log becomes a data set.

    `as_of` (seconds) divides what may be learned from what is held out; without it, it is
    midnight UTC after the last event, `holdout_days` earlier.
    """

    as_of: int | None = None
    holdout_days: int = 30
    validation_share: float = 0.1
    max_events_per_user: int = 10_000
    max_items: int = 200_000  # X of the paper
    max_categories: int = 10_000
    max_words: int = 530_000
    word_hash_rows: int = 8
    max_title_tokens: int = 16
    max_dead_share: float = 0.01
    shards: int = 4
    compression: str = ""

    def __post_init__(self) -> None:
        for name in ("max_events_per_user", "max_items", "max_categories", "word_hash_rows"):
            self._require(name, getattr(self, name) >= 1, "a positive number")
        for name in ("max_title_tokens", "shards"):
            self._require(name, getattr(self, name) >= 1, "a positive number")
        for name in ("holdout_days", "max_words"):
            self._require(name, getattr(self, name) >= 0, "zero or more")
        self._require("validation_share", 0 <= self.validation_share < 1, "a share in [0, 1)")
        self._require("max_dead_share", 0 <= self.max_dead_share <= 1, "a share in [0, 1]")
        self._require("compression", self.compression in ("", "GZIP"), "'' or 'GZIP'")

    def _require(self, name: str, condition: bool, expected: str) -> None:
        if not condition:
            raise InputError(f"{name} is {getattr(self, name)!r}, expected {expected}.")

    @property
    def limits(self) -> Limits:
        return Limits(
            max_items=self.max_items,
            max_categories=self.max_categories,
            max_words=self.max_words,
            word_hash_rows=self.word_hash_rows,
            max_title_tokens=self.max_title_tokens,
        )


_HELP = {
    "as_of": "cut-off T': an ISO 8601 time (UTC unless it names a zone) or seconds",
    "holdout_days": "without --as-of: days before the end of the log that are held out",
    "validation_share": "share of users in the validation split, by a stable hash of the id",
    "max_events_per_user": "most recent events kept of each user",
    "max_items": "item ids with a row of their own; all others share one",
    "max_categories": "category ids with a row of their own",
    "max_words": "title words with a row of their own",
    "word_hash_rows": "rows that all other words are hashed into",
    "max_title_tokens": "words kept of a title",
    "max_dead_share": "the job fails when more than this share of the rows or files is unusable",
    "shards": "files a split; each is made in memory by one worker",
    "compression": "of the records",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag a field, with the field's default."""
    kinds: dict[str, Callable[[str], Any]] = {
        "as_of": parse_time,
        "validation_share": float,
        "max_dead_share": float,
        "compression": str,
    }
    for field in dataclasses.fields(Settings):
        choices = ["", "GZIP"] if field.name == "compression" else None
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            type=kinds.get(field.name, int),
            choices=choices,
            default=field.default,
            metavar=None if choices else "N",
            help=_HELP[field.name] + ("" if field.default is None else " (default: %(default)r)"),
        )


def from_arguments(arguments: argparse.Namespace) -> Settings:
    return Settings(**{f.name: getattr(arguments, f.name) for f in dataclasses.fields(Settings)})


def parse_time(text: str) -> int:
    """Seconds since the epoch of an ISO 8601 time or a number of seconds."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither an ISO 8601 time such as 2011-11-10 nor a number of seconds"
        ) from e
    return int((time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp())
