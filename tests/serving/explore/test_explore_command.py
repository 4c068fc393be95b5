"""`guim explore`: what it says when something is not there, and that it starts and ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from explore_testing import save_models

from serving import server
from serving.explore.command import main


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_models(folder, interests=1, explains=False)
    handle = server.serve(server.discover(model_folder=folder), port=0)
    yield handle.address
    handle.stop()


def test_no_data_set(address, tmp_path, capsys):
    assert main(["--dataset", str(tmp_path), "--server", address]) == 2
    line = capsys.readouterr().err
    assert line.startswith("guim explore: ")
    assert "guim build-dataset" in line


def test_no_server(dataset, capsys):
    assert main(["--dataset", str(dataset), "--server", "127.0.0.1:1", "--timeout", "5"]) == 1
    assert "no server answers at 127.0.0.1:1" in capsys.readouterr().err


def test_a_server_without_the_index(dataset, address, capsys):
    assert main(["--dataset", str(dataset), "--server", address, "--model", "absent"]) == 1
    assert "does not serve what is needed" in capsys.readouterr().err


def test_encoders_elsewhere_must_be_there_too(dataset, address, capsys):
    nowhere = "127.0.0.1:1"
    command = ["--dataset", str(dataset), "--server", address, "--encoders", nowhere]
    assert main([*command, "--timeout", "5"]) == 1
    assert f"no server answers at {nowhere}" in capsys.readouterr().err


def test_a_taken_port(dataset, address, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["--dataset", str(dataset), "--server", address, "--port", port]) == 2
    line = capsys.readouterr().err
    assert f"port {port}" in line
    assert "--port" in line


@pytest.mark.parametrize("wrong", [["--k", "0"], ["--map-items", "0"], ["--timeout", "0"]])
def test_numbers_out_of_range(dataset, wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--dataset", str(dataset), *wrong])
    assert stop.value.code == 2
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize("absent", ["dash", "sklearn"])
def test_without_the_extra_it_says_what_to_install(dataset, absent):
    code = (
        f"import sys; sys.modules[{absent!r}] = None;"
        "from serving.explore.command import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "--dataset", str(dataset)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"guim explore: the page needs {absent}")
    assert "pip install 'guim-tf[explore]'" in done.stderr


def test_it_says_where_it_is_answers_there_alone_and_ends_when_told(dataset, address):
    command = [sys.executable, "-m", "guim_tf.cli", "explore", "--dataset", str(dataset)]
    process = subprocess.Popen(
        [*command, "--server", address, "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("ready at http://127.0.0.1:")
        url = ready.split()[2]
        page = urllib.request.urlopen(url, timeout=60).read().decode()
        assert "guim explore</title>" in page
        assert not re.search(r"""(src|href)=["'](https?:)?//""", page)
        rebound = urllib.request.Request(url, headers={"Host": "evil.example"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(rebound, timeout=60)
        assert refused.value.code == 400
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
