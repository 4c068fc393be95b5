"""Every notebook runs from its first cell to its last, and is stored without outputs."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

# Runs the cells of a notebook one after another, as its kernel would, and names one that fails.
RUN_CELLS = """
import json, sys
cells = json.load(open(sys.argv[1], encoding="utf-8"))["cells"]
code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
__name__ = "__main__"
for number, lines in enumerate(code, 1):
    print(f"--- cell {number} of {len(code)}", flush=True)
    exec(compile("".join(lines), f"<cell {number}>", "exec"), globals())
"""

# What a notebook must have printed: its last result, not only its first.
PRINTED = {
    "train": ["users (", "interest 3: ", "recommended:"],
    "profile_task": ["users (", "majority class", "frozen vectors"],
    "score_your_vectors": ["random vectors", "popularity vectors", "EASE"],
}


@by_name
def test_a_notebook_is_stored_without_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = notebook["cells"]
    assert cells[0]["cell_type"] == "markdown"
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert "".join(cell["source"]).strip()


@pytest.mark.e2e
@by_name
def test_a_notebook_runs(path, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RUN_CELLS, str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for expected in PRINTED[path.stem]:
        assert expected in done.stdout


def test_the_notebooks_are_these():
    assert {path.stem for path in NOTEBOOKS} == set(PRINTED)
