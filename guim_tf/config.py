"""Strict configuration: nested frozen dataclasses, JSON in and out, an unknown key is an error.

Standard library only. A mode is a named configuration (`Config.paper()`), never a code path.
"""

import dataclasses
import json
import pathlib
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from guim_tf.schema import TIME_UNITS

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration has an unknown key, a wrong type or an impossible value."""


def _check(condition: bool, owner: object, field: str, expected: str) -> None:
    if not condition:
        got = getattr(owner, field)
        raise ConfigError(f"{type(owner).__name__}.{field} is {got!r}, expected {expected}.")


# ---------------------------------------------------------------------------- logs -> data set


@dataclasses.dataclass(frozen=True)
class Column:
    """Where a field comes from: a column, or its first `prefix` characters."""

    column: str
    prefix: int | None = None

    def __post_init__(self) -> None:
        _check(bool(self.column), self, "column", "a column name")
        _check(self.prefix is None or self.prefix > 0, self, "prefix", "a positive length or null")


FILTER_OPERATORS = ("present", "==", "!=", ">", ">=", "<", "<=", "starts_with", "not_starts_with")


@dataclasses.dataclass(frozen=True)
class RowFilter:
    """Keeps the rows for which `column operator value` holds; the others count as filtered.

    `present` takes no value and keeps rows whose column is neither null nor empty. Comparisons
    with a number read the column as a number; a row where that fails is a dead letter.
    """

    column: str
    operator: str
    value: int | float | str | None = None

    def __post_init__(self) -> None:
        _check(self.operator in FILTER_OPERATORS, self, "operator", f"one of {FILTER_OPERATORS}")
        _check(
            (self.value is None) == (self.operator == "present"),
            self,
            "value",
            "a value, unless the operator is 'present'",
        )

    @property
    def reason(self) -> str:
        """The key under which `counters.json` counts the rows that this filter dropped."""
        return f"{self.column} {self.operator}" + ("" if self.value is None else f" {self.value}")


TIMESTAMP_UNITS = ("seconds", "milliseconds", "iso")


@dataclasses.dataclass(frozen=True)
class EventsMapping:
    """Which columns of the event files hold what. One row is one interaction."""

    files: tuple[
        str, ...
    ]  # globs, relative to the mapping file; .csv .csv.gz .jsonl .jsonl.gz .parquet
    user_id: Column
    item_id: Column
    timestamp: Column
    timestamp_unit: str = "seconds"
    action: Column | None = None
    category_id: Column | None = None
    title: Column | None = None
    filters: tuple[RowFilter, ...] = ()

    def __post_init__(self) -> None:
        _check(bool(self.files), self, "files", "at least one file or glob")
        _check(
            self.timestamp_unit in TIMESTAMP_UNITS,
            self,
            "timestamp_unit",
            f"one of {TIMESTAMP_UNITS}",
        )


@dataclasses.dataclass(frozen=True)
class ItemsMapping:
    """Which columns of the item table hold what."""

    files: tuple[str, ...]
    item_id: Column
    category_id: Column | None = None
    title: Column | None = None

    def __post_init__(self) -> None:
        _check(bool(self.files), self, "files", "at least one file or glob")


@dataclasses.dataclass(frozen=True)
class LabelsMapping:
    """Profile labels of users: every other column named here is a label."""

    files: tuple[str, ...]
    user_id: Column
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        _check(bool(self.files), self, "files", "at least one file or glob")
        _check(bool(self.labels), self, "labels", "at least one label column")


@dataclasses.dataclass(frozen=True)
class Mapping:
    """The mapping file that a user writes once for a log."""

    events: EventsMapping
    items: ItemsMapping | None = None
    labels: LabelsMapping | None = None


# ---------------------------------------------------------------------------- the model


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network (section 4.1 of the paper). Tables take their rows from the schema."""

    interests: int = 4  # C
    # Where the C vectors come from: "tokens", C CLS tokens, or "heads", the heads of one more
    # attention layer over a single one (GUIM-MH, section 4.3.2).
    mixture: str = "tokens"
    embedding_dim: int = 128  # d
    item_id_dim: int = 128
    category_dim: int = 128
    word_dim: int = 32
    layers: int = 3
    heads: int = 2  # the paper gives none; 64 dimensions a head, as in BERT
    dropout: float = 0.1
    item_activation: str = "gelu"  # "gelu" as in section 3.2, or "linear"
    norm_first: bool = False  # layers normalise their input (pre-norm), not their output as in BERT
    # An event attends to itself and to earlier ones; CLS tokens attend to all.
    causal: bool = False
    time_rows: int = 365  # one row a day of age; one more is t0's
    time_unit: str = "day"  # or "hour" (footnote 2), when 365 days take 8,760 rows
    actions: bool = False  # add an embedding of each event's action type (section 3.1)

    def __post_init__(self) -> None:
        for name in ("interests", "embedding_dim", "item_id_dim", "category_dim", "word_dim"):
            _check(getattr(self, name) >= 1, self, name, "a positive number")
        _check(self.mixture in ("tokens", "heads"), self, "mixture", "tokens or heads")
        _check(self.layers >= 1, self, "layers", "at least one layer")
        _check(
            self.heads >= 1 and self.embedding_dim % self.heads == 0,
            self,
            "heads",
            f"a divisor of embedding_dim = {self.embedding_dim}",
        )
        _check(0 <= self.dropout < 1, self, "dropout", "a share in [0, 1)")
        _check(self.time_rows >= 1, self, "time_rows", "at least one row")
        _check(self.time_unit in TIME_UNITS, self, "time_unit", "day or hour")
        _check(
            self.item_activation in ("gelu", "linear"), self, "item_activation", "gelu or linear"
        )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The two InfoNCE losses (section 3.3)."""

    alpha: float = 20.0
    mask_probability: float = 0.15
    # Negatives drawn from each other user of the batch, independently for each positive. 1 gives
    # the paper's K = 31 at its batch of 32; null takes every item of every other user.
    negatives_per_user: int | None = 1
    logq: bool = False  # correct the scores for how often an item comes up as a negative
    # Share of events whose item id is hidden in training, so that category and title learn to stand
    # for it: what a new item is found by.
    id_dropout: float = 0.0
    # Weight, a target, of the mean squared cosine between the user's interests: keeps them apart.
    diversity: float = 0.0
    # Weight of a third InfoNCE: o_n of an event that is not masked predicts the event after it.
    next_item: float = 0.0
    # Items drawn uniformly from the catalogue for each batch, as negatives of everyone.
    catalogue_negatives: int = 0

    def __post_init__(self) -> None:
        _check(self.alpha > 0, self, "alpha", "a positive scale")
        _check(0 < self.mask_probability < 1, self, "mask_probability", "a share in (0, 1)")
        _check(0 <= self.id_dropout < 1, self, "id_dropout", "a share in [0, 1)")
        _check(self.diversity >= 0, self, "diversity", "zero or more")
        _check(self.next_item >= 0, self, "next_item", "zero or more")
        _check(
            self.catalogue_negatives == 0
            or (self.catalogue_negatives > 0 and self.negatives_per_user is None),
            self,
            "catalogue_negatives",
            "zero, or more beside negatives_per_user = null",
        )
        _check(
            self.negatives_per_user is None or self.negatives_per_user >= 1,
            self,
            "negatives_per_user",
            "a positive number or null",
        )


@dataclasses.dataclass(frozen=True)
class WindowConfig:
    """How a user's sequence is cut (section 3.1): history [T - D1, T), targets [T, T + D2)."""

    history_days: int = 365  # D1
    target_days: int = 31  # D2
    max_length: int = 128  # most recent events of the history that the encoder sees
    max_targets: int = 64  # first targets after T
    # Train on a new T for each user in each pass, at one of his purchases, not on one T for all.
    random_cutoffs: bool = False
    # A random T so many days older is half as likely: recent habits weigh more. Null: all alike.
    cutoff_half_life_days: int | None = None
    # Cut-offs a user and pass, learned from in one go: T, and moments of T's own history, where
    # their targets lie too. More than one need random cut-offs and a causal model.
    cutoffs: int = 1

    def __post_init__(self) -> None:
        for name in ("history_days", "target_days", "max_length", "max_targets", "cutoffs"):
            _check(getattr(self, name) >= 1, self, name, "a positive number")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast to learn."""

    batch_size: int = 32
    epochs: int = 30
    learning_rate: float = 1e-3
    warmup_share: float = 0.1  # of all steps; then linear decay to zero
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    # Epochs with no better validation recall before stopping; the best one's weights are exported.
    # Null trains all epochs and exports the last, when the learning rate has come down to zero.
    patience: int | None = 10
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.batch_size >= 2, self, "batch_size", "at least 2: negatives are other users'")
        _check(self.epochs >= 1, self, "epochs", "a positive number")
        _check(self.learning_rate > 0, self, "learning_rate", "a positive rate")
        _check(0 <= self.warmup_share < 1, self, "warmup_share", "a share in [0, 1)")
        _check(self.weight_decay >= 0, self, "weight_decay", "zero or more")
        _check(self.clip_norm > 0, self, "clip_norm", "a positive norm")
        _check(
            self.patience is None or self.patience >= 1,
            self,
            "patience",
            "a positive number or null",
        )


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """How a user's list is made from the C searches."""

    # Added to an item's cosine, times ln(1 + how often the user has bought it): see
    # `mixture.prefer_repeats`. 0 ranks by Eq. 3 alone, as the paper does; below 0 what was bought
    # goes down. Null lets the end of training choose it on the validation users.
    repeat_weight: float | None = 0.0
    # Added to the cosine of the item that most users bought in the last 30 days, and in proportion
    # to ln(1 + buyers) to others': see `popularity.prior`. Null as above.
    popularity_weight: float | None = 0.0
    # Order the best of a served list by Eq. 2 with weights softmax_c(sharpness * cosine): see
    # `mixture.rescore`. Null leaves the order of Eq. 3, which `guim evaluate` always has.
    rescore_sharpness: float | None = None

    def __post_init__(self) -> None:
        _check(
            self.rescore_sharpness is None or self.rescore_sharpness >= 0,
            self,
            "rescore_sharpness",
            "zero or more, or null",
        )


