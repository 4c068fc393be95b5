"""`guim benchmark`: a suite and a data set in, one comparison out; the same command continues."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guim_tf.benchmark.cells import Cell, GivenCell
    from guim_tf.benchmark.suite import Suite

JSON_FILE, MARKDOWN_FILE, HTML_FILE = "results.json", "results.md", "index.html"
DATASET_FILE = "dataset.json"  # which build of which data set the results are of

_EXAMPLES = """\
examples:
  guim benchmark --suite benchmarks/suites/shop_interests.json --dataset dataset --output bench
  guim benchmark --suite suite.json --dataset dataset --output bench --only C1 C4

The same command again continues where an earlier one stopped; a configuration that has changed in
the suite is trained anew, files of vectors that have changed are scored anew. Deleting
OUTPUT/reports and OUTPUT/baselines evaluates again, without training.
Writes OUTPUT/results.json, results.md and index.html, and under runs/, models/ and reports/ what
`guim train`, `guim export` and `guim evaluate` write, in NAME/SEED each; of a configuration with n
members in NAME/SEEDxn, its trainings by their own seeds unless another configuration has them.
"""


class BenchmarkError(ValueError):
    """A suite can't be run as asked."""


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """What came of a suite: the content of `results.json`, and where everything was written.

    `failed` has the error of each run that could not be finished, as "NAME seed S" -> message.
    """

    document: dict[str, Any]
    json_path: pathlib.Path
    markdown_path: pathlib.Path
    html_path: pathlib.Path
    failed: dict[str, str]


def benchmark(
    *,
    suite: str | pathlib.Path,
    dataset: str | pathlib.Path,
    output: str | pathlib.Path,
    only: Sequence[str] = (),
    progress: bool = True,
) -> BenchmarkResult:
    """Trains, exports and evaluates every configuration with every seed, and compares them.

    Vectors made elsewhere that the suite names are evaluated and compared with them.

    What an earlier call has finished is kept. A run that fails is left out of the comparison and
    named in it; the others go on.

    Args:
      suite: a file in the form of `guim_tf.benchmark.suite.Suite`.
      dataset: what `guim build-dataset` wrote.
      output: folder for everything.
      only: names of the configurations to run; the comparison has all that are finished.
      progress: shows each step, and training's own progress.

    Raises:
      ConfigError: the suite file is broken.
      BenchmarkError: a name of `only` is unknown, the output belongs to another data set, or
        nothing could be finished.
      ValueError: the data set is missing or damaged.
    """
    # TensorFlow and matplotlib load here, so that `--help` does not wait for them.
    from guim_tf.benchmark.cells import cells, measured, read_json
    from guim_tf.benchmark.page import render_page
    from guim_tf.benchmark.suite import load_suite
    from guim_tf.benchmark.tables import markdown
    from guim_tf.evaluation import evaluate
    from guim_tf.runs import write_whole

    loaded, folder = load_suite(suite), pathlib.Path(output)
    if unknown := sorted(set(only) - set(loaded.names)):
        raise BenchmarkError(
            f"only is {unknown[0]!r}, expected one of the suite's names: {loaded.names}."
        )
    _claim(folder, dataset)
    say = _Speaker(shown=progress)
    baselines = folder / "baselines" / "report.json"
    if not measured(baselines.parent, exclude_seen=loaded.exclude_seen):
        say("baselines")
        evaluate(
            dataset=dataset,
            models=None,
            output=baselines.parent,
            exclude_seen=loaded.exclude_seen,
        )

    command = ["guim", "benchmark", "--suite", suite, "--dataset", dataset, "--output", output]
    every = cells(loaded, folder, folder=pathlib.Path(suite).parent)
    chosen = [cell for cell in every if not only or cell.name in only]
    failed: dict[str, str] = {}

    def compare() -> dict[str, Any]:
        document = _document(
            loaded,
            every,
            failed,
            baselines=read_json(baselines),
            command=shlex.join(map(str, command)),
            folder=folder,
        )
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        write_whole(folder / JSON_FILE, text)
        write_whole(folder / MARKDOWN_FILE, markdown(document))
        return document

    for i, cell in enumerate(chosen):
        title = f"{i + 1}/{len(chosen)} {cell.name} seed {cell.seed}"
        if cell.evaluated:
            say(f"{title}: finished before")
            continue
        try:
            cell.finish(dataset=dataset, say=say.about(title), progress=progress)
        except ValueError as e:
            failed[f"{cell.name} seed {cell.seed}"] = " ".join(str(e).split())
            say(f"{title}: FAILED, {e}")
            continue
        compare()  # a suite takes hours: what is known can be read while the rest runs
    if not any(cell.evaluated for cell in every):
        raise BenchmarkError(f"no run could be finished: {next(iter(failed.values()))}")
    document = compare()
    say("drawing the page")
    write_whole(folder / HTML_FILE, render_page(document, dataset=dataset, output=folder))
    say("done")
    return BenchmarkResult(
        document, folder / JSON_FILE, folder / MARKDOWN_FILE, folder / HTML_FILE, failed
    )


