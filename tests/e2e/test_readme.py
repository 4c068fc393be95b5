"""Every command of the README, in its order, on a smaller shop: from a log to gRPC answers."""

import json
import pathlib
import re
import shlex
import socket
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SMALLER = {
    "--users 3000 --items 1500": "--users 400 --items 300",
    "--set training.epochs=12": "--set training.epochs=2 --set model.layers=1",
    "--port 8050": "--port 0",
}


def blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def guim(command: str, folder: pathlib.Path) -> list[str]:
    """A command line of the README as arguments for this interpreter."""
    program, *arguments = shlex.split(command)
    assert program == "guim"
    return [sys.executable, "-m", "guim_tf.cli", *arguments]


def wait_for(log: pathlib.Path, process: subprocess.Popen, text: str) -> None:
    deadline = time.monotonic() + 120
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Runs all commands; gives the folder and what each printed."""
    folder = tmp_path_factory.mktemp("readme")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    printed, servers = {}, []
    try:
        for command in "".join(blocks("sh")).splitlines():
            for long, short in SMALLER.items():
                command = command.replace(long, short)
            command = command.replace("8500", port)
            name = command.split()[1]
            if command.endswith("&"):
                log = folder / f"{name}.log"
                with log.open("w") as file:
                    server = subprocess.Popen(
                        guim(command[:-1], folder), cwd=folder, stdout=file, stderr=file
                    )
                servers.append(server)
                wait_for(log, server, "ready")
                continue
            done = subprocess.run(
                guim(command, folder), cwd=folder, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            printed[name] = done.stdout
            if name == "build-dataset":  # profile prediction has tests of its own
                for schema in folder.glob("work/*/schema.json"):
                    schema.with_name("labels.parquet").unlink(missing_ok=True)
        yield folder, printed
    finally:
        for server in servers:
            server.terminate()
            assert server.wait(60) == 0


@pytest.mark.e2e
def test_every_command_of_the_path_is_in_the_readme(outputs):
    from guim_tf.cli import COMMANDS

    _, printed = outputs
    elsewhere = {"serve", "explore", "benchmark", "inspect"}  # run by tests of their own
    assert set(printed) | elsewhere == set(COMMANDS)


@pytest.mark.e2e
def test_recommendations_come_over_grpc_with_titles(outputs):
    folder, printed = outputs
    titles = pq.read_table(folder / "work/dataset/items.parquet")["title"].to_pylist()
    shown = [title for title in titles if title in printed["recommend"]]
    assert len(shown) >= 10
    assert "nterest" in printed["recommend"]


@pytest.mark.e2e
def test_the_report_has_the_model_beside_the_baselines(outputs):
    folder, printed = outputs
    report = json.loads((folder / "work/report/report.json").read_text())
    assert "GUIM, C = 4" in printed["evaluate"]
    assert "popular, last 30 days" in printed["evaluate"]
    text = json.dumps(report)
    assert all(task in text for task in ("CMP-L", "CMP-S", "CMP-N"))
    assert (folder / "work/report/report.html").stat().st_size > 10_000


@pytest.mark.e2e
def test_vectors_are_those_of_the_catalogue_and_the_users(outputs):
    folder, _ = outputs
    items = pq.read_table(folder / "work/items.parquet")
    users = pq.read_table(folder / "work/users.parquet")
    catalogue = pq.read_table(folder / "work/dataset/items.parquet")
    assert items["item_id"].to_pylist() == catalogue["item_id"].to_pylist()
    vectors = items["item_embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    counters = json.loads((folder / "work/dataset/counters.json").read_text())
    assert users.num_rows == counters["users"]["train"] + counters["users"]["validation"]


@pytest.mark.e2e
def test_the_notebook_code_of_the_readme_runs(outputs):
    folder, _ = outputs
    [code] = blocks("python")
    code += "\nassert users.shape[1:] == (4, 128), users.shape\n"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_mapping_of_the_readme_is_one():
    from guim_tf.mapping import Mapping
    from guim_tf.strict_json import from_json

    [text] = blocks("json")
    assert from_json(Mapping, text).events.filters[2].reason == "Quantity > 0"


def test_the_families_of_the_readme_are_settings():
    from guim_tf.config import Config, configure

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (GUI\S+):.*\| `(.*)` \|$", text, re.MULTILINE))
    models = {name: configure(Config(), row.split()).model for name, row in rows.items()}
    sizes = {name: (m.interests, m.embedding_dim, m.mixture) for name, m in models.items()}
    assert sizes == {
        "GUIM": (4, 128, "tokens"),
        "GUI-EDI": (1, 512, "tokens"),
        "GUIM-MH": (4, 128, "heads"),
    }
    assert models["GUI-EDI"].heads == 8, "64 dimensions a head"