# Where these are null, the end of training chooses them.
CHOSEN_WEIGHTS = ("repeat_weight", "popularity_weight")


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides what a trained model is, beside its data."""

    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    window: WindowConfig = WindowConfig()
    training: TrainingConfig = TrainingConfig()
    retrieval: RetrievalConfig = RetrievalConfig()

    def __post_init__(self) -> None:
        if self.window.cutoffs > 1 and not (self.model.causal and self.window.random_cutoffs):
            raise ConfigError(
                f"WindowConfig.cutoffs is {self.window.cutoffs}: more than one a user need "
                "model.causal and window.random_cutoffs, so that an event knows no later one."
            )

    @classmethod
    def paper(cls) -> "Config":
        """Every choice as the paper states it: the reference that results are compared with."""
        return cls()

    @classmethod
    def tuned(cls) -> "Config":
        """What was found to be better (`benchmarks/RESULTS.md`): the default of `guim train`."""
        return cls(
            model=ModelConfig(item_activation="linear", causal=True),
            loss=LossConfig(
                negatives_per_user=None,
                logq=True,
                diversity=1.0,
                next_item=0.3,
                catalogue_negatives=2000,
                id_dropout=0.15,
            ),
            window=WindowConfig(max_targets=16, random_cutoffs=True, cutoffs=4),
            training=TrainingConfig(batch_size=64, patience=None),
            retrieval=RetrievalConfig(repeat_weight=None, popularity_weight=None),
        )


MODES: dict[str, Callable[[], Config]] = {"tuned": Config.tuned, "paper": Config.paper}


# ---------------------------------------------------------------------------- strict JSON


def to_json(config: Any) -> str:
    """A dataclass as indented JSON, keys in the order of its fields."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(cls: type[T], text: str, *, source: str = "configuration") -> T:
    """Reads a dataclass from JSON; unknown keys, missing keys and wrong types are errors."""
    return typing.cast(T, from_dict(cls, _parse(text, source=source), where=source))


