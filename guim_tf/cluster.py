"""Several processes by the standard TF_CONFIG: what this one is, and how they train together.

Workers alone train in step (`MultiWorkerMirroredStrategy`): the same batches, each its share of the
users, and equal weights everywhere. With parameter servers (`ParameterServerStrategy`) a chief
hands out steps, workers do them without waiting for each other, and the servers hold the variables,
large tables in pieces.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator

import tensorflow as tf

from guim_tf.strict_json import ConfigError

_CHIEFS, _WORKERS, _SERVERS = "chief", "worker", "ps"
_LEAST_PIECE = 16 << 20  # bytes of a table on each parameter server


class ClusterError(ValueError):
    """The processes of a cluster can't train together."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A place to train in.

    Attributes:
      strategy: in whose scope the model is made; TensorFlow's default for one process alone.
      chief: whether this process writes the run folder.
      asynchronous: whether parameter servers hold the variables.
    """

    strategy: tf.distribute.Strategy
    chief: bool = True
    asynchronous: bool = False

    @classmethod
    def of_this_process(cls) -> "Cluster":
        """The cluster that TF_CONFIG names; to be asked before TensorFlow has done anything.

        Raises:
          ConfigError: TF_CONFIG can't be read, or makes this process something that trains nothing.
        """
        tasks, kind, index = _read()
        if _SERVERS in tasks:
            if kind != _CHIEFS:
                raise ConfigError(
                    f"TF_CONFIG makes this process {kind} {index} of a cluster with parameter "
                    "servers, where the chief alone trains. Run `guim train` for it."
                )
            strategy = tf.distribute.ParameterServerStrategy(
                tf.distribute.cluster_resolver.TFConfigClusterResolver(),
                variable_partitioner=tf.distribute.experimental.partitioners.MinSizePartitioner(
                    _LEAST_PIECE, max_shards=len(tasks[_SERVERS])
                ),
            )
            return cls(strategy, asynchronous=True)
        workers = sum(len(tasks.get(name, [])) for name in (_CHIEFS, _WORKERS))
        if workers < 2:
            return cls(tf.distribute.get_strategy())
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        if strategy.num_replicas_in_sync != workers:
            raise ConfigError(
                f"{workers} workers have {strategy.num_replicas_in_sync} replicas; expected one "
                "each. Start a worker for each GPU, with CUDA_VISIBLE_DEVICES naming it."
            )
        return cls(strategy, chief=kind == _CHIEFS or (_CHIEFS not in tasks and index == 0))

    @property
    def alone(self) -> bool:
        """Whether one process trains."""
        return not self.asynchronous and self.strategy.num_replicas_in_sync == 1

    def all_have(self, number: int) -> bool:
        """Waits until every worker has come here; whether their numbers are mine."""
        if self.alone or self.asynchronous:
            return True

        @tf.function(autograph=False)
        def total() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.constant(number, tf.int64))

        found = self.strategy.experimental_local_results(self.strategy.run(total))[0]
        return int(found) == number * self.strategy.num_replicas_in_sync

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Says what can be done where another process is gone.

        Raises:
          ClusterError: in the place of what TensorFlow says.
        """
        try:
            yield
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as e:
            if self.alone:
                raise
            raise ClusterError(
                f"another process of the cluster is gone: {e.message} Start all processes again "
                "with the same commands; training resumes at the last checkpoint."
            ) from e


def serves() -> tf.distribute.Server | None:
    """Where parameter servers are used and this process is one of them, or a worker: its server.

    It does what the chief asks until the process is stopped.
    """
    tasks, kind, index = _read()
    if _SERVERS not in tasks or kind == _CHIEFS:
        return None
    return tf.distribute.Server(
        tf.train.ClusterSpec(tasks), job_name=kind, task_index=index, protocol="grpc"
    )


def _read() -> tuple[dict[str, list[str]], str, int]:
    """Addresses by the kind of a task, and which of them this one is."""
    text = os.environ.get("TF_CONFIG") or "{}"
    try:
        config = json.loads(text)
        tasks, task = config.get("cluster", {}), config.get("task", {})
        kind, index = task.get("type", _WORKERS), int(task.get("index", 0))
        if tasks:
            tasks[kind][index]
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as e:
        raise ConfigError(
            f"TF_CONFIG is {text!r}: {e!r}. Expected JSON such as "
            '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
            '"task": {"type": "worker", "index": 0}}, with the task among those of the cluster.'
        ) from e
    return tasks, kind, index
