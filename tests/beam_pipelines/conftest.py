"""Small logs, written as a user would write them."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

MAPPING = {
    "files": ["events.csv"],
    "user_id": "user",
    "item_id": "item",
    "timestamp": "time",
}


@pytest.fixture
def write_mapping(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """Writes `mapping.json` in the test's folder: the events' fields, and other tables."""

    def write(*, tables: dict[str, Any] | None = None, **events: Any) -> pathlib.Path:
        path = tmp_path / "mapping.json"
        path.write_text(json.dumps({"events": MAPPING | events, **(tables or {})}))
        return path

    return write


@pytest.fixture
def write_log(
    tmp_path: pathlib.Path, write_mapping: Callable[..., pathlib.Path]
) -> Callable[..., pathlib.Path]:
    """Writes `events.csv` from lines of user,item,time and returns the mapping file."""

    def write(*lines: str, **events: Any) -> pathlib.Path:
        (tmp_path / "events.csv").write_text("\n".join(["user,item,time", *lines]) + "\n")
        return write_mapping(**events)

    return write