def _parse(text: str, *, source: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise ConfigError(f"{source} is not JSON: {e}") from e


def _read(path: str | pathlib.Path) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as e:
        raise ConfigError(f"{path} does not exist.") from e


def load(cls: type[T], path: str | pathlib.Path) -> T:
    """`from_json` of a file."""
    return from_json(cls, _read(path), source=str(path))


def load_over(mode: Config, path: str | pathlib.Path) -> Config:
    """A file with some sections and fields of a configuration; the others are those of `mode`."""
    value = _parse(_read(path), source=str(path))
    whole = dataclasses.asdict(mode)
    if isinstance(value, dict):
        value = whole | {
            name: whole[name] | section if name in whole and isinstance(section, dict) else section
            for name, section in value.items()
        }
    return typing.cast(Config, from_dict(Config, value, where=str(path)))


def from_dict(cls: Any, value: Any, *, where: str) -> Any:
    """Builds `cls` from what JSON gives, checking every key and type on the way."""
    if dataclasses.is_dataclass(cls):
        if cls is Column and isinstance(value, str):  # the short form of a column
            return Column(value)
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected an object, got {value!r}.")
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(value) - set(fields))
        if unknown:
            raise ConfigError(
                f"{where}: unknown key {', '.join(map(repr, unknown))}; known: {', '.join(fields)}."
            )
        hints = typing.get_type_hints(cls)
        arguments = {
            name: from_dict(hints[name], item, where=f"{where}.{name}")
            for name, item in value.items()
        }
        try:
            return cls(**arguments)  # type: ignore[operator]
        except TypeError as e:
            missing = [
                name
                for name, field in fields.items()
                if field.default is dataclasses.MISSING and name not in arguments
            ]
            raise ConfigError(f"{where}: missing {', '.join(map(repr, missing))}.") from e
    origin, options = typing.get_origin(cls), typing.get_args(cls)
    if origin is types.UnionType or origin is typing.Union:
        if value is None and type(None) in options:
            return None
        for option in options:
            try:
                return from_dict(option, value, where=where)
            except ConfigError as e:
                if dataclasses.is_dataclass(option):
                    raise
                error = e
        raise error
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {value!r}.")
        return tuple(
            from_dict(options[0], item, where=f"{where}[{i}]") for i, item in enumerate(value)
        )
    if cls is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, bool) != (cls is bool) or not isinstance(value, cls):
        raise ConfigError(f"{where}: expected {cls.__name__}, got {value!r}.")
    return value