def _claim(folder: pathlib.Path, dataset: str | pathlib.Path) -> None:
    """Marks the output with digests of what tells a data set from another build of it, or checks
    that it has that mark."""
    from guim_tf.runs import write_whole
    from guim_tf.schema import COUNTERS_FILE, LABELS_FILE, SCHEMA_FILE, Schema

    Schema.load(dataset)  # says what is wrong with a folder that is no data set
    files = [pathlib.Path(dataset, x) for x in (SCHEMA_FILE, COUNTERS_FILE, LABELS_FILE)]
    mine = {x.name: hashlib.sha256(x.read_bytes()).hexdigest() for x in files if x.is_file()}
    mark = folder / DATASET_FILE
    if mark.is_file():
        if json.loads(mark.read_text(encoding="utf-8")) != mine:
            raise BenchmarkError(
                f"{folder} holds results of another data set than {dataset}, or of an earlier "
                "build of it. Choose another --output, or remove that folder."
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise BenchmarkError(
            f"{folder} is not empty and not of a benchmark, or of one of an earlier version. "
            "Choose another one."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(mark, json.dumps(mine, indent=1) + "\n")


def _document(
    suite: Suite,
    every: Sequence[Cell | GivenCell],
    failed: dict[str, str],
    *,
    baselines: dict[str, Any],
    command: str,
    folder: pathlib.Path,
) -> dict[str, Any]:
    from guim_tf.benchmark.cells import read_json
    from guim_tf.benchmark.results import Finished, to_document

    finished: dict[str, list[Finished]] = {}
    for cell in every:
        if cell.evaluated:
            page = (cell.report / "report.html").relative_to(folder).as_posix()
            run = Finished(cell.seed, cell.training, read_json(cell.report / "report.json"), page)
            finished.setdefault(cell.name, []).append(run)
    missing = [f"{cell.name} seed {cell.seed}" for cell in every if not cell.evaluated]
    notes = [f"{name} failed: {message}" for name, message in failed.items()]
    if waiting := [name for name in missing if name not in failed]:
        notes.append(f"Not finished yet: {', '.join(waiting)}.")
    return to_document(
        suite=suite, finished=finished, baselines=baselines, command=command, notes=notes
    )


class _Speaker:
    """Progress lines on stderr, each with the time since the start."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._started = time.monotonic()

    def __call__(self, text: str) -> None:
        if self._shown:
            elapsed = datetime.timedelta(seconds=int(time.monotonic() - self._started))
            print(f"[{elapsed}] {text}", file=sys.stderr, flush=True)

    def about(self, title: str) -> Callable[[str], None]:
        """The same, each line after a title."""
        return lambda text: self(f"{title}: {text}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `benchmark` from the command line.

    Returns:
      0; 1 when a run has failed and the others are compared; 2 for bad input; 130 on interrupt,
      143 on SIGTERM.
    """
    parser = argparse.ArgumentParser(
        prog="guim benchmark",
        description="Trains and evaluates many configurations over many seeds, and compares them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--suite", required=True, help="JSON file: configurations and seeds")
    parser.add_argument("--dataset", required=True, help="folder of `guim build-dataset`")
    parser.add_argument("--output", required=True, help="folder for everything; continued if there")
    parser.add_argument(
        "--only", nargs="+", action="extend", default=[], metavar="NAME", help="run these only"
    )
    arguments = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow loads
    try:
        result = benchmark(**vars(arguments))
    except (ValueError, OSError) as e:
        print("guim benchmark: " + " ".join(str(e).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt as e:  # or `Terminated`, whose module would load TensorFlow
        print("\nguim benchmark: interrupted. The same command continues.", file=sys.stderr)
        return getattr(e, "status", 130)
    print(result.markdown_path.read_text(encoding="utf-8"))
    print(f"{result.json_path}\n{result.markdown_path}\n{result.html_path}")
    for name, message in result.failed.items():
        print(f"guim benchmark: {name} failed: {message}", file=sys.stderr)
    return 1 if result.failed else 0
