"""guim embed-items, guim embed-users: an exported model over a data set -> a file of vectors.

Each worker loads the SavedModel once and writes chunks of rows as Parquet; the chunks become one
file that takes its name when it is complete. Rows keep the order of the catalogue or of the
shards. A job that was interrupted goes on with the chunks that are missing.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from apache_beam.ml.inference.base import RunInference

from beam_pipelines import progress
from beam_pipelines.errors import InputError
from beam_pipelines.inference import Chunk, Encoded, SavedModelHandler, check_signature
from beam_pipelines.output import new_file
from beam_pipelines.runner import make_options, pipeline
from beam_pipelines.settings import parse_time
from guim_tf import schema

CHUNK_BATCHES = 8  # batches in which rows are sorted by length, and written together
INTERESTS = b"interests"  # metadata of a file of user vectors: C, and d below
DIMENSION = b"dimension"


@dataclasses.dataclass(frozen=True)
class EmbedResult:
    """A Parquet file of ids and float32 vectors `[rows, interests * dimension]`."""

    output: pathlib.Path
    rows: int
    interests: int
    dimension: int


def embed_items(
    *,
    model: str | pathlib.Path,
    dataset: str | pathlib.Path,
    output: str | pathlib.Path,
    batch_size: int = 1024,
    pipeline_options: Sequence[str] = (),
) -> EmbedResult:
    """Vectors of all items of a data set's catalogue: columns `item_id`, `item_embedding`.

    Args:
      model: `saved_models/<name>/<version>`, or `saved_models/<name>` for its latest version;
        it needs the signature `encode_items`.
      dataset: the folder whose `items.parquet` is embedded.
      output: the Parquet file to write.
      batch_size: items a call of the model.
      pipeline_options: Beam's own flags.

    Raises:
      ValueError: the model or the data set is missing, or they don't fit each other.
    """
    dataset = pathlib.Path(dataset)
    path, _ = _matching_model(model, dataset)
    groups = pq.read_metadata(dataset / schema.ITEMS_FILE).num_row_groups
    inputs = [(str(dataset / schema.ITEMS_FILE), group) for group in range(groups)]
    job = _Job(str(path), "encode_items", "item_embedding", "item_id", batch_size)
    rows = pq.read_metadata(dataset / schema.ITEMS_FILE).num_rows
    return _run(job, inputs, pathlib.Path(output), "embed items", rows, pipeline_options)


def embed_users(
    *,
    model: str | pathlib.Path,
    dataset: str | pathlib.Path,
    output: str | pathlib.Path,
    as_of: int | None = None,
    batch_size: int = 256,
    pipeline_options: Sequence[str] = (),
) -> EmbedResult:
    """Vectors of all users of both splits: columns `user_id`, `user_embedding`, `[C * d]` each.

    Args:
      model: as for `embed_items`; it needs the signature `encode_user_examples`.
      dataset: the folder whose records are encoded.
      output: the Parquet file to write; its metadata carry `interests` (C) and `dimension` (d).
      as_of: cut-off in seconds; nothing at or after it is seen. Default: the schema's.
      batch_size: users a call of the model.
      pipeline_options: Beam's own flags.

    Raises:
      ValueError: as for `embed_items`, and for a record file that is cut off.
    """
    dataset = pathlib.Path(dataset)
    path, found = _matching_model(model, dataset)
    shards = [
        (str(shard), 0)
        for split in (schema.TRAIN, schema.VALIDATION)
        for shard in sorted((dataset / split).glob("part-*.tfrecord*"))
    ]
    job = _Job(
        str(path),
        "encode_user_examples",
        "user_embedding",
        "user_id",
        batch_size,
        as_of=found.as_of if as_of is None else as_of,
        compression=found.compression,
    )
    counters = json.loads((dataset / schema.COUNTERS_FILE).read_text(encoding="utf-8"))
    rows = sum(shard["records"] for shard in counters["shards"])
    return _run(job, shards, pathlib.Path(output), "embed users", rows, pipeline_options)


# ------------------------------------------------------------------------------- the model


def find_model(model: str | pathlib.Path) -> pathlib.Path:
    """The SavedModel folder itself: `model`, or its highest numeric version."""
    model = pathlib.Path(model)
    if (model / "saved_model.pb").is_file():
        return model
    versions = [path for path in model.glob("*") if path.name.isdigit() and path.is_dir()]
    if not versions:
        raise InputError(
            f"model {model} is neither a SavedModel nor a folder of numbered versions. "
            "Make one with `guim export`."
        )
    return max(versions, key=lambda path: int(path.name))


def _matching_model(
    model: str | pathlib.Path, dataset: pathlib.Path
) -> tuple[pathlib.Path, schema.Schema]:
    path = find_model(model)
    found = schema.Schema.load(dataset)
    made_for = schema.Schema.load(path / "assets.extra")
    made_for.require_match(found, mine=f"the model {path}", theirs=f"the data set {dataset}")
    return path, found


# ------------------------------------------------------------------------------- workers


@dataclasses.dataclass(frozen=True)
class _Job:
    """What every worker must know. Chunks go to `work`."""

    model: str
    signature: str
    vector: str
    id_column: str
    batch_size: int
    as_of: int = 0
    compression: str = ""
    work: str = ""


def _read_chunks(element: tuple[int, tuple[str, int]], job: _Job) -> Iterator[list[Chunk]]:
    """(number, input) -> its chunks that are not written yet, each as a batch for the handler.

    A wrong input is left as a message, to be raised where a runner doesn't wrap it in its own
    errors.
    """
    part, source = element
    work, done = pathlib.Path(job.work), 0
    read = _item_chunks if job.id_column == "item_id" else _user_chunks
    try:
        for number, (ids, lengths, inputs) in enumerate(read(job, source)):
            chunk = Chunk(part, number, ids, lengths, inputs)
            if not (work / chunk.name).is_file():
                yield [chunk]
            done += len(ids)
            progress.report(work / "progress", f"{part:05d}", done)
    except InputError as e:
        (work / f"error-{part:05d}").write_text(str(e), encoding="utf-8")


Rows = tuple[list[str], np.ndarray, dict[str, np.ndarray]]  # ids, lengths, inputs


def _item_chunks(job: _Job, source: tuple[str, int]) -> Iterator[Rows]:
    path, group = source
    columns = ["item_id", "category_id", "title"]
    file, rows = pq.ParquetFile(path), job.batch_size * CHUNK_BATCHES
    for batch in file.iter_batches(rows, row_groups=[group], columns=[*columns, "title_tokens"]):
        lengths = pc.list_value_length(batch["title_tokens"]).to_numpy(zero_copy_only=False)
        inputs = {name: batch[name].to_numpy(zero_copy_only=False) for name in columns}
        yield batch["item_id"].to_pylist(), lengths, inputs


def _user_chunks(job: _Job, source: tuple[str, int]) -> Iterator[Rows]:
    import tensorflow as tf

    path = source[0]
    features = {
        schema.USER_ID: tf.io.FixedLenFeature([], tf.string),
        schema.TIMESTAMP: tf.io.RaggedFeature(tf.int64),
    }
    try:
        records = tf.data.TFRecordDataset(path, compression_type=job.compression)
        for examples in records.batch(job.batch_size * CHUNK_BATCHES):
            users = tf.io.parse_example(examples, features)
            seen = tf.cast(users[schema.TIMESTAMP] < job.as_of, tf.int64)
            ids = [user.decode("utf-8") for user in users[schema.USER_ID].numpy()]
            as_of = np.full(len(ids), job.as_of, np.int64)
            inputs = {"examples": examples.numpy(), "as_of": as_of}
            yield ids, tf.reduce_sum(seen, axis=1).numpy(), inputs
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as e:
        raise InputError(
            f"{path} is not a whole file of records ({e.message}). "
            "Make the data set again with `guim build-dataset`."
        ) from e


def _write_chunk(encoded: Encoded, job: _Job) -> str:
    """Writes the Parquet file of a chunk; returns its name."""
    vectors, chunk = encoded.vectors, encoded.chunk
    interests, dimension = (1, *vectors.shape[1:])[-2:]
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, interests * dimension)
    kind = pa.schema([(job.id_column, pa.string()), (job.vector, column.type)]).with_metadata(
        {INTERESTS: str(interests), DIMENSION: str(dimension)}
    )
    path = pathlib.Path(job.work, chunk.name)
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    pq.write_table(pa.table([pa.array(chunk.ids, pa.string()), column], schema=kind), unfinished)
    os.replace(unfinished, path)
    return chunk.name


# ------------------------------------------------------------------------------- the job


def _run(
    job: _Job,
    inputs: list[tuple[str, int]],
    output: pathlib.Path,
    label: str,
    rows: int,
    pipeline_options: Sequence[str],
) -> EmbedResult:
    if job.batch_size < 1:
        raise InputError(f"batch_size is {job.batch_size}, expected a positive number.")
    check_signature(job.model, job.signature)
    options = make_options(pipeline_options)
    with new_file(output, job=_fingerprint(job, inputs)) as (unfinished, work):
        job = dataclasses.replace(job, work=str(work))
        handler = SavedModelHandler(
            job.model, signature=job.signature, output=job.vector, batch_size=job.batch_size
        )
        with (
            progress.stage(label, folder=work / "progress", unit="vectors"),
            pipeline(options) as p,
        ):
            _ = (
                p
                | "Parts" >> beam.Create(list(enumerate(inputs)))
                | "Spread" >> beam.Reshuffle()
                | "Read" >> beam.FlatMap(_read_chunks, job=job)
                | "Encode" >> RunInference(handler.with_no_batching())
                | "Write" >> beam.Map(_write_chunk, job=job)
            )
        for error in sorted(work.glob("error-*")):
            raise InputError(error.read_text(encoding="utf-8"))
        result = _join_chunks(sorted(work.glob("part-*.parquet")), unfinished, output)
        if result.rows != rows:
            raise RuntimeError(
                f"{result.rows:,} vectors were written for {rows:,} rows: the runner lost some, or "
                f"{output.parent} is not one folder for all workers."
            )
        return result


def _fingerprint(job: _Job, inputs: list[tuple[str, int]]) -> str:
    """What the chunks of an interrupted job must share with a new one to be of use to it."""
    files = [pathlib.Path(job.model, "saved_model.pb"), *(pathlib.Path(path) for path, _ in inputs)]
    files += sorted(pathlib.Path(job.model, "variables").glob("*"))
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return json.dumps([dataclasses.asdict(job), inputs, stats])


def _join_chunks(
    chunks: list[pathlib.Path], unfinished: pathlib.Path, output: pathlib.Path
) -> EmbedResult:
    if not chunks:
        raise InputError("The data set holds nothing to embed.")
    kind = pq.read_schema(chunks[0])
    rows = 0
    with pq.ParquetWriter(unfinished, kind) as writer:
        for chunk in chunks:
            table = pq.read_table(chunk)
            writer.write_table(table)
            rows += table.num_rows
    return EmbedResult(output, rows, int(kind.metadata[INTERESTS]), int(kind.metadata[DIMENSION]))


# ------------------------------------------------------------------------------- command line


def main_items(argv: Sequence[str] | None = None) -> int:
    """`guim embed-items`: 0, or 2 with one line on stderr."""
    return _main(
        "embed-items",
        "Encode every item of a data set's catalogue with an exported item encoder.",
        "guim embed-items --model saved_models/item_encoder --dataset datasets/demo \\\n"
        "      --output vectors/items.parquet",
        argv,
    )


def main_users(argv: Sequence[str] | None = None) -> int:
    """`guim embed-users`: 0, or 2 with one line on stderr."""
    return _main(
        "embed-users",
        "Encode every user of a data set, of both splits, with an exported user encoder.",
        "guim embed-users --model saved_models/user_encoder --dataset datasets/demo \\\n"
        "      --output vectors/users.parquet --as-of 2011-11-10",
        argv,
    )


def _main(name: str, description: str, example: str, argv: Sequence[str] | None) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # keeps the terminal for the progress
    parser = argparse.ArgumentParser(
        prog=f"guim {name}",
        description=description,
        epilog=f"example:\n  {example}\n\nOther flags are Beam's own (--runner ...).",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="a model folder, or one of its versions")
    parser.add_argument("--dataset", required=True, help="the data set folder")
    parser.add_argument("--output", required=True, help="the Parquet file to write")
    users = name == "embed-users"
    if users:
        parser.add_argument(
            "--as-of", type=parse_time, help="cut-off (default: the data set's): ISO or seconds"
        )
    parser.add_argument(
        "--batch-size", type=int, default=256 if users else 1024, help="rows a call of the model"
    )
    arguments, beam_flags = parser.parse_known_args(argv)
    verb: Callable[..., EmbedResult] = embed_users if users else embed_items
    try:
        result = verb(**vars(arguments), pipeline_options=beam_flags)
    except (ValueError, OSError) as e:
        print(f"guim {name}: {e}", file=sys.stderr)
        return 2
    print(f"{result.output}: {result.rows:,} rows, {result.interests} x {result.dimension} float32")
    return 0
