"""`guim index`: a catalogue's vectors and a user encoder as one SavedModel that recommends.

What is indexed is an item's unit vector and, as one more coordinate, its prior (`popularity`).
Users' queries have a 1 there, so that the inner product is cosine plus prior; items' have a 0.

Two builds of the same model: `retrieval` searches with ScaNN, `retrieval_exact` by brute force with
stock TensorFlow operations only. Rebuilding an index needs item vectors and no training.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
import tempfile
from typing import TypeAlias

import numpy as np
import pyarrow.parquet as pq
import tensorflow as tf
import tensorflow_recommenders as tfrs

from guim_tf import schema as names
from guim_tf.artifacts import CONFIG_FILE, EXTRA, Warmup, save
from guim_tf.catalogue import Catalogue
from guim_tf.config import Config
from guim_tf.encoders import encode_items, load_encoder
from guim_tf.export import EVENTS, ITEM_ENCODER, USER_ENCODER, action_inputs, warmup_history
from guim_tf.lookup import IdTable
from guim_tf.mixture import merge_interests, prefer_repeats, rescore
from guim_tf.popularity import prior, with_coordinate
from guim_tf.schema import Schema
from guim_tf.strict_json import load

SCANN, EXACT = "scann", "exact"
MODEL_NAMES = {SCANN: "retrieval", EXACT: "retrieval_exact"}
NO_SCORE = -1.0  # beside the empty id where a catalogue has fewer than k items left
# How many times k the list is that Eq. 2 orders anew. With softmax weights Eq. 2 lies below Eq. 3
# by ln(C) / sharpness at most (0.07 for C = 4 at 20): only neighbours change places, and an item
# that is not among the N best by Eq. 3 can beat none whose new score is above the N-th old one.
_RESCORED = 4
_SMALLEST_SCANN = 16  # ScaNN's quantiser needs as many vectors
_MEASURED_QUERIES = 500
_MEASURED_K = 100
# Shares of the leaves to search, and candidates to reorder, from fast to exact.
_LADDER = ((0.05, 400), (0.1, 400), (0.2, 800), (0.4, 1600), (1.0, 3200))

Search: TypeAlias = tfrs.layers.factorized_top_k.TopK


@dataclasses.dataclass(frozen=True)
class IndexResult:
    """What was written. recall: share of the exact 100 nearest neighbours that ScaNN finds, by
    measurement on the catalogue's own vectors; None for the exact build."""

    folder: str
    items: int
    recall: float | None


