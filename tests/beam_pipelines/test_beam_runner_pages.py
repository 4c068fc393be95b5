"""The pages about runners name flags, parameters and versions that exist."""

import pathlib
import re
import shlex

import pytest

from beam_pipelines.runner import make_options

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs/runners").glob("*.md"))
OURS = ("--mapping", "--output", "--shards")


def commands(page: pathlib.Path) -> list[list[str]]:
    """Arguments of the `guim build-dataset` commands in a page's code blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(x)[2:] for x in lines if x.strip().startswith("guim build-dataset")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_flag_of_a_command_exists(page):
    found = commands(page)
    assert found
    for arguments in found:
        flags = [each for each in arguments if each.startswith("--")]
        assert set(OURS[:2]) <= set(flags)
        beam = [each for each in flags if each not in OURS]
        if "--runner=DaskRunner" in beam:
            pytest.importorskip("distributed")
        runner = make_options(beam).get_all_options()["runner"]
        assert any(flag == f"--runner={runner.rpartition('.')[2]}" for flag in beam)


def test_pages_say_what_is_untested():
    for name in ("flink", "spark", "dataflow"):
        assert "(untested)" in (ROOT / f"docs/runners/{name}.md").read_text().splitlines()[0]


def test_the_container_has_the_pinned_beam():
    versions = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()
    )
    dockerfile = (ROOT / "beam_pipelines/docker/Dockerfile").read_text()
    assert f"apache/beam_python3.11_sdk:{versions['apache-beam']}" in dockerfile
