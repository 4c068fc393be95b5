"""guim build-dataset: a raw log -> TFRecords, vocabularies, catalogue, schema and counters.

The job runs in two pipelines with the vocabularies between them. The first scans the sources,
spills events by user partition, and merges and counts each partition; the second writes each
shard's records. All of it happens in a hidden folder that takes the final name at the end.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.options.pipeline_options import PipelineOptions

from beam_pipelines import counters as accounts
from beam_pipelines import progress, stages, vocabulary
from beam_pipelines.counters import Counters
from beam_pipelines.errors import InputError
from beam_pipelines.events import Window, mapped_columns
from beam_pipelines.files import read_arrow
from beam_pipelines.history import (
    History,
    attributes_of,
    parse_day,
    refuse_earlier,
    refuse_replacing,
    sequences_of,
)
from beam_pipelines.output import new_folder
from beam_pipelines.readers import Source
from beam_pipelines.runner import make_options, pipeline
from beam_pipelines.settings import Settings, add_arguments, from_arguments
from beam_pipelines.sources import check_columns, estimate_rows, find_files, find_sources
from beam_pipelines.summary import print_summary
from beam_pipelines.tables import Table, read_tables
from guim_tf import schema
from guim_tf.mapping import Mapping
from guim_tf.strict_json import load


@dataclasses.dataclass(frozen=True)
class BuildResult:
    """A finished data set folder and the content of its `counters.json`."""

    output: pathlib.Path
    counters: Counters


def build_dataset(
    *,
    mapping_file: str | pathlib.Path,
    output: str | pathlib.Path,
    append: Window | None = None,
    pipeline_options: Sequence[str] = (),
    **settings: Any,
) -> BuildResult:
    """Builds a data set folder from a log, or adds a day of the log to one.

    Args:
      mapping_file: JSON that says which columns of which files hold what (`Mapping`).
      output: the folder; an older data set of that name is replaced when this one is complete,
        unless it was made of days that were added.
      append: the day that is added to `output`, or that begins it; no row of an older vocabulary
        changes its meaning. The item and label tables are those of the mapping, read anew.
      pipeline_options: Beam's own flags; the runner is `FnApiRunner` unless they name one.
      **settings: fields of `Settings`.

    Raises:
      ValueError: bad settings or input: a missing file or column, an empty log, too many dead
        letters (which then stay in `.<name>.failed` beside the output), a day that can't be added.
    """
    chosen = Settings(**settings)
    options = make_options(pipeline_options)
    mapping = load(Mapping, mapping_file)
    base, output = pathlib.Path(mapping_file).resolve().parent, pathlib.Path(output).resolve()
    sources = _check_input(mapping, base)
    with new_folder(output, is_ours=lambda path: (path / schema.SCHEMA_FILE).is_file()) as folder:
        job = _prepare(folder, mapping, sources, chosen, append, output)
        job.plan.work.mkdir()
        counters = _build(job, mapping, base, options)
        shutil.rmtree(job.plan.work)
        for part in folder.rglob("*.part"):  # of a worker that was killed
            part.unlink()
    return BuildResult(output, counters)


@dataclasses.dataclass(frozen=True)
class _Job:
    """What is built from what. `past` is an older data set, `history` that of the new one."""

    plan: stages.Plan
    sources: list[Source]
    settings: Settings
    output: pathlib.Path
    past: pathlib.Path | None
    history: History | None


def _check_input(mapping: Mapping, base: pathlib.Path) -> list[Source]:
    """The event sources; raises before anything runs when a file or mapped column is missing."""
    for table in (mapping.labels, mapping.items):
        if table is not None:
            columns, ids = mapped_columns(table)
            for path in find_files(table.files, base=base):
                check_columns(path, columns, ids=ids)
    columns, ids = mapped_columns(mapping.events)
    return find_sources(find_files(mapping.events.files, base=base), columns, ids=ids)


def _prepare(
    folder: pathlib.Path,
    mapping: Mapping,
    sources: list[Source],
    chosen: Settings,
    append: Window | None,
    output: pathlib.Path,
) -> _Job:
    past, history, rows = None, None, estimate_rows(sources)
    before = History()
    if append is None:
        refuse_replacing(output)
    else:
        before = History.load(output)
        files = len({source.index for source in sources})
        history = before.add(append.name, files=files, settings=chosen)
    if before.days:
        past = output
        rows += accounts.read(output)["events"]["written"]
        for letters in (output / schema.DEAD_LETTERS).glob("events-*"):
            (folder / schema.DEAD_LETTERS).mkdir(exist_ok=True)
            shutil.copy(letters, folder / schema.DEAD_LETTERS)
    plan = stages.Plan(
        folder=folder,
        events=mapping.events,
        shards=chosen.shards,
        partitions_per_shard=stages.partitions_per_shard(rows, shards=chosen.shards),
        max_events_per_user=chosen.max_events_per_user,
        validation_share=chosen.validation_share,
        compression=chosen.compression,
        as_of=chosen.as_of,
        holdout_days=chosen.holdout_days,
        window=append,
        first_file=before.files,
        rows_before=before.rows_before(),
        letters="events" if append is None else f"events-{append.name}",
    )
    return _Job(plan, sources, chosen, output, past, history)


def _build(job: _Job, mapping: Mapping, base: pathlib.Path, options: PipelineOptions) -> Counters:
    plan, chosen = job.plan, job.settings
    inputs = [*job.sources, *(sequences_of(job.past) if job.past else ())]
    with progress.stage("read and validate", folder=plan.progress("read"), unit="rows"):
        read_and_group(inputs, plan=plan, options=options)
    items, labels = read_tables(mapping, base=base, folder=plan.folder)
    counters = _count_rows(job, items, labels)
    if plan.window is not None:
        accounts.refuse_broken(counters, plan.folder, job.output)
    accounts.refuse_dead(counters, chosen.max_dead_share, plan.folder, job.output)
    del counters[accounts.ROWS_OF_DAY]
    merges = _read_json(plan, "merge")
    if job.past is not None:
        before = accounts.read(job.past)
        counted = {name: before[name] for name in ("files", "rows")}
        counted["events"] = {name: before["events"][name] for name in ("kept", "capped")}
        counters |= accounts.add(counted, {name: counters[name] for name in counted})
    accounts.refuse_empty(counters)

    first = min(merge["first"] for merge in merges if merge["events"])
    last = max(merge["last"] for merge in merges)
    as_of = plan.cut_off(last)
    if job.past is not None:
        refuse_earlier(job.past, as_of)
    if first >= as_of:
        raise InputError(
            f"No event is before the cut-off {as_of} (the first is at {first}, the last at "
            f"{last}): nothing is left to learn from. Give a lower --holdout-days or a "
            "later --as-of."
        )
    with progress.stage("vocabularies", folder=plan.progress("vocabulary"), unit="items"):
        catalogue, vocabularies = _write_catalogue(job, items)
    actions = _actions(job)
    with progress.stage("write records", folder=plan.progress("write"), unit="events"):
        write_records(plan=plan, actions=actions, options=options)
    written = _read_json(plan, "encode")

    made = schema.Schema(
        items=vocabularies.items,
        categories=vocabularies.categories,
        words=vocabularies.words,
        word_hash_rows=chosen.word_hash_rows,
        max_title_tokens=chosen.max_title_tokens,
        tokenizer=vocabularies.tokenizer,
        actions=actions,
        first_timestamp=first,
        last_timestamp=last,
        as_of=as_of,
        compression=chosen.compression,
    )
    counters["events"] |= {
        "duplicates": sum(merge["duplicates"] for merge in merges),
        "capped": counters["events"]["capped"] + sum(merge["capped"] for merge in merges),
        "written": sum(each["written"] for each in written),
    }
    shards = sorted(
        (shard for each in written for shard in each["shards"]), key=lambda shard: shard["file"]
    )
    counters |= {
        "users": {
            split: sum(s["records"] for s in shards if s["file"].startswith(split + "/"))
            for split in (schema.TRAIN, schema.VALIDATION)
        },
        "items": catalogue.num_rows,
        "vocabularies": {
            name: getattr(vocabularies, name).size for name in ("items", "categories", "words")
        },
        "word_count_error": vocabularies.word_count_error,
        "time": {"first": first, "last": last, "as_of": as_of},
        "shards": shards,
    }
    accounts.check_counters(counters, users=sum(merge["users"] for merge in merges))
    if labels is not None:
        pq.write_table(labels.rows, plan.folder / schema.LABELS_FILE)
    accounts.write(plan.folder, counters)
    if job.history is not None:
        scans = ((each["path"], each["last_row"]) for each in _read_json(plan, "scan"))
        job.history.after(scans).save(plan, _attributes(job))
    made.save(plan.folder)
    return counters


# ------------------------------------------------------------------------------- pipelines


def read_and_group(
    inputs: Sequence[Source | stages.PastSequences], *, plan: stages.Plan, options: PipelineOptions
) -> None:
    """First pipeline: sources -> compacted sequences and item counts, a file a partition."""
    with pipeline(options) as p:
        _ = (
            p
            | "Sources" >> beam.Create(list(enumerate(inputs)))
            | "Spread" >> beam.Reshuffle()
            | "Scan" >> beam.FlatMap(stages.scan, plan=plan)
            | "GroupByPartition" >> beam.GroupByKey()
            | "Merge" >> beam.Map(stages.merge_partition, plan=plan)
        )


def write_records(*, plan: stages.Plan, actions: tuple[str, ...], options: PipelineOptions) -> None:
    """Second pipeline: sequences -> TFRecords, a file of each split a shard."""
    with pipeline(options) as p:
        _ = (
            p
            | "Shards" >> beam.Create(list(range(plan.shards)))
            | "Spread" >> beam.Reshuffle()
            | "Encode" >> beam.Map(stages.encode_shard, plan=plan, actions=actions)
        )


# ------------------------------------------------------------------------------- between them


def _write_catalogue(job: _Job, items: Table | None) -> tuple[pa.Table, vocabulary.Vocabularies]:
    plan = job.plan
    counts = functools.reduce(
        lambda a, b: vocabulary.add_counts([a, b]),
        (
            read_arrow(plan.work / f"counts-{partition:05d}.arrow")
            for partition in range(plan.partitions)
        ),
    )
    catalogue = vocabulary.join_catalogue(
        counts, attributes=_attributes(job), item_table=items.rows if items else None
    )
    progress.report(plan.progress("vocabulary"), "0", catalogue.num_rows)
    made = vocabulary.write_catalogue(
        catalogue,
        folder=plan.folder,
        limits=job.settings.limits,
        past=_past_vocabularies(job),
    )
    return catalogue, made


def _past_vocabularies(job: _Job) -> vocabulary.PastTokens | None:
    if job.history is None:
        return None
    return vocabulary.PastTokens.load(job.past) if job.past else vocabulary.PastTokens()


def _attributes(job: _Job) -> pa.Table:
    """The latest attributes of all items of the log and of the days before."""
    tables = (read_arrow(path) for path in sorted(job.plan.work.glob("attributes-*.arrow")))
    return functools.reduce(
        lambda a, b: vocabulary.latest(pa.concat_tables([a, b])),
        tables,
        attributes_of(job.past) if job.past else vocabulary.ATTRIBUTES.empty_table(),
    )


def _actions(job: _Job) -> tuple[str, ...]:
    """The action types before the cut-off, behind those that have a row already."""
    old = schema.Schema.load(job.past).actions if job.past else ()
    found = {action for each in _read_json(job.plan, "actions") for action in each["actions"]}
    return (*old, *sorted(found - set(old)))


def _read_json(plan: stages.Plan, name: str) -> list[dict[str, Any]]:
    return [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(plan.work.glob(f"{name}-*.json"))
    ]


def _count_rows(job: _Job, items: Table | None, labels: Table | None) -> Counters:
    """What the rows of the log and of the tables became.

    Raises:
      RuntimeError: a source was not scanned: the runner has lost an element.
    """
    scans = _read_json(job.plan, "scan")
    if len(scans) != len(job.sources):
        raise RuntimeError(
            f"{len(scans)} of {len(job.sources)} sources were scanned, so rows were lost: the "
            "runner drops elements. Use another one, or the default."
        )
    filters = [each.reason for each in job.plan.events.filters]
    counters = accounts.count_rows(scans, filters=filters)
    return counters | {
        name: table.counters
        for name, table in (("item_rows", items), ("label_rows", labels))
        if table is not None
    }


# ------------------------------------------------------------------------------- command line

EXAMPLES = """examples:
  guim build-dataset --mapping data/online_retail/mapping.json --output datasets/online_retail
  guim build-dataset --mapping m.json --output ds --as-of 2011-11-10 --shards 16 --compression GZIP
  guim build-dataset --mapping m.json --output ds --append day=2011-11-10
  guim build-dataset --mapping m.json --output ds --direct_running_mode=multi_processing \\
      --direct_num_workers=8

Other flags are Beam's own (--runner ...). Every file must be visible to all workers.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 2 with one line on stderr when the input or the settings are wrong."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # keeps the terminal for the progress
    parser = argparse.ArgumentParser(
        prog="guim build-dataset",
        description="Turn a raw log into TFRecords, vocabularies, a catalogue and a schema.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--mapping", required=True, help="the mapping file (JSON) of the log")
    parser.add_argument("--output", required=True, help="the data set folder to write")
    parser.add_argument(
        "--append",
        type=parse_day,
        metavar="day=DATE",
        help="add the events of this day (UTC) to the data set, which may not exist yet",
    )
    add_arguments(parser)
    arguments, beam_flags = parser.parse_known_args(argv)
    try:
        result = build_dataset(
            mapping_file=arguments.mapping,
            output=arguments.output,
            append=arguments.append,
            pipeline_options=beam_flags,
            **dataclasses.asdict(from_arguments(arguments)),
        )
    except (ValueError, OSError) as e:
        print(f"guim build-dataset: {e}", file=sys.stderr)
        return 2
    print_summary(result.output, result.counters)
    return 0


if __name__ == "__main__":
    sys.exit(main())
