"""guim build-dataset: a raw log -> TFRecords, vocabularies, catalogue, schema and counters.

The job runs in two pipelines with the vocabularies between them. The first scans the sources,
spills events by user partition, and merges and counts each partition; the second writes each
partition's records. All of it happens in a hidden folder that takes the final name at the end.
"""

import argparse
import collections
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

from beam_pipelines import progress, stages, vocabulary
from beam_pipelines.errors import InputError
from beam_pipelines.events import mapped_columns
from beam_pipelines.output import KeepFailed, failed_folder, new_folder
from beam_pipelines.readers import Source, check_columns, find_files, find_sources
from beam_pipelines.runner import make_options
from beam_pipelines.settings import Settings, add_arguments, from_arguments
from beam_pipelines.summary import print_summary
from beam_pipelines.tables import Table, read_tables
from guim_tf import schema
from guim_tf.mapping import Mapping
from guim_tf.strict_json import load

Counters = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class BuildResult:
    """A finished data set folder and the content of its `counters.json`."""

    output: pathlib.Path
    counters: Counters


def build_dataset(
    *,
    mapping_file: str | pathlib.Path,
    output: str | pathlib.Path,
    pipeline_options: Sequence[str] = (),
    **settings: Any,
) -> BuildResult:
    """Builds a data set folder from a log.

    Args:
      mapping_file: JSON that says which columns of which files hold what (`Mapping`).
      output: the folder; an older data set of that name is replaced when this one is complete.
      pipeline_options: Beam's own flags; the runner is `FnApiRunner` unless they name one.
      **settings: fields of `Settings`.

    Raises:
      ValueError: bad settings or input: a missing file or column, an empty log, too many dead
        letters (which then stay in `.<name>.failed` beside the output).
    """
    chosen = Settings(**settings)
    options = make_options(pipeline_options)
    mapping = load(Mapping, mapping_file)
    base, output = pathlib.Path(mapping_file).resolve().parent, pathlib.Path(output).resolve()
    files = _check_input(mapping, base)
    with new_folder(output, is_ours=lambda path: (path / schema.SCHEMA_FILE).is_file()) as folder:
        plan = stages.Plan(
            folder=folder,
            events=mapping.events,
            shards=chosen.shards,
            max_events_per_user=chosen.max_events_per_user,
            validation_share=chosen.validation_share,
            compression=chosen.compression,
        )
        plan.work.mkdir()
        counters = _build(plan, mapping, base, find_sources(files), chosen, options, output)
        shutil.rmtree(plan.work)
    return BuildResult(output, counters)


def _check_input(mapping: Mapping, base: pathlib.Path) -> list[str]:
    """The event files; raises before anything runs when a file or mapped column is missing."""
    for table in (mapping.labels, mapping.items, mapping.events):
        if table is not None:
            files = find_files(table.files, base=base)
            columns, ids = mapped_columns(table)
            check_columns(files, columns, ids=ids)
    return files


def _build(
    plan: stages.Plan,
    mapping: Mapping,
    base: pathlib.Path,
    sources: list[Source],
    chosen: Settings,
    options: PipelineOptions,
    output: pathlib.Path,
) -> Counters:
    with progress.stage("read and validate", folder=plan.progress("read"), unit="rows"):
        read_and_group(sources, plan=plan, settings=chosen, options=options)
    items, labels = read_tables(mapping, base=base, folder=plan.folder)
    counters, last = _count_rows(plan, len(sources), items, labels)
    _refuse_dead(counters, chosen.max_dead_share, plan.folder, output)

    merges = _read_json(plan, "merge")
    as_of = chosen.as_of
    if as_of is None:
        as_of = stages.as_of_after(last, chosen.holdout_days)
    first = min(merge["first"] for merge in merges if merge["events"])
    if first >= as_of:
        raise InputError(
            f"No event is before the cut-off {as_of} (the first is at {first}, the last at "
            f"{last}): nothing is left to learn from. Give a lower --holdout-days or a "
            "later --as-of."
        )
    with progress.stage("vocabularies", folder=plan.progress("vocabulary"), unit="items"):
        catalogue, vocabularies = _write_catalogue(plan, sources, items, chosen)
    actions = tuple(sorted({a for each in _read_json(plan, "actions") for a in each["actions"]}))
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
        "time": {"first": first, "last": last, "as_of": as_of},
        "shards": shards,
    }
    check_counters(counters, users=sum(merge["users"] for merge in merges))
    if labels is not None:
        pq.write_table(labels.rows, plan.folder / schema.LABELS_FILE)
    _write_counters(plan.folder, counters)
    made.save(plan.folder)
    return counters


# ------------------------------------------------------------------------------- pipelines


def read_and_group(
    sources: list[Source], *, plan: stages.Plan, settings: Settings, options: PipelineOptions
) -> None:
    """First pipeline: sources -> compacted sequences and item counts, a file a partition."""
    with beam.Pipeline(options=options) as p:
        merged = (
            p
            | "Sources" >> beam.Create(list(enumerate(sources)))
            | "Spread" >> beam.Reshuffle()
            | "Scan" >> beam.FlatMap(stages.scan_source, plan=plan)
            | "GroupByPartition" >> beam.GroupByKey()
            | "Merge" >> beam.Map(stages.merge_partition, plan=plan)
        )
        last = merged | "Times" >> beam.Values() | "Last" >> beam.CombineGlobally(stages.latest)
        _ = merged | "Count" >> beam.Map(
            stages.count_partition,
            last_timestamp=beam.pvalue.AsSingleton(last),
            plan=plan,
            as_of=settings.as_of,
            holdout_days=settings.holdout_days,
        )


