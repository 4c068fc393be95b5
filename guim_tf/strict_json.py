"""Nested frozen dataclasses as JSON, in and out: an unknown key or a wrong type is an error.

Standard library only. A class with a `from_text` has a short form: a string in the place of an
object.
"""

import dataclasses
import json
import pathlib
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration has an unknown key, a wrong type or an impossible value."""


def check(condition: bool, owner: object, field: str, expected: str) -> None:
    if not condition:
        got = getattr(owner, field)
        raise ConfigError(f"{type(owner).__name__}.{field} is {got!r}, expected {expected}.")


def to_json(config: Any) -> str:
    """A dataclass as indented JSON, keys in the order of its fields."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(cls: type[T], text: str, *, source: str = "configuration") -> T:
    """Reads a dataclass from JSON; unknown keys, missing keys and wrong types are errors."""
    return typing.cast(T, from_dict(cls, parse(text, source=source), where=source))


def parse(text: str, *, source: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise ConfigError(f"{source} is not JSON: {e}") from e


def read(path: str | pathlib.Path) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as e:
        raise ConfigError(f"{path} does not exist.") from e


def load(cls: type[T], path: str | pathlib.Path) -> T:
    """`from_json` of a file."""
    return from_json(cls, read(path), source=str(path))


def from_dict(cls: Any, value: Any, *, where: str) -> Any:
    """Builds `cls` from what JSON gives, checking every key and type on the way."""
    if dataclasses.is_dataclass(cls):
        if isinstance(value, str) and hasattr(cls, "from_text"):  # the short form
            return cls.from_text(value)
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
