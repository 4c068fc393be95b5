"""Small models with the contract's signatures, requests for them, a tiny data set folder."""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from guim_tf import schema
from serving import server, tensors

ITEMS = ("mug", "cup", "pan", "sofa", "lamp", "desk")
CATEGORIES = ("kitchen", "kitchen", "kitchen", "home", "home", "home")


def _text(*shape, name):
    return tf.TensorSpec(shape, tf.string, name=name)


EVENTS = (
    _text(None, None, name="item_id"),
    _text(None, None, name="category_id"),
    _text(None, None, name="title"),
    tf.TensorSpec([None, None], tf.int64, name="timestamp"),
    tf.TensorSpec([None], tf.int64, name="as_of"),
)


class Retrieval(tf.Module):
    """Interest 0 likes the category of the first event (20 points), interest 1 that of the
    last one (10); among equals the earlier item of the catalogue, by .5 a place."""

    def __init__(self):
        super().__init__()
        self.items = tf.Variable(list(ITEMS), trainable=False, dtype=tf.string)
        self.table = tf.constant(
            [[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1], [-1, 0], [0, -1]], tf.float32
        )

    @tf.function(
        input_signature=(
            *EVENTS,
            tf.TensorSpec([], tf.int32, name="k"),
            tf.TensorSpec([], tf.bool, name="exclude_seen"),
        )
    )
    def recommend(self, item_id, category_id, title, timestamp, as_of, k, exclude_seen):
        del title, timestamp, as_of
        real = tf.reduce_sum(tf.cast(item_id != "", tf.int32), axis=1)
        last = tf.gather(category_id, tf.maximum(real - 1, 0), batch_dims=1)
        place = -0.5 * tf.range(6.0)
        like = tf.stack([category_id[:, 0], last], axis=1)[:, :, tf.newaxis]
        points = tf.constant([[20.0], [10.0]]) * tf.cast(
            like == tf.constant(CATEGORIES), tf.float32
        )
        points += place
        seen = tf.reduce_any(item_id[:, :, tf.newaxis] == self.items, axis=1)
        points -= tf.where(seen & exclude_seen, 1000.0, 0.0)[:, tf.newaxis]
        score, rows = tf.math.top_k(tf.reduce_max(points, axis=1), k)
        interest = tf.gather(tf.argmax(points, axis=1, output_type=tf.int32), rows, batch_dims=1)
        return {"item_id": tf.gather(self.items, rows), "score": score, "interest": interest}

    @tf.function(
        input_signature=(
            tf.TensorSpec([None, 2], tf.float32, name="item_embedding"),
            tf.TensorSpec([], tf.int32, name="k"),
        )
    )
    def nearest_items(self, item_embedding, k):
        score, rows = tf.math.top_k(tf.matmul(item_embedding, self.table, transpose_b=True), k)
        return {"item_id": tf.gather(self.items, rows), "score": score}


class Encoder(tf.Module):
    """Unit vectors of (characters, 1); and a signature for each way in which a graph can fail."""

    @tf.function(input_signature=(_text(None, name="item_id"),))
    def encode_items(self, item_id):
        length = tf.cast(tf.strings.length(item_id), tf.float32)
        vectors = tf.stack([length, tf.ones_like(length)], axis=1)
        return {"item_embedding": tf.math.l2_normalize(vectors, axis=1)}

    @tf.function(input_signature=(tf.TensorSpec([], tf.int32, name="x"),))
    def refuse(self, x):
        with tf.control_dependencies([tf.debugging.assert_positive(x, "x must be positive")]):
            return {"x": tf.identity(x)}

    @tf.function(input_signature=(tf.TensorSpec([], tf.string, name="path"),))
    def read(self, path):
        return {"content": tf.io.read_file(path)}

    @tf.function(
        input_signature=(
            tf.TensorSpec([], tf.string, name="started"),
            tf.TensorSpec([], tf.string, name="release"),
        )
    )
    def gate(self, started, release):
        """Writes to one pipe, then to another; each write waits for a reader, so that a test
        knows when the request is running and decides how long it runs."""
        with tf.control_dependencies([tf.io.write_file(started, "running")]):
            second = tf.io.write_file(release, "released")
        with tf.control_dependencies([second]):
            return {"done": tf.constant(True)}


