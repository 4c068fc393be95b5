"""What a monitoring system reads of a server, under the names that TF Serving gives it.

Names, labels and buckets are those of `servables/tensorflow/util.cc` and
`batching/batching_session.cc` of tensorflow/serving, in its Prometheus form: slashes are colons.
"""

import threading
from collections import Counter
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
PATH = "/monitoring/prometheus/metrics"  # TF Serving's usual one

_PREFIX = ":tensorflow:serving:"
_MICROSECONDS = tuple(10 * 1.8**i for i in range(33))  # 10 microseconds to 20 minutes
_SIZES = tuple(float(1 << i) for i in range(15))
_THREADS = "batch_threads"

disable_created_metrics()


class _Count(Collector):
    """A counter whose name has no `_total` at its end, as TF Serving's has none."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, ...]] = Counter()

    def add(self, *values: str) -> None:
        with self._lock:
            self._counts[values] += 1

    def collect(self) -> Iterable[Metric]:
        metric = Metric(self._name, self._text, "unknown")
        with self._lock:
            counts = dict(self._counts)
        for values, count in sorted(counts.items()):
            labels = dict(zip(self._labels, values, strict=True))
            metric.add_sample(self._name, labels, count)
        yield metric


class Metrics:
    """The figures of one server. Times are given in seconds and kept in microseconds."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = _Count(
            f"{_PREFIX}request_count", "Requests by outcome.", ("model_name", "status")
        )
        self._loads = _Count(
            ":tensorflow:cc:saved_model:load_attempt_count",
            "Versions loaded, by outcome.",
            ("model_path", "status"),
        )
        self._registry.register(self._requests)
        self._registry.register(self._loads)
        self._request_latency = self._histogram(
            "request_latency", "Microseconds of a request.", ("model_name", "API", "entrypoint")
        )
        self._runtime_latency = self._histogram(
            "runtime_latency", "Microseconds of a batch.", ("model_name", "API", "runtime")
        )
        self._queuing_latency = self._histogram(
            "batching_session:queuing_latency",
            "Microseconds a request waited.",
            ("thread_pool_name",),
        )
        self._batch_size = self._histogram(
            "batching:processed_batch_size", "Rows of a batch.", ("model_name",), _SIZES
        )
        self._load_latency = Histogram(
            ":tensorflow:cc:saved_model:load_latency",
            "Microseconds to load a version.",
            ("model_path",),
            registry=self._registry,
            buckets=_MICROSECONDS,
        )
        self.held = Gauge(
            ":guim:serving:held_rows", "Rows that run or wait.", registry=self._registry
        )

    def _histogram(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        buckets: tuple[float, ...] = _MICROSECONDS,
    ) -> Histogram:
        return Histogram(_PREFIX + name, text, labels, registry=self._registry, buckets=buckets)

    def request(
        self, model: str, *, api: str, entrypoint: str, status: str, seconds: float
    ) -> None:
        """An answer went out; `status` is the name of its code."""
        self._requests.add(model, status)
        self._request_latency.labels(model, api, entrypoint).observe(seconds * 1e6)

    def batch(self, model: str, *, rows: int, seconds: float, waited: Iterable[float]) -> None:
        """A batch has run."""
        self._runtime_latency.labels(model, "Predict", "TF2").observe(seconds * 1e6)
        self._batch_size.labels(model).observe(rows)
        for wait in waited:
            self._queuing_latency.labels(_THREADS).observe(wait * 1e6)

    def load(self, path: str, *, status: str, seconds: float) -> None:
        """A version was loaded, or could not be."""
        self._loads.add(path, status)
        self._load_latency.labels(path).observe(seconds * 1e6)

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)
