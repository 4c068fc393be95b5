"""What decides a trained model: its sizes, losses, windows, training and retrieval.

Standard library only. A mode is a named configuration (`Config.paper()`), never a code path.
"""

import dataclasses
import json
import pathlib
import typing
from collections.abc import Callable

from guim_tf.schema import TIME_UNITS
from guim_tf.strict_json import ConfigError, check, from_dict, parse, read


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
    # Of the layers' kernels: "bert", normal with .02, or "glorot", larger where dimensions are few.
    # The heads of GUIM-MH on top begin as "bert".
    initializer: str = "bert"
    norm_first: bool = False  # layers normalise their input (pre-norm), not their output as in BERT
    # An event attends to itself and to earlier ones; CLS tokens attend to all.
    causal: bool = False
    time_rows: int = 365  # one row a day of age; one more is t0's
    time_unit: str = "day"  # or "hour" (footnote 2), when 365 days take 8,760 rows
    actions: bool = False  # add an embedding of each event's action type (section 3.1)

    def __post_init__(self) -> None:
        for name in ("interests", "embedding_dim", "item_id_dim", "category_dim", "word_dim"):
            check(getattr(self, name) >= 1, self, name, "a positive number")
        check(self.mixture in ("tokens", "heads"), self, "mixture", "tokens or heads")
        check(self.layers >= 1, self, "layers", "at least one layer")
        check(
            self.heads >= 1 and self.embedding_dim % self.heads == 0,
            self,
            "heads",
            f"a divisor of embedding_dim = {self.embedding_dim}",
        )
        check(0 <= self.dropout < 1, self, "dropout", "a share in [0, 1)")
        check(self.time_rows >= 1, self, "time_rows", "at least one row")
        check(self.time_unit in TIME_UNITS, self, "time_unit", "day or hour")
        check(self.initializer in ("bert", "glorot"), self, "initializer", "bert or glorot")
        check(self.item_activation in ("gelu", "linear"), self, "item_activation", "gelu or linear")


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """The two InfoNCE losses (section 3.3)."""

    alpha: float = 20.0
    mask_probability: float = 0.15
    # Negatives drawn from each other user of the batch, independently for each positive. 1 gives
    # the paper's K = 31 at its batch of 32; null takes every item of every other user.
    negatives_per_user: int | None = 1
    # Correct the scores for how often an item comes up as a negative, so that vectors alone know
    # what sells. Without it they hold popular items down, and the prior is to raise them again
    # (`retrieval.popularity_weight`).
    logq: bool = False
    # Share of a batch's items whose id is hidden wherever they stand, so that category and title
    # learn to stand for it: what a new item is found by.
    id_dropout: float = 0.0
    # Weight, a target, of the mean squared cosine between the user's interests: keeps them apart.
    diversity: float = 0.0
    # Weight of a third InfoNCE: o_n of an event that is not masked predicts the event after it.
    next_item: float = 0.0
    # Items drawn uniformly for each batch from all that has sold, as negatives of everyone.
    catalogue_negatives: int = 0
    # Where several workers train in step, negatives are items of the whole batch; false takes those
    # of the worker's own users.
    across_replicas: bool = True

    def __post_init__(self) -> None:
        # Masses of negatives are relative to the largest score there can be (`shared_negatives`).
        check(0 < self.alpha <= 50, self, "alpha", "a positive scale up to 50")
        check(0 < self.mask_probability < 1, self, "mask_probability", "a share in (0, 1)")
        check(0 <= self.id_dropout < 1, self, "id_dropout", "a share in [0, 1)")
        check(self.diversity >= 0, self, "diversity", "zero or more")
        check(self.next_item >= 0, self, "next_item", "zero or more")
        check(
            self.catalogue_negatives == 0
            or (self.catalogue_negatives > 0 and self.negatives_per_user is None),
            self,
            "catalogue_negatives",
            "zero, or more beside negatives_per_user = null",
        )
        check(
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
    # So many of them in training, which takes time for each; null: all. Events have ages, not
    # places, so that longer histories than those are encoded as well.
    training_length: int | None = None
    max_targets: int = 64  # first targets after T
    # Train on a new T for each user in each pass, at one of his purchases, not on one T for all.
    random_cutoffs: bool = False
    # A random T so many days older is half as likely: recent habits weigh more. Null: all alike.
    cutoff_half_life_days: int | None = None
    # Random T only in the last so many days before the held-out part; users without a purchase
    # there are left out. Null: anywhere. What a daily update learns from.
    recent_days: int | None = None
    # Cut-offs a user and pass, learned from in one go: T, and moments of T's own history, where
    # their targets lie too. More than one need random cut-offs and a causal model.
    cutoffs: int = 1
    # Share of the users of a pass whose purchases change places in time, so that what is learned
    # from them is what they buy, not in which order.
    shuffled: float = 0.0

    def __post_init__(self) -> None:
        for name in ("history_days", "target_days", "max_length", "max_targets", "cutoffs"):
            check(getattr(self, name) >= 1, self, name, "a positive number")
        check(
            self.training_length is None or 1 <= self.training_length <= self.max_length,
            self,
            "training_length",
            f"a positive number up to max_length = {self.max_length}, or null",
        )
        check(
            self.recent_days is None or (self.recent_days >= 1 and self.random_cutoffs),
            self,
            "recent_days",
            "a positive number beside random_cutoffs, or null",
        )
        check(
            self.cutoff_half_life_days is None
            or (self.cutoff_half_life_days >= 1 and self.random_cutoffs),
            self,
            "cutoff_half_life_days",
            "a positive number beside random_cutoffs, or null",
        )
        check(0 <= self.shuffled <= 1, self, "shuffled", "a share in [0, 1]")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long and how fast to learn."""

    batch_size: int = 32
    epochs: int = 30
    learning_rate: float = 1e-3
    warmup_share: float = 0.1  # of all steps; then linear decay to zero
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    # Tables are updated by row (`optimizers.RowwiseAdamW`): their learning rate over the others',
    # and their state, "row" for one number a row or "full" for two numbers a weight.
    table_rate: float = 30.0
    table_slots: str = "row"
    # Epochs with no better validation recall before stopping; the best one's weights are exported.
    # Null trains all epochs and exports the last, when the learning rate has come down to zero.
    patience: int | None = 10
    seed: int = 0
    # Parts of a batch that users are encoded in, one after another, and once more for the gradient:
    # a large batch with all its negatives then takes the memory of a part, and more time.
    parts: int = 1

    def __post_init__(self) -> None:
        check(self.batch_size >= 2, self, "batch_size", "at least 2: negatives are other users'")
        check(self.epochs >= 1, self, "epochs", "a positive number")
        check(self.parts >= 1, self, "parts", "a positive number")
        check(self.learning_rate > 0, self, "learning_rate", "a positive rate")
        check(0 <= self.warmup_share < 1, self, "warmup_share", "a share in [0, 1)")
        check(self.weight_decay >= 0, self, "weight_decay", "zero or more")
        check(self.clip_norm > 0, self, "clip_norm", "a positive norm")
        check(self.table_rate > 0, self, "table_rate", "a positive factor")
        check(self.table_slots in ("row", "full"), self, "table_slots", "row or full")
        check(
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
    # goes down. Null lets the end of training choose it on the validation users; without any it is
    # as in `validation.UNASKED`, and said so.
    repeat_weight: float | None = 0.0
    # Added to the cosine of the item that most users bought in the last 30 days, and in proportion
    # to ln(1 + buyers) to others': see `popularity.prior`. Null as above.
    popularity_weight: float | None = 0.0
    # Order the best of a served list by Eq. 2 with weights softmax_c(sharpness * cosine): see
    # `mixture.rescore`. Null leaves the order of Eq. 3.
    rescore_sharpness: float | None = None

    def __post_init__(self) -> None:
        check(
            self.rescore_sharpness is None or self.rescore_sharpness >= 0,
            self,
            "rescore_sharpness",
            "zero or more, or null",
        )


# Where these are null, the end of training chooses them.
CHOSEN_WEIGHTS = ("repeat_weight", "popularity_weight")


def require_causal(model: ModelConfig, loss: LossConfig) -> None:
    """Raises `ConfigError` where a loss would read its own answer."""
    if loss.next_item and not model.causal:
        raise ConfigError(
            f"LossConfig.next_item is {loss.next_item}: without model.causal an event knows the "
            "next one, which it is to predict. Set loss.next_item=0 or model.causal=true."
        )


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
        require_causal(self.model, self.loss)

    @classmethod
    def paper(cls) -> "Config":
        """Every choice as the paper states it: the reference that results are compared with."""
        return cls()

    @classmethod
    def tuned(cls) -> "Config":
        """What was chosen by measurement (`benchmarks/RESULTS.md`): the default of `guim train`."""
        return cls(
            model=ModelConfig(item_activation="linear", causal=True),
            loss=LossConfig(negatives_per_user=None, diversity=1.0, next_item=0.3, id_dropout=0.15),
            window=WindowConfig(max_targets=16, random_cutoffs=True, cutoffs=4),
            training=TrainingConfig(batch_size=64, patience=None),
            retrieval=RetrievalConfig(repeat_weight=None, popularity_weight=None),
        )

    def update(self) -> "Config":
        """How a model of this configuration learns one more day: `guim train --init-from`.

        A few passes over the users of the new day, whose histories also rehearse older ones. An
        update of an update learns as that one did.
        """
        if self.window.recent_days is not None:
            return self
        return dataclasses.replace(
            self,
            window=dataclasses.replace(self.window, random_cutoffs=True, recent_days=1),
            training=dataclasses.replace(
                self.training,
                epochs=3,
                batch_size=32,
                learning_rate=0.3 * self.training.learning_rate,
                warmup_share=0.0,
                patience=None,
            ),
        )


MODES: dict[str, Callable[[], Config]] = {"tuned": Config.tuned, "paper": Config.paper}


def load_over(mode: Config, path: str | pathlib.Path) -> Config:
    """A file with some sections and fields of a configuration; the others are those of `mode`."""
    value = parse(read(path), source=str(path))
    whole = dataclasses.asdict(mode)
    if isinstance(value, dict):
        value = whole | {
            name: whole[name] | section if name in whole and isinstance(section, dict) else section
            for name, section in value.items()
        }
    return typing.cast(Config, from_dict(Config, value, where=str(path)))


def configure(config: Config, settings: list[str]) -> Config:
    """Applies settings such as `training.epochs=10`; values are JSON, or else text.

    Raises:
      ConfigError: no such section or field, or a value that the field refuses.
    """
    fields = dataclasses.asdict(config)
    for setting in settings:
        path, _, text = setting.partition("=")
        section, _, field = path.partition(".")
        if not (text and field and field in fields.get(section, {})):
            raise ConfigError(
                f"--set {setting}: expected section.field=value, with one of "
                + ", ".join(f"{name}.{key}" for name in fields for key in fields[name])
                + "."
            )
        try:
            fields[section][field] = json.loads(text)
        except json.JSONDecodeError:
            fields[section][field] = text
    return typing.cast(Config, from_dict(Config, fields, where="configuration"))
