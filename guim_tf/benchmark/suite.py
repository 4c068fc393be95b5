"""A suite: which configurations to train, over which seeds, and which one the others are held to.

The file is strict JSON of `Suite`; the data set is not in it, so that a suite fits any of them.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re

from guim_tf.config import Config, ConfigError, load
from guim_tf.training import configure

BASES = {"paper": Config.paper}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]*")  # a folder's name that needs no quotes


@dataclasses.dataclass(frozen=True)
class Entry:
    """A configuration by name.

    Attributes:
      name: its row in the tables and its folders.
      settings: `section.field=value`, applied after the suite's own.
      family: configurations that differ in C alone; they make one line of the plots against C.
    """

    name: str
    settings: tuple[str, ...] = ()
    family: str | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"Entry.name is {self.name!r}, expected letters, digits and any of ._=+- after "
                "the first: it names folders."
            )


@dataclasses.dataclass(frozen=True)
class Suite:
    """What to run.

    Attributes:
      title: heading of the page.
      seeds: every configuration is trained once with each.
      configurations: in the order of the tables.
      reference: name of the configuration that the others are compared with, seed by seed.
      base: the named configuration that settings change.
      settings: of all configurations, before their own.
    """

    title: str
    seeds: tuple[int, ...]
    configurations: tuple[Entry, ...]
    reference: str
    base: str = "paper"
    settings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.configurations]
        self._check(len(names) > 0, "configurations", "at least one")
        self._check(len({x.casefold() for x in names}) == len(names), "configurations", "distinct")
        self._check(len(self.seeds) > 0, "seeds", "at least one")
        self._check(len(set(self.seeds)) == len(self.seeds), "seeds", "distinct numbers")
        self._check(min(self.seeds) >= 0, "seeds", "numbers from 0")
        self._check(self.reference in names, "reference", f"one of {names}")
        self._check(self.base in BASES, "base", f"one of {sorted(BASES)}")
        made: dict[Config, str] = {}
        places: dict[tuple[str, int], str] = {}
        for entry in self.configurations:
            config = self.config(entry, self.seeds[0])
            place = (entry.family or f"\0{entry.name}", config.model.interests)
            for other in (
                made.setdefault(config, entry.name),
                places.setdefault(place, entry.name),
            ):
                if other != entry.name:
                    raise ConfigError(
                        f"Suite.configurations: {other!r} and {entry.name!r} are the same "
                        "configuration or the same C of one family. Drop one of them, or change "
                        "its settings or its family."
                    )

    def config(self, entry: Entry, seed: int) -> Config:
        """The whole configuration of one run.

        Raises:
          ConfigError: a setting names no field, has an impossible value, or sets the seed.
        """
        settings = [*self.settings, *entry.settings]
        try:
            if any(setting.startswith("training.seed=") for setting in settings):
                raise ConfigError("training.seed is set by the suite's `seeds`; drop the setting.")
            return configure(BASES[self.base](), [*settings, f"training.seed={seed}"])
        except ConfigError as e:
            raise ConfigError(f"configuration {entry.name!r}: {e}") from e

    def _check(self, condition: bool, field: str, expected: str) -> None:
        if not condition:
            got = getattr(self, field)
            shown = [x.name for x in got] if field == "configurations" else got
            raise ConfigError(f"Suite.{field} is {shown!r}, expected {expected}.")


def load_suite(path: str | pathlib.Path) -> Suite:
    """Reads a suite file; a broken one is an error that names the file and the field."""
    try:
        return load(Suite, path)
    except ConfigError as e:
        message = str(e)
        raise ConfigError(message if str(path) in message else f"{path}: {message}") from e