class Retrieval(tf.Module):
    """Encodes users, searches once for each of their vectors, merges the lists.

    Args:
      search: a TFRS top-k layer over `with_coordinate(items, prior)`: answers catalogue rows.
      item_ids: the catalogue, row by row.
      catalogue_file: the same ids as a `token<TAB>count` file; becomes an asset.
      user_encoder: the loaded SavedModel.
      indexed: `[X, d + 1]`, what `search` has indexed; used where repeats are preferred or lists
        scored anew.
      config: C, d, the weight of repeats and the sharpness of Eq. 2.
    """

    def __init__(
        self,
        search: Search,
        *,
        item_ids: list[str],
        catalogue_file: str,
        user_encoder: tf.Module,
        indexed: np.ndarray,
        config: Config,
    ) -> None:
        super().__init__()
        self.search = search
        self.item_ids = tf.Variable(item_ids, trainable=False, name="item_ids")
        self.rows = IdTable(catalogue_file, size=len(item_ids))
        self.user_encoder = user_encoder
        self._items = len(item_ids)
        self._interests = config.model.interests
        self._dim = config.model.embedding_dim
        self._model_config = config.model
        self._repeat_weight = config.retrieval.repeat_weight
        self._sharpness = config.retrieval.rescore_sharpness
        if self._repeat_weight or self._sharpness is not None:
            self.indexed = tf.Variable(indexed, trainable=False, name="indexed")

    def recommend(
        self,
        item_id: tf.Tensor,
        category_id: tf.Tensor,
        title: tf.Tensor,
        timestamp: tf.Tensor,
        as_of: tf.Tensor,
        k: tf.Tensor,
        exclude_seen: tf.Tensor,
        action: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """The best k items of each user: ids, scores and the interest that brought each."""
        users = self.user_encoder.signatures["encode_users"](
            item_id=item_id,
            category_id=category_id,
            title=title,
            timestamp=timestamp,
            as_of=as_of,
            **({} if action is None else {"action": action}),
        )["user_embedding"]
        seen = self.rows(item_id) - names.FIRST_ROW  # unknown and padding become negative
        exclude = tf.where(exclude_seen, seen, -1)
        wanted = self._listed(k)
        if self._repeat_weight:
            of_seen = tf.gather(self.indexed, tf.maximum(seen, 0))
            found = prefer_repeats(
                self._search(users, wanted, exclude=seen),
                users,
                seen=tf.where(seen < 0, tf.constant(-1, tf.int64), seen),
                seen_embedding=of_seen[..., :-1],
                seen_prior=of_seen[..., -1],
                weight=self._repeat_weight,
                exclude=exclude,
            )
        else:
            found = self._search(users, wanted, exclude=exclude)
        return self._answer(*self._rescored(found, users, k))

    def nearest_items(self, item_embedding: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        """The items nearest to each vector `[B, d]`, by the cosine alone."""
        answer = self._answer(*self._search(item_embedding[:, None, :], k, of_users=False))
        return {"item_id": answer["item_id"], "score": answer["score"]}

    def nearest_items_to_user(
        self, user_embedding: tf.Tensor, k: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """The best items of users given by their vectors `[B, C, d]`."""
        found = self._search(user_embedding, self._listed(k))
        return self._answer(*self._rescored(found, user_embedding, k))

    def _listed(self, k: tf.Tensor) -> tf.Tensor:
        """How many items to list so that k are left in the end."""
        if self._sharpness is None:
            return k
        return tf.maximum(k, tf.minimum(_RESCORED * k, self._items))

    def _rescored(
        self, found: tuple[tf.Tensor, tf.Tensor, tf.Tensor], users: tf.Tensor, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        if self._sharpness is None:
            return found
        vectors = tf.gather(self.indexed, tf.maximum(found[0], 0))[..., :-1]
        return rescore(found, users, found_embedding=vectors, sharpness=self._sharpness, k=k)

    def _search(
        self,
        vectors: tf.Tensor,
        k: tf.Tensor,
        *,
        exclude: tf.Tensor | None = None,
        of_users: bool = True,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Rows, scores and interests `[B, k]`: one search for each vector, merged."""
        tf.debugging.assert_positive(k, message="k must be at least 1")
        shape = tf.shape(vectors)
        unit = tf.reshape(tf.math.l2_normalize(vectors, axis=-1), [-1, self._dim])
        queries = tf.pad(unit, [[0, 0], [0, 1]], constant_values=1.0 if of_users else 0.0)
        excluded = 0 if exclude is None else tf.shape(exclude)[1]
        fetch = tf.minimum(k + excluded, self._items)  # so that k are left without the seen ones
        scores, rows = self.search(queries, k=fetch)
        missing = tf.math.is_nan(scores)  # ScaNN's leaves held fewer
        scores = tf.where(missing, tf.constant(float("-inf")), scores)
        rows = tf.where(missing, -1, rows)
        lists = [shape[0], shape[1], fetch]
        return merge_interests(
            tf.reshape(scores, lists), tf.reshape(rows, lists), k=k, exclude=exclude
        )

    def _answer(
        self, rows: tf.Tensor, scores: tf.Tensor, interests: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        ids = tf.gather(self.item_ids, tf.maximum(rows, 0))
        return {
            "item_id": tf.where(rows < 0, "", ids),
            "score": tf.where(rows < 0, NO_SCORE, scores),
            "interest": interests,
        }

    def signatures(self) -> dict[str, tf.types.experimental.ConcreteFunction]:
        k = tf.TensorSpec([], tf.int32, "k")
        recommend = tf.function(
            self.recommend,
            input_signature=[
                *EVENTS.values(),
                k,
                tf.TensorSpec([], tf.bool, "exclude_seen"),
                *action_inputs(self._model_config),
            ],
        ).get_concrete_function()
        items = tf.TensorSpec([None, self._dim], tf.float32, "item_embedding")
        users = tf.TensorSpec([None, self._interests, self._dim], tf.float32, "user_embedding")
        return {
            "serving_default": recommend,
            "recommend": recommend,
            "nearest_items": tf.function(
                self.nearest_items, input_signature=[items, k]
            ).get_concrete_function(),
            "nearest_items_to_user": tf.function(
                self.nearest_items_to_user, input_signature=[users, k]
            ).get_concrete_function(),
        }

    def warmup(self, schema: Schema) -> Warmup:
        k = tf.constant(10)
        history = warmup_history(schema, self._model_config)
        request = history | {"k": k, "exclude_seen": tf.constant(True)}
        return {
            "recommend": request,
            "nearest_items": {"item_embedding": tf.ones([1, self._dim]), "k": k},
        }


def build_index(
    *,
    dataset: str | pathlib.Path,
    models: str | pathlib.Path,
    build: str = SCANN,
    vectors: str | pathlib.Path | None = None,
    min_recall: float = 0.99,
) -> IndexResult:
    """Writes the next version of a retrieval model.

    Args:
      dataset: its catalogue is what can be recommended.
      models: folder with `user_encoder`, and `item_encoder` unless `vectors` are given.
      build: "scann" or "exact".
      vectors: Parquet that `guim embed-items` wrote; by default the items are encoded here.
      min_recall: of ScaNN against brute force; the fastest settings that reach it are taken.

    Raises:
      SchemaError: the models belong to another data set.
      ArtifactError: there are no exported encoders.
      ValueError: vectors do not fit the catalogue, or it is too small for ScaNN.
    """
    schema = Schema.load(dataset)
    encoder_folder, user_encoder = load_encoder(models, USER_ENCODER, schema=schema)
    config = load(Config, encoder_folder / EXTRA / CONFIG_FILE)
    catalogue = Catalogue(dataset)
    if vectors is None:
        items = encode_items(load_encoder(models, ITEM_ENCODER, schema=schema)[1], catalogue)
    else:
        items = read_vectors(vectors, catalogue)
    weight = config.retrieval.popularity_weight or 0.0
    indexed = with_coordinate(items, prior(catalogue.recent_buyers, weight))
    exact = tfrs.layers.factorized_top_k.BruteForce().index(tf.constant(indexed))
    search, recall = (exact, None) if build == EXACT else _tune_scann(indexed, exact, min_recall)
    with tempfile.TemporaryDirectory() as folder:  # tf.saved_model.save copies the file
        file = str(pathlib.Path(folder, "catalogue.tsv"))
        names.write_vocabulary(file, catalogue.item_id.tolist(), [0] * len(catalogue))
        module = Retrieval(
            search,
            item_ids=catalogue.item_id.tolist(),
            catalogue_file=file,
            user_encoder=user_encoder,
            indexed=indexed,
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
        )
    return IndexResult(str(saved), len(catalogue), recall)


def read_vectors(path: str | pathlib.Path, catalogue: Catalogue) -> np.ndarray:
    """Vectors that `guim embed-items` wrote, in the order of the catalogue: `[X, d]` float32."""
    table = pq.read_table(path)
    row = {item: i for i, item in enumerate(table["item_id"].to_pylist())}
    missing = [item for item in catalogue.item_id if item not in row]
    if missing:
        raise ValueError(
            f"{path} lacks {len(missing)} items of the catalogue, {missing[0]!r} first. Make the "
            "vectors again with `guim embed-items` from this data set."
        )
    column = table["item_embedding"].combine_chunks()
    values = column.flatten().to_numpy().reshape(len(table), -1)
    return np.ascontiguousarray(values[[row[item] for item in catalogue.item_id]])


def _tune_scann(indexed: np.ndarray, exact: Search, min_recall: float) -> tuple[Search, float]:
    """The fastest ScaNN settings that reach a recall, measured as if users had items' vectors."""
    count = len(indexed)
    if count < _SMALLEST_SCANN:
        raise ValueError(
            f"The catalogue has {count} items and ScaNN needs {_SMALLEST_SCANN}. Use --build exact."
        )
    leaves = max(1, round(count**0.5))
    sample = np.random.default_rng(0).choice(count, min(count, _MEASURED_QUERIES), replace=False)
    queries = tf.constant(with_coordinate(indexed[np.sort(sample), :-1], 1.0))
    k = min(_MEASURED_K, count)
    truth = exact(queries, k=k)[1].numpy()
    for share, reorder in _LADDER:
        searched = max(1, round(share * leaves))
        scann = tfrs.layers.factorized_top_k.ScaNN(
            k=k,
            num_leaves=leaves,
            num_leaves_to_search=searched,
            num_reordering_candidates=min(reorder, count),
        ).index(tf.constant(indexed))
        found = scann(queries, k=k)[1].numpy()
        hits = [len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True)]
        recall = float(np.mean(hits) / k)
        print(
            f"ScaNN: {searched} of {leaves} leaves, {min(reorder, count)} reordered: "
            f"recall@{k} {recall:.4f}",
            file=sys.stderr,
        )
        if recall >= min_recall:
            break
    return scann, recall


def main(argv: list[str] | None = None) -> int:
    """The command `guim index`."""
    parser = argparse.ArgumentParser(
        prog="guim index",
        description="Writes the retrieval models: `retrieval` with ScaNN and `retrieval_exact` "
        "with stock TensorFlow operations, each as its next version.",
        epilog="examples:\n"
        "  guim index --dataset work/dataset --models saved_models\n"
        "  guim index --dataset work/dataset --models saved_models --build exact \\\n"
        "      --vectors work/items.parquet\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, help="folder with the catalogue")
    parser.add_argument("--models", default="saved_models", help="folder of all models")
    parser.add_argument("--build", choices=[SCANN, EXACT], help="one build only (default: both)")
    parser.add_argument("--vectors", help="item vectors from `guim embed-items`")
    parser.add_argument(
        "--min-recall", type=float, default=0.99, help="of ScaNN against brute force (%(default)s)"
    )
    arguments = parser.parse_args(argv)
    try:
        for build in [arguments.build] if arguments.build else [SCANN, EXACT]:
            result = build_index(
                dataset=arguments.dataset,
                models=arguments.models,
                build=build,
                vectors=arguments.vectors,
                min_recall=arguments.min_recall,
            )
            print(json.dumps(dataclasses.asdict(result)))
    except ValueError as e:
        print(f"guim index: {e}", file=sys.stderr)
        return 2
    return 0
