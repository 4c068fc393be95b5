"""Suite files."""

import json
import pathlib

import pytest


@pytest.fixture
def suite_file(tmp_path):
    """Writes a suite; C1 and C4 of one family with seeds 0 and 1 unless told otherwise."""

    def write(**changes) -> pathlib.Path:
        fields = {
            "title": "Interests",
            "mode": "paper",
            "seeds": [0, 1],
            "reference": "C1",
            "settings": ["training.epochs=2"],
            "configurations": [
                {"name": "C1", "family": "GUIM", "settings": ["model.interests=1"]},
                {"name": "C4", "family": "GUIM", "settings": ["model.interests=4"]},
            ],
        } | changes
        path = tmp_path / "suite.json"
        path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))
        return path

    return write
