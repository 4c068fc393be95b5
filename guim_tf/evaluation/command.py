"""`guim evaluate`: a data set and models in, a report out."""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from guim_tf.evaluation.report import EvalReport

CMP, CPP = "cmp", "cpp"
TASKS = (CMP, CPP)

_EXAMPLES = """\
examples:
  guim evaluate --dataset dataset --models saved_models --run runs/demo --output report
  guim evaluate --dataset dataset --output report                  (baselines only)
  guim evaluate --dataset dataset --models saved_models --as-of 2011-11-20 --output report
  guim evaluate --dataset dataset --user-vectors users.parquet --item-vectors items.parquet \\
      --output report                                              (anybody's vectors)
  guim evaluate --dataset dataset --models saved_models --tasks cpp --output report

Vectors are Parquet as `guim embed-users` and `guim embed-items` write it, or .npy: users [U, d]
or [U, C, d], items [X, d], with the ids of users.npy in users.ids.txt, one a line. What they have
seen can't be told from them: use a data set whose as-of is theirs.
writes OUTPUT/report.json and OUTPUT/report.html, and prints the tables.
"""


def evaluate(
    *,
    dataset: str | pathlib.Path,
    models: str | pathlib.Path | None,
    output: str | pathlib.Path,
    run: str | pathlib.Path | None = None,
    as_of: int | None = None,
    baselines: bool = True,
    seed: int = 0,
    user_vectors: str | pathlib.Path | None = None,
    item_vectors: str | pathlib.Path | None = None,
    score: str = "cosine",
    tasks: Sequence[str] | None = None,
    exclude_seen: bool = False,
) -> EvalReport:
    """Evaluates vectors and the baselines on consumer matching and consumer profile prediction.

    Args:
      dataset: what `guim build-dataset` wrote.
      models: folder with `user_encoder` and `item_encoder`; None evaluates what else is named.
      output: folder for `report.json` and `report.html`.
      run: what `guim train` wrote, for the training curves.
      as_of: the evaluation moment, seconds since the epoch; the data set's own by default. With
        models not before it: they have seen what came before.
      baselines: whether to evaluate the baselines.
      seed: draws the users that the page shows.
      user_vectors: a file of vectors from elsewhere, see `vector_files`.
      item_vectors: the same of items; needed for "cmp".
      score: how those vectors are compared, "cosine" or "dot".
      tasks: of "cmp" and "cpp"; by default "cmp", and "cpp" where the data set has labels.
      exclude_seen: leaves items of the history out of rankings, for leave-one-out comparisons.

    Raises:
      ValueError: the input is missing, damaged or doesn't fit together; nothing is written.
    """
    # TensorFlow and matplotlib load here, so that `--help` does not wait for them.
    from guim_tf.evaluation.curves import read_curves
    from guim_tf.evaluation.document import to_document
    from guim_tf.evaluation.examples import draw_examples
    from guim_tf.evaluation.matching import evaluate_matching
    from guim_tf.evaluation.population import has_labels, load_population
    from guim_tf.evaluation.profile import evaluate_profile
    from guim_tf.evaluation.protocol import load_protocol
    from guim_tf.evaluation.report import render_page, write_report
    from guim_tf.evaluation.sources import Given, Sources
    from guim_tf.schema import Schema

    schema = Schema.load(dataset)
    chosen = tuple(tasks) if tasks is not None else TASKS if has_labels(dataset) else (CMP,)
    if not chosen or set(chosen) - set(TASKS):
        raise ValueError(f"tasks is {tasks!r}, expected some of {', '.join(TASKS)}.")
    given = Given.of(user_vectors, item_vectors, score=score, needs_items=CMP in chosen)
    sources = Sources(models, given)
    sources.require_as_of(schema, as_of)
    if not baselines and not sources:
        raise ValueError("there is nothing to evaluate: no models, no vectors and no baselines.")
    curves = None if run is None else read_curves(run)
    notes: list[str] = []
    examples = []
    matching = profile = None
    if CMP in chosen:
        protocol = load_protocol(dataset, as_of=as_of)
        vectors = sources.vectors(protocol)
        measured = evaluate_matching(
            protocol, vectors, with_baselines=baselines, exclude_seen=exclude_seen
        )
        notes += [*protocol.notes, *measured.notes]
        matching = (protocol, measured.methods)
        for first in list(vectors.values())[:1]:
            examples = draw_examples(protocol, first, seed=seed)
    if CPP in chosen:
        population = load_population(dataset, as_of=as_of)
        features, missing = sources.features(population)
        predicted = evaluate_profile(population, features, with_baselines=baselines)
        notes += [*missing, *predicted.notes]
        profile = (population, predicted)
    document = to_document(
        dataset=dataset,
        schema=schema,
        matching=matching,
        profile=profile,
        notes=notes,
        models=sources.paths,
        run=run,
        seed=seed,
        exclude_seen=exclude_seen,
    )
    page = render_page(document, curves=curves, examples=examples)
    return write_report(output, document=document, page=page)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `evaluate` from the command line; 2 and one line on stderr for bad input."""
    parser = argparse.ArgumentParser(
        prog="guim evaluate",
        description="Measures user and item vectors: consumer matching (CMP-L, CMP-S, CMP-N) by "
        "full ranking, and consumer profile prediction (CPP) where there are labels.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, help="folder of `guim build-dataset`")
    parser.add_argument("--models", help="folder of `guim export`; without it vectors or baselines")
    parser.add_argument("--user-vectors", help="file of user vectors made elsewhere")
    parser.add_argument("--item-vectors", help="file of item vectors made elsewhere")
    parser.add_argument(
        "--score",
        choices=["cosine", "dot"],
        default="cosine",
        help="how those are compared (default: %(default)s)",
    )
    parser.add_argument("--output", required=True, help="folder to write the report into")
    parser.add_argument("--run", help="folder of `guim train`, for the training curves")
    parser.add_argument(
        "--as-of", help="evaluation moment: seconds or ISO time, UTC unless it names a zone"
    )
    parser.add_argument(
        "--tasks",
        help="comma-separated: cmp, cpp (default: cmp, and cpp where the data set has labels)",
    )
    parser.add_argument(
        "--exclude-seen",
        action="store_true",
        help="leave items of the history out of rankings, as published leave-one-out tables do",
    )
    parser.add_argument("--no-baselines", action="store_true", help="vectors only")
    parser.add_argument("--seed", type=int, default=0, help="draws the users that the page shows")
    arguments = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow loads
    try:
        report = evaluate(
            dataset=arguments.dataset,
            models=arguments.models,
            output=arguments.output,
            run=arguments.run,
            as_of=None if arguments.as_of is None else parse_moment(arguments.as_of),
            baselines=not arguments.no_baselines,
            seed=arguments.seed,
            user_vectors=arguments.user_vectors,
            item_vectors=arguments.item_vectors,
            score=arguments.score,
            tasks=None if arguments.tasks is None else arguments.tasks.split(","),
            exclude_seen=arguments.exclude_seen,
        )
    except (ValueError, OSError) as e:
        print("guim evaluate: " + " ".join(str(e).split()), file=sys.stderr)
        return 2
    _print(report)
    return 0


def parse_moment(text: str) -> int:
    """Seconds since the epoch of seconds or ISO text."""
    if text.isdecimal():
        return int(text)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as e:
        raise ValueError(
            f"--as-of is {text!r}, expected seconds since the epoch or ISO text such as 2011-11-10."
        ) from e
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return int(moment.timestamp())


def _print(report: EvalReport) -> None:
    import rich.console

    from guim_tf.evaluation.report import terminal_tables
    from guim_tf.evaluation.tables import metric_title, number, signed

    console = rich.console.Console()
    for table in terminal_tables(report.document):
        console.print(table)
    for line in report.document["comparisons"]:
        difference = line["difference"]
        metric = metric_title(report.document["protocol"], line["metric"])
        if difference["half_width"] is not None:
            console.print(
                f"{line['task']} {metric}: {signed(difference['mean'])} ± "
                f"{number(difference['half_width'])} for {line['model']} against "
                f"{line['baseline']}",
                highlight=False,
                soft_wrap=True,
            )
    for note in report.document["notes"]:
        console.print(note, highlight=False, soft_wrap=True)
    console.print(
        f"{report.json_path}\n{report.html_path}", highlight=False, markup=False, soft_wrap=True
    )
