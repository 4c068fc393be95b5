"""The same data set made by one process with no Beam, no partitions and no chunks.

It composes the pure functions directly and holds the whole log in memory: the reference that the
pipelines are tested against, and a way to make records of a small log in a notebook.
"""

import dataclasses
import functools
import pathlib
from typing import Any

import pyarrow as pa

from beam_pipelines import sequences, stages, vocabulary
from beam_pipelines.events import mapped_columns, validate_events
from beam_pipelines.examples import encode_examples
from beam_pipelines.readers import read_batches
from beam_pipelines.settings import Settings
from beam_pipelines.sources import find_files, find_sources
from beam_pipelines.tables import read_tables
from guim_tf.mapping import Mapping
from guim_tf.strict_json import load


@dataclasses.dataclass(frozen=True)
class Records:
    """Serialized examples by user id, and who is in the validation split."""

    examples: dict[str, bytes]
    validation: frozenset[str]


def make_records(
    *, mapping_file: str | pathlib.Path, folder: str | pathlib.Path, **settings: Any
) -> Records:
    """Records of a log; `folder` gets the catalogue, the vocabularies and the dead letters."""
    chosen = Settings(**settings)
    mapping = load(Mapping, mapping_file)
    base, folder = pathlib.Path(mapping_file).resolve().parent, pathlib.Path(folder)
    columns, ids = mapped_columns(mapping.events)
    parts, attributes = [], [vocabulary.ATTRIBUTES.empty_table()]
    files = find_files(mapping.events.files, base=base)
    for source in find_sources(files, columns, ids=ids):
        for raw in read_batches(source, columns, ids=ids):
            valid = validate_events(raw, mapping.events)
            part = sequences.make_events(valid.table, valid.rows, file_index=source.index)
            parts.append(part)
            attributes.append(vocabulary.make_attributes(valid.table, part["order"].to_numpy()))
    events = sequences.compact(
        sequences.concatenate(parts), max_events=chosen.max_events_per_user
    ).events
    as_of = chosen.as_of
    if as_of is None:
        last = events["timestamp"].to_numpy().max()
        as_of = stages.as_of_after(int(last), chosen.holdout_days)
    items, _ = read_tables(mapping, base=base, folder=folder)
    catalogue = vocabulary.join_catalogue(
        vocabulary.count_items(events, as_of=as_of),
        attributes=functools.reduce(
            lambda a, b: vocabulary.latest(pa.concat_tables([a, b])), attributes
        ),
        item_table=items.rows if items else None,
    )
    vocabulary.write_catalogue(catalogue, folder=folder, limits=chosen.limits)
    item_ids, rows = vocabulary.load_catalogue(folder)
    actions = tuple(vocabulary.actions_before(events, as_of=as_of))
    examples: dict[str, bytes] = {}
    for users in stages.user_batches(events, item_ids, actions):
        examples |= dict(zip(users.user_ids, encode_examples(users, rows), strict=True))
    held = sequences.in_validation(list(examples), share=chosen.validation_share)
    return Records(
        examples, frozenset(user for user, is_held in zip(examples, held, strict=True) if is_held)
    )
