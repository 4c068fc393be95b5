"""A suite: which configurations to train, over which seeds, and which one the others are held to.

The file is strict JSON of `Suite`; the data set is not in it, so that a suite fits any of them.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re

from guim_tf.config import MODES, Config, configure
from guim_tf.evaluation.search import COSINE, SCORES
from guim_tf.strict_json import ConfigError, load

SEED = "{seed}"  # in the path of a file of vectors
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")  # a folder's name that needs no quotes


@dataclasses.dataclass(frozen=True)
class Entry:
    """A configuration by name.

    Attributes:
      name: its row in the tables and its folders.
      settings: `section.field=value`, applied after the suite's own.
      family: configurations that differ in C alone; they make one line of the plots against C.
      mode: the named configuration that settings change; null is the suite's.
      members: how often it is trained for one model, whose vectors are those of all side by side
        (`guim_tf.ensemble`). With n members seed s stands for the seeds from n s on.
    """

    name: str
    settings: tuple[str, ...] = ()
    family: str | None = None
    mode: str | None = None
    members: int = 1

    def __post_init__(self) -> None:
        _check_name(self)
        if self.members < 1:
            raise ConfigError(f"Entry.members is {self.members}, expected a positive number.")

    def seeds(self, seed: int) -> range:
        """The seeds of its members."""
        return range(self.members * seed, self.members * (seed + 1))


@dataclasses.dataclass(frozen=True)
class VectorsEntry:
    """Vectors made elsewhere, by name: scored as a configuration's are, not trained.

    Attributes:
      name: their row in the tables and their folder.
      user_vectors: file in a form of `guim_tf.evaluation.vector_files`, relative to the suite's;
        `{seed}` stands for each of its seeds. Without it there is one run.
      item_vectors: the same of items.
      score: how they are compared, "cosine" or "dot".
    """

    name: str
    user_vectors: str
    item_vectors: str
    score: str = COSINE

    def __post_init__(self) -> None:
        _check_name(self)
        if self.score not in SCORES:
            raise ConfigError(
                f"VectorsEntry.score is {self.score!r}, expected one of {', '.join(SCORES)}."
            )

    @property
    def seeded(self) -> bool:
        """Whether each seed has vectors of its own."""
        return SEED in self.user_vectors + self.item_vectors

    def files(self, folder: pathlib.Path, seed: int) -> tuple[pathlib.Path, pathlib.Path]:
        """Users' and items' file of one seed, of a suite in `folder`."""
        users, items = (
            folder / path.replace(SEED, str(seed))
            for path in (self.user_vectors, self.item_vectors)
        )
        return users, items


@dataclasses.dataclass(frozen=True)
class Suite:
    """What to run.

    Attributes:
      title: heading of the page.
      seeds: every configuration is trained once with each.
      configurations: in the order of the tables.
      reference: name of the configuration or the vectors that the others are compared with, seed
        by seed.
      mode: the named configuration that settings change.
      settings: of all configurations, before their own.
      vectors: made elsewhere, after the configurations in the tables.
      exclude_seen: leaves items of the history out of all rankings, as published leave-one-out
        comparisons do.
    """

    title: str
    seeds: tuple[int, ...]
    configurations: tuple[Entry, ...]
    reference: str
    mode: str = "tuned"
    settings: tuple[str, ...] = ()
    vectors: tuple[VectorsEntry, ...] = ()
    exclude_seen: bool = False

    def __post_init__(self) -> None:
        names = self.names
        self._check(len(self.configurations) > 0, "configurations", "at least one")
        distinct = len({name.casefold() for name in names}) == len(names)
        self._check(distinct, "vectors" if self.vectors else "configurations", "distinct names")
        self._check(len(self.seeds) > 0, "seeds", "at least one")
        self._check(len(set(self.seeds)) == len(self.seeds), "seeds", "distinct numbers")
        self._check(min(self.seeds) >= 0, "seeds", "numbers from 0")
        self._check(self.reference in names, "reference", f"one of {names}")
        self._check(self.mode in MODES, "mode", f"one of {sorted(MODES)}")
        made: dict[tuple[Config, int], str] = {}
        places: dict[tuple[str, int], str] = {}
        for entry in self.configurations:
            config = self.config(entry, self.seeds[0])
            place = (entry.family or f"\0{entry.name}", self.size(entry))
            for other in (
                made.setdefault((config, entry.members), entry.name),
                places.setdefault(place, entry.name),
            ):
                if other != entry.name:
                    raise ConfigError(
                        f"Suite.configurations: {other!r} and {entry.name!r} are the same "
                        "configuration or the same C of one family. Drop one of them, or change "
                        "its settings or its family."
                    )

    @property
    def rows(self) -> list[Entry | VectorsEntry]:
        """All that is no baseline, in the order of the tables."""
        return [*self.configurations, *self.vectors]

    @property
    def names(self) -> list[str]:
        return [row.name for row in self.rows]

    def size(self, entry: Entry) -> int:
        """Numbers of a user over the smallest d: C, and for GUI-EDI what equals it.

        The smallest of the configurations in the same mode. Of several members, those of one.
        """
        of_mode = [x for x in self.configurations if self.mode_of(x) == self.mode_of(entry)]
        models = [self.config(other, self.seeds[0]).model for other in of_mode]
        model = self.config(entry, self.seeds[0]).model
        return model.interests * model.embedding_dim // min(x.embedding_dim for x in models)

    def mode_of(self, entry: Entry) -> str:
        """The mode that its settings change."""
        return self.mode if entry.mode is None else entry.mode

    def config(self, entry: Entry, seed: int) -> Config:
        """The whole configuration of one run.

        Raises:
          ConfigError: a setting names no field, has an impossible value, or sets the seed; or the
            mode is unknown.
        """
        mode = self.mode_of(entry)
        settings = [*self.settings, *entry.settings]
        try:
            if mode not in MODES:
                raise ConfigError(f"mode is {mode!r}, expected one of {sorted(MODES)}.")
            if any(setting.startswith("training.seed=") for setting in settings):
                raise ConfigError("training.seed is set by the suite's `seeds`; drop the setting.")
            return configure(MODES[mode](), [*settings, f"training.seed={seed}"])
        except ConfigError as e:
            raise ConfigError(f"configuration {entry.name!r}: {e}") from e

    def _check(self, condition: bool, field: str, expected: str) -> None:
        if not condition:
            got = getattr(self, field)
            shown = [x.name for x in got] if field in ("configurations", "vectors") else got
            raise ConfigError(f"Suite.{field} is {shown!r}, expected {expected}.")


def load_suite(path: str | pathlib.Path) -> Suite:
    """Reads a suite file; a broken one is an error that names the file and the field."""
    try:
        return load(Suite, path)
    except ConfigError as e:
        message = str(e)
        raise ConfigError(message if str(path) in message else f"{path}: {message}") from e


def _check_name(entry: Entry | VectorsEntry) -> None:
    if not _NAME.fullmatch(entry.name):
        raise ConfigError(
            f"{type(entry).__name__}.name is {entry.name!r}, expected letters, digits and any of "
            "._=+- after the first: it names folders."
        )