def write_records(*, plan: stages.Plan, actions: tuple[str, ...], options: PipelineOptions) -> None:
    """Second pipeline: sequences -> TFRecords, a shard of each split a partition."""
    with beam.Pipeline(options=options) as p:
        _ = (
            p
            | "Partitions" >> beam.Create(list(range(plan.shards)))
            | "Spread" >> beam.Reshuffle()
            | "Encode" >> beam.Map(stages.encode_partition, plan=plan, actions=actions)
        )


# ------------------------------------------------------------------------------- between them


def _write_catalogue(
    plan: stages.Plan, sources: list[Source], items: Table | None, chosen: Settings
) -> tuple[pa.Table, vocabulary.Vocabularies]:
    counts = vocabulary.add_counts(
        [
            stages.read_arrow(plan.work / f"counts-{partition:05d}.arrow")
            for partition in range(plan.shards)
        ]
    )
    attributes = functools.reduce(
        lambda a, b: vocabulary.latest(pa.concat_tables([a, b])),
        (
            stages.read_arrow(plan.work / f"attributes-{number:05d}.arrow")
            for number in range(len(sources))
        ),
    )
    catalogue = vocabulary.join_catalogue(
        counts, attributes=attributes, item_table=items.rows if items else None
    )
    progress.report(plan.progress("vocabulary"), "0", catalogue.num_rows)
    made = vocabulary.write_catalogue(catalogue, folder=plan.folder, limits=chosen.limits)
    return catalogue, made


def _read_json(plan: stages.Plan, name: str) -> list[dict[str, Any]]:
    return [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(plan.work.glob(f"{name}-*.json"))
    ]


def _count_rows(
    plan: stages.Plan, sources: int, items: Table | None, labels: Table | None
) -> tuple[Counters, int]:
    """What the rows became, and the last timestamp; raises what a scan could not read."""
    scans = _read_json(plan, "scan")
    assert len(scans) == sources
    for scan in scans:
        if scan["error"]:
            raise InputError(scan["error"])
    rows: Counters = {"read": 0, "kept": 0}
    reasons: dict[str, collections.Counter[str]] = {
        "filtered": collections.Counter({each.reason: 0 for each in plan.events.filters}),
        "dead": collections.Counter(),
    }
    for scan in scans:
        for name in ("read", "kept"):
            rows[name] += scan[name]
        for name, counter in reasons.items():
            counter.update(scan[name])
    rows |= {name: dict(counter) for name, counter in reasons.items()}
    counters: Counters = {"rows": rows}
    counters |= {
        name: table.counters
        for name, table in (("item_rows", items), ("label_rows", labels))
        if table is not None
    }
    counters["events"] = {"kept": rows["kept"], "capped": sum(scan["capped"] for scan in scans)}
    return counters, max((scan["last"] for scan in scans), default=0)


def _refuse_dead(
    counters: Counters, max_dead_share: float, folder: pathlib.Path, output: pathlib.Path
) -> None:
    """Raises when too many rows are unusable, or none is left."""
    for name in ("rows", "item_rows", "label_rows"):
        rows = counters.get(name, {"read": 0, "dead": {}})
        dead = sum(rows["dead"].values())
        if dead > max_dead_share * rows["read"]:
            shutil.rmtree(folder / "work")
            _write_counters(folder, counters)
            reasons = ", ".join(f"{reason}: {count:,}" for reason, count in rows["dead"].items())
            raise KeepFailed(
                f"{dead:,} of {rows['read']:,} {name.replace('_', ' ')} are unusable "
                f"({dead / rows['read']:.2%}, more than max_dead_share = {max_dead_share:.2%}): "
                f"{reasons}. See them in {failed_folder(output) / schema.DEAD_LETTERS}, and mend "
                "the log or the mapping, or raise --max-dead-share."
            )
    if not counters["rows"]["kept"]:
        read = counters["rows"]["read"]
        raise InputError(
            f"The log holds no event: {read:,} rows read, "
            f"{sum(counters['rows']['filtered'].values()):,} filtered, "
            f"{sum(counters['rows']['dead'].values()):,} unusable. "
            "Check the files and the filters of the mapping."
        )


def check_counters(counters: Counters, *, users: int) -> None:
    """Raises `RuntimeError` when a row, an event or a user is not accounted for."""
    rows, events = counters["rows"], counters["events"]
    sums = {
        "rows read = kept + filtered + dead": (
            rows["read"],
            rows["kept"] + sum(rows["filtered"].values()) + sum(rows["dead"].values()),
        ),
        "events kept = duplicates + capped + written": (
            events["kept"],
            events["duplicates"] + events["capped"] + events["written"],
        ),
        "users = records": (users, sum(shard["records"] for shard in counters["shards"])),
    }
    wrong = [f"{name}: {a} != {b}" for name, (a, b) in sums.items() if a != b]
    if wrong:
        raise RuntimeError("The counters don't add up, so rows were lost: " + "; ".join(wrong))


def _write_counters(folder: pathlib.Path, counters: Counters) -> None:
    text = json.dumps(counters, indent=2, ensure_ascii=False) + "\n"
    (folder / schema.COUNTERS_FILE).write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------------- command line

EXAMPLES = """examples:
  guim build-dataset --mapping data/online_retail/mapping.json --output datasets/online_retail
  guim build-dataset --mapping m.json --output ds --as-of 2011-11-10 --shards 16 --compression GZIP
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
    add_arguments(parser)
    arguments, beam_flags = parser.parse_known_args(argv)
    try:
        result = build_dataset(
            mapping_file=arguments.mapping,
            output=arguments.output,
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
