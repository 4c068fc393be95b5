"""One worker, two and a cluster make the same files; the mode that loses rows is refused."""

import pathlib

import pytest

from beam_pipelines import build_dataset as job
from beam_pipelines.build_dataset import build_dataset
from beam_pipelines.runner import make_options

DAY = 86_400
T0 = 1_700_006_400  # 2023-11-15 00:00:00 UTC

WORKERS = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
CLUSTER = ["--runner=DaskRunner"]


@pytest.fixture
def mapping(tmp_path, write_mapping, monkeypatch):
    """Five files, a robot, bad rows, and several partitions a shard."""
    monkeypatch.setattr(job.stages, "PARTITION_ROWS", 100)
    for number in range(5):
        lines = ["user,item,time,title"]
        for row in range(300):
            user = "robot" if row % 3 else f"u{(row * 7 + number) % 40}"
            time = T0 + DAY * ((row * 13) % 40) + row
            lines.append(f"{user},i{row * row % 50},{time},word{row % 9} and more")
        (tmp_path / f"part{number}.csv").write_text("\n".join([*lines, "no row"]) + "\n")
    return write_mapping(files=["part*.csv"], title="title")


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file of a data set; a dead letter names its own file, so all runs agree."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("flags", [WORKERS, CLUSTER], ids=["workers", "cluster"])
def test_runners_make_the_same_files(mapping, tmp_path, flags):
    if flags == CLUSTER:
        pytest.importorskip("distributed")
    settings = {"max_events_per_user": 50, "holdout_days": 5, "shards": 2}
    one = build_dataset(mapping_file=mapping, output=tmp_path / "one", **settings)
    other = build_dataset(
        mapping_file=mapping, output=tmp_path / "other", pipeline_options=flags, **settings
    )
    assert one.counters["events"]["capped"] > 0
    assert one.counters["rows"]["dead"] == {"wrong number of fields": 5}
    assert files(one.output) == files(other.output)


@pytest.mark.parametrize(
    "flags",
    [
        ["--direct_running_mode=multi_threading"],
        ["--direct_running_mode", "multi_threading", "--direct_num_workers=2"],
        ["--runner=FnApiRunner", "--direct_running_mode=multi_threading"],
    ],
)
def test_several_threads_are_refused(mapping, tmp_path, flags):
    with pytest.raises(ValueError, match="multi_threading silently loses rows .* multi_processing"):
        build_dataset(mapping_file=mapping, output=tmp_path / "ds", pipeline_options=flags)
    assert not list(tmp_path.glob("*ds*"))


def test_the_default_runner_needs_no_network_and_a_cluster_gets_one_element_a_task():
    assert make_options([]).get_all_options()["runner"] == "FnApiRunner"
    pytest.importorskip("distributed")
    options = make_options([*CLUSTER, "--dask_client_address=tcp://there:8786"])
    chosen = options.get_all_options()
    assert chosen["runner"].endswith("dask_runner.DaskRunner")
    assert (chosen["partition_size"], chosen["address"]) == (1, "tcp://there:8786")