def start(models: pathlib.Path, *names: str, **arguments) -> server.ServerHandle:
    """A server of the models of a folder on a free port, which looks often for new versions."""
    configs = server.discover(
        model_folder=models, models=names, all_versions=arguments.pop("all_versions", False)
    )
    return server.serve(
        configs, **({"port": 0, "poll_seconds": 0.1, "settle_seconds": 0.1} | arguments)
    )


def save(folder: pathlib.Path, model: tf.Module, *, default: str, names: tuple[str, ...]) -> None:
    signatures = {name: getattr(model, name) for name in names}
    tf.saved_model.save(
        model, str(folder), signatures=signatures | {"serving_default": signatures[default]}
    )


def write_warmup(folder: pathlib.Path, *logs: prediction_log_pb2.PredictionLog) -> None:
    (folder / "assets.extra").mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(folder / "assets.extra/tf_serving_warmup_requests")) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


def predict_log(signature: str, **inputs) -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.CopyFrom(make_request("any", signature, **inputs))
    return log


def make_request(model: str, signature: str = "", *, version=None, outputs=(), **inputs):
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for name, values in inputs.items():
        request.inputs[name].CopyFrom(tensors.to_proto(values, name=name))
    return request


DAY = 86_400
AS_OF = 100 * DAY  # 1970-04-11
TITLES = {
    "mug": "Blue mug",
    "cup": "Tea cup [small]",  # rich would read the brackets as markup
    "pan": "Frying pan",
    "sofa": "Sofa",
    "lamp": "Lampe à pied",
    "desk": "",
}
USERS = {  # (day, item) in time order; day 100 is the first that is held out
    "anna": [(1, "mug"), (2, "cup"), (99, "sofa"), (100, "desk")],
    "bert": [(5, "lamp")],
    "cora": [(101, "pan")],
    "dave": [(7, "desk"), (8, "pan")],
}


def make_schema(**changes) -> schema.Schema:
    vocabulary = schema.Vocabulary(size=6, fingerprint="0" * 32)
    fields = {
        "items": vocabulary,
        "categories": vocabulary,
        "words": vocabulary,
        "word_hash_rows": 8,
        "max_title_tokens": 12,
        "tokenizer": "nfkc-lower-cjk-1",
        "actions": (),
        "first_timestamp": DAY,
        "last_timestamp": 130 * DAY,
        "as_of": AS_OF,
    }
    return schema.Schema(**(fields | changes))


def write_dataset(
    folder: pathlib.Path, *, compression: str = "", actions: tuple[str, ...] = ()
) -> pathlib.Path:
    """A data set folder as `guim build-dataset` leaves it: dave in the validation split.

    The actions of a user go round: none, then each of `actions`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    make_schema(compression=compression, actions=actions).save(folder)
    table = {
        "item_id": ITEMS,
        "item_key": [schema.fingerprint64(item) for item in ITEMS],
        "item_index": range(2, 8),
        "category_id": CATEGORIES,
        "category_index": [2, 2, 2, 3, 3, 3],
        "title": [TITLES[item] for item in ITEMS],
        "title_tokens": [[1]] * 6,
        "count": [6, 5, 4, 3, 2, 1],
        "recent_buyers": [0, 1, 2, 3, 2, 1],
    }
    pq.write_table(
        pa.table({k: pa.array(list(v)) for k, v in table.items()}), folder / "items.parquet"
    )
    suffix = ".gz" if compression else ""
    splits = {"train/part-00000-of-00002": ["anna"], "train/part-00001-of-00002": ["bert", "cora"]}
    for name, users in (splits | {"validation/part-00000-of-00001": ["dave"]}).items():
        path = folder / f"{name}.tfrecord{suffix}"
        path.parent.mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(path), options=compression) as writer:
            for user in users:
                writer.write(_example(user, len(actions)).SerializeToString())
    return folder


def _example(user: str, actions: int) -> tf.train.Example:
    example = tf.train.Example()
    feature = example.features.feature
    feature["user_id"].bytes_list.value.append(user.encode())
    for number, (day, item) in enumerate(USERS[user]):
        feature["timestamp"].int64_list.value.append(day * DAY)
        feature["item_key"].int64_list.value.append(schema.fingerprint64(item))
        feature["action_index"].int64_list.value.append(1 + number % (1 + actions))
        for name in ("item_index", "category_index", "title_lengths"):
            feature[name].int64_list.value.append(1)
    return example
