"""A short form of the soak: one kill of the job that adds a day."""

import kill_pipeline

from beam_pipelines.build_dataset import build_dataset
from beam_pipelines.history import parse_day
from guim_tf.datasets import synthetic


def test_a_killed_job_leaves_the_old_or_the_whole_output(tmp_path):
    mapping = synthetic.generate(output=tmp_path / "input", users=500, items=300, seed=0)
    first, second = (f"day={day}" for day in kill_pipeline.DAYS)
    output = tmp_path / "days"
    build_dataset(mapping_file=mapping, output=output, append=parse_day(first), holdout_days=0)
    flags = ["--holdout-days", "0", "--append", second]
    line = kill_pipeline.kill_job(mapping, output, flags, kills=1, seed=1)
    assert line == {
        "benchmark": "kill_pipeline",
        "job": "append",
        "kills": 1,
        "torn_outputs": 0,
        "rerun_equal": True,
        "leftovers": 0,
    }


def test_a_digest_tells_names_and_contents(tmp_path):
    assert kill_pipeline.digest(tmp_path / "none") == ""
    found = set()
    for name, text in (("a", "1"), ("b", "1"), ("b", "2")):
        folder = tmp_path / f"{name}{text}"
        folder.mkdir()
        (folder / name).write_text(text)
        found.add(kill_pipeline.digest(folder))
    assert len(found) == 3
