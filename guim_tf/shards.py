"""The TFRecord files of a data set: which there are, and which one is damaged."""

import contextlib
import json
import pathlib
from collections.abc import Iterator

import tensorflow as tf

from guim_tf import schema as names
from guim_tf.schema import DatasetError, Schema


def shard_files(folder: str | pathlib.Path, split: str) -> list[str]:
    """The TFRecord files of a split, after comparing each one's size with `counters.json`.

    Raises:
      DatasetError: a shard is missing or has not the size that the pipeline wrote.
    """
    folder = pathlib.Path(folder)
    path = folder / names.COUNTERS_FILE
    if not path.is_file():
        raise DatasetError(
            f"{path} does not exist: {folder} is not a finished data set. "
            "Make one with `guim build-dataset`."
        )
    try:
        shards = json.loads(path.read_text(encoding="utf-8"))["shards"]
    except (ValueError, KeyError) as e:
        raise DatasetError(
            f"{path} does not list the shards: {e!r}. Rebuild the data set with "
            "`guim build-dataset`."
        ) from e
    files = []
    for shard in shards:
        if not shard["file"].startswith(split + "/"):
            continue
        file = folder / shard["file"]
        size = file.stat().st_size if file.is_file() else None
        if size != shard["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            raise DatasetError(
                f"{file} {found}, and the pipeline wrote {shard['bytes']}: the copy is incomplete. "
                "Copy it again or rebuild the data set with `guim build-dataset`."
            )
        files.append(str(file))
    return files


def read_records(files: list[str], schema: Schema) -> tf.data.Dataset:
    """Serialized records of TFRecord files, in the order of the files."""
    if not files:
        return tf.data.Dataset.from_tensor_slices(tf.zeros([0], tf.string))
    return tf.data.TFRecordDataset(files, compression_type=schema.compression)


@contextlib.contextmanager
def whole_shards(folder: str | pathlib.Path, schema: Schema) -> Iterator[None]:
    """Turns what TensorFlow says of a damaged or missing record file into its name and the remedy.

    Raises:
      DatasetError: a shard of the training or validation users can't be read.
    """
    try:
        yield
    except tf.errors.OpError as e:
        for split in (names.TRAIN, names.VALIDATION):
            for file in shard_files(folder, split):  # says it when one is missing or cut off
                _require_whole(file, schema)
        raise DatasetError(f"{folder} can't be read: {e.message}") from e


def _require_whole(file: str, schema: Schema) -> None:
    try:
        for _ in read_records([file], schema):
            pass
    except tf.errors.OpError as e:
        raise DatasetError(
            f"{file} is damaged: {e.message}. Copy it again or rebuild the data set with "
            "`guim build-dataset`; training then resumes."
        ) from e
