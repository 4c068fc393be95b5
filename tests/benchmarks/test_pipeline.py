"""The yardstick of the benchmark does the work of the pipeline, and the benchmark measures."""

import json
import sys

import pipeline
import pipeline_polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipelines.build_dataset import build_dataset
from beam_pipelines.settings import Settings
from guim_tf import schema
from guim_tf.datasets import synthetic

# user, item, time: one of each kind of row that can't be used, an exact duplicate, and a robot.
DIRTY = [
    ("u1", "i1", 1_700_000_000),
    ("u1", "i1", 1_700_000_000),
    (None, "i1", 1_700_000_000),
    ("u1", "", 1_700_000_000),
    ("u\t1", "i1", 1_700_000_000),
    ("u1", "i1\n", 1_700_000_000),
    ("u1", "i\x1a1", 1_700_000_000),
    ("u1", "i1", None),
    ("u1", "i1", -1),
    ("u1", "i1", 1_700_000_000_000),
    *(("robot", f"i{n % 7}", 1_600_000_000 + n // 3) for n in range(300)),
]


@pytest.fixture(scope="module")
def dirty_shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dirty")
    mapping = synthetic.generate(output=folder, users=60, items=300, seed=3)
    columns = zip(("user_id", "item_id", "timestamp"), zip(*DIRTY, strict=True), strict=True)
    pq.write_table(pa.table(dict(columns)), folder / "dirty.parquet")
    content = json.loads(mapping.read_text())
    content["events"]["files"].append("dirty.parquet")
    mapping.write_text(json.dumps(content))
    return mapping


def test_the_yardstick_writes_the_same_files(dirty_shop, tmp_path):
    settings = {"max_events_per_user": 100, "max_items": 150, "max_words": 50, "shards": 3}
    settings |= {"max_title_tokens": 4, "max_dead_share": 0.1, "max_categories": 40}
    ours = build_dataset(mapping_file=dirty_shop, output=tmp_path / "ours", **settings)
    read = pipeline_polars.build(
        mapping_file=dirty_shop, output=tmp_path / "plain", settings=Settings(**settings)
    )
    for name in (*schema.VOCABULARY_FILES.values(), *(s["file"] for s in ours.counters["shards"])):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()
    items = [pq.read_table(tmp_path / each / "items.parquet") for each in ("ours", "plain")]
    assert items[0].to_pylist() == items[1].select(items[0].column_names).to_pylist()
    counters = json.loads((tmp_path / "plain" / "counters.json").read_text())
    rows = ours.counters["rows"]
    assert read == counters["read"] == rows["read"]
    assert counters["kept"] == rows["kept"]
    assert counters["dead"] == rows["dead"]
    assert sum(rows["dead"].values()) == 8
    assert counters["written"] == ours.counters["events"]["written"]
    assert ours.counters["events"]["capped"] >= 200  # the robot's, at least
    vocabularies = json.loads((tmp_path / "plain" / "schema.json").read_text())
    made = json.loads((tmp_path / "ours" / "schema.json").read_text())
    assert vocabularies == {name: made[name] for name in vocabularies}


def test_a_run_counts_the_memory_of_children():
    """A parent that sleeps beside a child of 200 MB."""
    child = "import time; held = bytes([1]) * (200 << 20); time.sleep(1)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{child}'], check=True)"
    measured = pipeline.run([sys.executable, "-c", code])
    assert 200 < measured.peak_rss_mb < 300
    assert measured.seconds > measured.cpu_seconds > 0


def test_the_log_of_the_benchmark_has_a_robot_and_its_share(tmp_path):
    mapping = pipeline.make_log(tmp_path, events=20_000, seed=1)
    robot = pq.read_table(tmp_path / "robot.parquet")
    assert robot.num_rows == 200
    assert json.loads(mapping.read_text())["events"]["files"] == ["events.parquet", "robot.parquet"]
    events = pq.read_metadata(tmp_path / "events.parquet").num_rows + robot.num_rows
    assert abs(events - 20_000) < 4_000  # 380 users of a long-tailed distribution
