"""`guim index`: a catalogue's vectors and a user encoder as one SavedModel that recommends.

What is indexed is an item's unit vector and, where what sells counts, its prior (`popularity`) as
one more coordinate. Two builds of the same model: `retrieval` searches with ScaNN,
`retrieval_exact` by brute force with stock TensorFlow operations only. Rebuilding an index needs
item vectors and no training; items that the model has never seen come by the item encoder.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from guim_tf import schema as names
from guim_tf.artifacts import CONFIG_FILE, EXTRA, save
from guim_tf.catalogue import Catalogue
from guim_tf.config import Config
from guim_tf.encoders import encode_items, load_encoder
from guim_tf.export import ITEM_ENCODER, USER_ENCODER
from guim_tf.index_items import IndexItems, read_items, read_vectors
from guim_tf.index_report import REPORT_FILE, IndexReport
from guim_tf.popularity import prior, unit
from guim_tf.recommender import Recommender
from guim_tf.scann_search import DTYPES, build_scann
from guim_tf.schema import Schema
from guim_tf.strict_json import load, to_json
from guim_tf.vector_search import ExactSearch, Search, Vectors

SCANN, EXACT = "scann", "exact"
MODEL_NAMES = {SCANN: "retrieval", EXACT: "retrieval_exact"}
MIN_RECALL = 0.99
_SETTINGS = {
    "leaves": "of ScaNN's tree, 1 for no tree",
    "leaves_to_search": "those nearest to a query",
    "reordered": "candidates by code, whose vectors are compared",
}


@dataclasses.dataclass(frozen=True)
class IndexResult:
    """Where an index was written, and what was measured of it."""

    folder: str
    report: IndexReport


def build_index(
    *,
    dataset: str | pathlib.Path,
    models: str | pathlib.Path,
    build: str = SCANN,
    vectors: str | pathlib.Path | None = None,
    items: str | pathlib.Path | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
    min_recall: float = MIN_RECALL,
) -> IndexResult:
    """Writes the next version of a retrieval model.

    Args:
      dataset: its catalogue is what can be recommended.
      models: folder with `user_encoder`, and `item_encoder` unless `vectors` are all there is.
      build: "scann" or "exact".
      vectors: Parquet that `guim embed-items` wrote; by default the catalogue is encoded here.
      items: Parquet with more items, `item_id`, `category_id` and `title`, which are encoded here
        and can be recommended too. One with the id of a catalogue's item replaces it.
      settings: some fields of `ScannSettings`. The others follow from the number of items; where
        none is given, the search gets wider until `min_recall` is reached.
      min_recall: of ScaNN against brute force.

    Raises:
      SchemaError: the models belong to another data set.
      ArtifactError: there are no exported encoders.
      ValueError: vectors or items do not fit, the catalogue is too small for ScaNN, or the recall
        is below the bound; nothing is written then.
    """
    schema = Schema.load(dataset)
    encoder_folder, user_encoder = load_encoder(models, USER_ENCODER, schema=schema)
    config = load(Config, encoder_folder / EXTRA / CONFIG_FILE)
    catalogue = IndexItems.of(Catalogue(dataset))
    indexed, placed = catalogue, np.arange(0)
    if items is not None:
        new = read_items(items)
        indexed, placed = catalogue.updated(new)
    if vectors is None:
        encoder = load_encoder(models, ITEM_ENCODER, schema=schema)[1]
        embedding = encode_items(encoder, indexed)
    else:
        known = read_vectors(vectors, catalogue, dim=config.model.embedding_dim)
        embedding = np.zeros([len(indexed), known.shape[1]], np.float32)
        embedding[: len(known)] = known
        if len(placed):
            encoder = load_encoder(models, ITEM_ENCODER, schema=schema)[1]
            embedding[placed] = encode_items(encoder, new)
    return write_index(
        indexed,
        embedding,
        models=models,
        build=build,
        user_encoder=user_encoder,
        schema=schema,
        config=config,
        new_items=len(indexed) - len(catalogue),
        settings=settings,
        min_recall=min_recall,
    )


def write_index(
    items: IndexItems,
    embedding: np.ndarray,
    *,
    models: str | pathlib.Path,
    build: str,
    user_encoder: tf.Module,
    schema: Schema,
    config: Config,
    new_items: int = 0,
    settings: Mapping[str, Any] = MappingProxyType({}),
    min_recall: float = MIN_RECALL,
) -> IndexResult:
    """`build_index` from items and their vectors `[X, d]`, any length."""
    start = time.perf_counter()
    weight = config.retrieval.popularity_weight
    popular = prior(items.recent_buyers, weight, sold=items.count > 0) if weight else None
    vectors = Vectors(unit(embedding), popular)
    report = IndexReport(build, len(items), new_items, embedding.shape[1])
    search: Search = ExactSearch(vectors)
    if build == SCANN:
        search, measured = build_scann(vectors, settings=settings, min_recall=min_recall)
        vectors = search.vectors
        report = dataclasses.replace(
            report,
            **dataclasses.asdict(search.settings),
            **dataclasses.asdict(measured),
            min_recall=min_recall,
        )
    report = dataclasses.replace(report, seconds=round(time.perf_counter() - start, 2))
    categories = sorted(set(items.category_id) - {""})
    with tempfile.TemporaryDirectory() as folder:  # tf.saved_model.save copies the file
        file = str(pathlib.Path(folder, "categories.tsv"))
        names.write_vocabulary(file, categories, [0] * len(categories))
        module = Recommender(
            search,
            vectors=vectors,
            item_ids=items.item_id.tolist(),
            category_ids=items.category_id.tolist(),
            category_file=file,
            user_encoder=user_encoder,
            config=config,
        )
        saved = save(
            module,
            models=models,
            name=MODEL_NAMES[build],
            signatures=module.signatures(),
            schema=schema,
            config=config,
            warmup=module.warmup(schema),
            extra={REPORT_FILE: to_json(report)},
        )
    return IndexResult(str(saved), report)


def main(argv: list[str] | None = None) -> int:
    """The command `guim index`."""
    parser = argparse.ArgumentParser(
        prog="guim index",
        description="Writes the retrieval models: `retrieval` with ScaNN and `retrieval_exact` "
        "with stock TensorFlow operations, each as its next version.",
        epilog="examples:\n"
        "  guim index --dataset work/dataset --models saved_models\n"
        "  guim index --dataset work/dataset --models saved_models --build exact \\\n"
        "      --vectors work/items.parquet\n"
        "  guim index --dataset work/dataset --models saved_models \\\n"
        "      --vectors work/items.parquet --items work/new.parquet\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, help="folder with the catalogue")
    parser.add_argument("--models", default="saved_models", help="folder of all models")
    parser.add_argument("--build", choices=[SCANN, EXACT], help="one build only (default: both)")
    parser.add_argument("--vectors", help="item vectors from `guim embed-items`")
    parser.add_argument(
        "--items",
        help="Parquet with more items (item_id, category_id, title), which the item encoder "
        "encodes; one with a known id replaces that item",
    )
    parser.add_argument(
        "--min-recall",
        type=float,
        default=MIN_RECALL,
        help="of ScaNN against brute force; an index below it is not written (%(default)s)",
    )
    for name, text in _SETTINGS.items():
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=int, help=f"{text} (default: by the number of items)")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of ScaNN's vectors (default: by the number of items)"
    )
    arguments = parser.parse_args(argv)
    given = {name: getattr(arguments, name) for name in (*_SETTINGS, "dtype")}
    try:
        for build in [arguments.build] if arguments.build else [SCANN, EXACT]:
            result = build_index(
                dataset=arguments.dataset,
                models=arguments.models,
                build=build,
                vectors=arguments.vectors,
                items=arguments.items,
                settings={name: x for name, x in given.items() if x is not None},
                min_recall=arguments.min_recall,
            )
            print(json.dumps({"folder": result.folder} | dataclasses.asdict(result.report)))
    except ValueError as e:
        print(f"guim index: {e}", file=sys.stderr)
        return 2
    return 0
