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

_EXAMPLES = """\
examples:
  guim evaluate --dataset dataset --models saved_models --run runs/demo --output report
  guim evaluate --dataset dataset --output report                  (baselines only)
  guim evaluate --dataset dataset --models saved_models --as-of 2011-11-20 --output report

writes OUTPUT/report.json and OUTPUT/report.html, and prints the table.
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
) -> EvalReport:
    """Evaluates exported encoders and the baselines on the consumer matching tasks.

    Args:
      dataset: what `guim build-dataset` wrote.
      models: folder with `user_encoder` and `item_encoder`; None evaluates the baselines only.
      output: folder for `report.json` and `report.html`.
      run: what `guim train` wrote, for the training curves.
      as_of: the evaluation moment, seconds since the epoch; the data set's own by default. With
        models not before it: they have seen what came before.
      baselines: whether to evaluate the baselines.
      seed: draws the users that the page shows.

    Raises:
      ValueError: the input is missing, damaged or doesn't fit together; nothing is written.
    """
    # TensorFlow and matplotlib load here, so that `--help` does not wait for them.
    from guim_tf.evaluation import baselines as known_baselines
    from guim_tf.evaluation.curves import read_curves
    from guim_tf.evaluation.document import Method, to_document
    from guim_tf.evaluation.examples import draw_examples
    from guim_tf.evaluation.interests import describe_interests
    from guim_tf.evaluation.protocol import date, load_protocol
    from guim_tf.evaluation.report import render_page, write_report
    from guim_tf.evaluation.tasks import measure, rank, truths
    from guim_tf.evaluation.vectors import encode, rank_vectors

    if models is None and not baselines:
        raise ValueError("models is None and baselines is False: there is nothing to evaluate.")
    curves = None if run is None else read_curves(run)
    protocol = load_protocol(dataset, as_of=as_of)
    if models is not None and protocol.as_of < protocol.schema.as_of:
        raise ValueError(
            f"as_of is {date(protocol.as_of)}, but the models' vocabularies and training have "
            f"seen what came before {date(protocol.schema.as_of)}; expected that or later. Build "
            "the data set and train with the earlier --as-of instead."
        )
    methods: list[Method] = []
    examples = []
    used: tuple[pathlib.Path, ...] = ()
    if models is not None:
        vectors = encode(models, protocol)
        ranked, winners = rank_vectors(vectors)
        interests = describe_interests(
            user_embedding=vectors.user_embedding,
            item_embedding=vectors.item_embedding,
            winners=winners,
            truth=truths(protocol)["CMP-L"],
        )
        definition = (
            f"Exact search: the highest cosine of a user's {vectors.interests} interest vectors "
            "with an item's vector (Eq. 3)."
        )
        name = f"GUIM, C = {vectors.interests}"
        methods.append(Method(name, definition, measure(protocol, ranked), interests))
        examples = draw_examples(protocol, vectors, seed=seed)
        used = vectors.models
    notes: list[str] = []
    if baselines:
        found, notes = known_baselines.baselines(protocol)
        for baseline in found:
            ranked = rank(baseline.score, users=len(protocol), items=len(protocol.catalogue))
            measured = measure(protocol, ranked)
            methods.append(Method(baseline.name, baseline.definition, measured))
    document = to_document(
        dataset=dataset,
        protocol=protocol,
        methods=methods,
        notes=notes,
        models=used,
        run=run,
        seed=seed,
    )
    page = render_page(document, curves=curves, examples=examples)
    return write_report(output, document=document, page=page)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `evaluate` from the command line; 2 and one line on stderr for bad input."""
    parser = argparse.ArgumentParser(
        prog="guim evaluate",
        description="Measures user and item vectors on CMP-L, CMP-S and CMP-N by full ranking.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, help="folder of `guim build-dataset`")
    parser.add_argument("--models", help="folder of `guim export`; without it baselines only")
    parser.add_argument("--output", required=True, help="folder to write the report into")
    parser.add_argument("--run", help="folder of `guim train`, for the training curves")
    parser.add_argument(
        "--as-of", help="evaluation moment: seconds or ISO time, UTC unless it names a zone"
    )
    parser.add_argument("--no-baselines", action="store_true", help="models only")
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

    from guim_tf.evaluation.report import terminal_table
    from guim_tf.evaluation.tables import number, signed

    console = rich.console.Console()
    console.print(terminal_table(report.document))
    for line in report.document["comparisons"]:
        difference = line["difference"]
        if difference["half_width"] is not None:
            console.print(
                f"{line['task']} {line['metric']}: {signed(difference['mean'])} ± "
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
