"""`guim serve`: a folder of SavedModels behind TF Serving's gRPC protocol."""

import argparse
import dataclasses
import ipaddress
import logging
import os
import pathlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving import service
from serving.manager import ServableManager, VersionState
from serving.servable import find_versions
from serving.workers import Workers

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8500  # TF Serving's
_FLUSH_SECONDS = 1.0  # for answers on their way out; ends at once unless somebody watches health
_SIGNAL_SECONDS = 0.2  # a signal may reach another thread, and then it does not wake the main one
_PORT_TAKEN = (
    "Can't listen at {host}, port {port}: {error}. Is another server there? "
    "Choose another --port, or 0 for any free one."
)


class ServeError(ValueError):
    """There is nothing to serve, or no place to serve it at."""


@dataclasses.dataclass(frozen=True)
class ModelVersion:
    """A version on disk."""

    name: str
    version: int
    path: pathlib.Path


@dataclasses.dataclass(frozen=True)
class ServerHandle:
    """A running server.

    Attributes:
      address: `host:port` that it listens at.
      port: the port, also where 0 was asked for.
      states: what became of each version.
    """

    address: str
    port: int
    states: tuple[VersionState, ...]
    _server: grpc.Server
    _health: health.HealthServicer
    _workers: Workers

    def stop(self, *, drain_seconds: float = 0.0) -> bool:
        """Refuses new requests and gives running ones so long; whether all of them finished."""
        self._health.enter_graceful_shutdown()
        self._server.stop(drain_seconds + _FLUSH_SECONDS)
        finished = self._workers.wait_idle(drain_seconds)
        if finished:
            self._server.stop(_FLUSH_SECONDS).wait()
        else:  # a graph that still runs can hold up the end for ever
            self._server.stop(0).wait(_FLUSH_SECONDS)
        return finished


def discover(
    *, model_folder: str | pathlib.Path, models: Sequence[str] = (), all_versions: bool = False
) -> tuple[ModelVersion, ...]:
    """The versions to serve: of each model the latest one, or all of them.

    Args:
      model_folder: holds `<name>/<version>/`.
      models: names; empty for every model of the folder.
      all_versions: older ones too.

    Raises:
      ServeError: no such folder, or a model without versions.
    """
    folder = pathlib.Path(model_folder)
    if not folder.is_dir():
        raise ServeError(
            f"{folder} does not exist. Export models with `guim export` and `guim index`."
        )
    present = {f.name: find_versions(f) for f in sorted(folder.iterdir()) if find_versions(f)}
    for name in models:
        if name not in present:
            raise ServeError(
                f"{folder / name} has no versions; models in {folder}: "
                f"{', '.join(present) or 'none'}."
            )
    found = [
        ModelVersion(name, version, folder / name / str(version))
        for name, versions in present.items()
        if name in models or not models
        for version in (versions if all_versions else versions[-1:])
    ]
    if not found:
        raise ServeError(
            f"{folder} holds no models, expected {folder}/<name>/<version>/saved_model.pb. "
            "Export models with `guim export` and `guim index`."
        )
    return tuple(found)


def serve(
    *,
    model_folder: str | pathlib.Path,
    models: Sequence[str] = (),
    all_versions: bool = False,
    host: str = LOOPBACK,
    port: int = DEFAULT_PORT,
    max_message_mb: int = 64,
    max_workers: int = 16,
    progress: Callable[[str], None] = lambda line: None,
) -> ServerHandle:
    """Loads models and starts to serve them; returns when requests are answered.

    Args:
      model_folder, models, all_versions: as `discover`.
      host: address to listen at. There is no encryption: beyond loopback the network must be safe.
      port: 0 for any free one.
      max_message_mb: larger requests are refused with RESOURCE_EXHAUSTED.
      max_workers: requests that run at once; further ones wait.
      progress: receives a line for each step.

    Raises:
      ServeError: nothing to serve, none of it loads, or the port is taken.
    """
    found = discover(model_folder=model_folder, models=models, all_versions=all_versions)
    _require_free(host, port)
    manager = ServableManager()
    for number, version in enumerate(found, 1):
        _load(manager, version, f"{number} of {len(found)}", progress)
    states = manager.states()
    if not any(state.servable for state in states):
        raise ServeError(
            "None of the models could be loaded: "
            + "; ".join(f"{s.name} version {s.version}: {s.details}" for s in states)
        )
    workers = Workers(max_workers)
    server, health_servicer = _build(manager, workers, max_message_mb)
    address = f"[{host}]" if ":" in host else host
    try:
        bound = server.add_insecure_port(f"{address}:{port}")
    except RuntimeError as e:
        raise ServeError(_PORT_TAKEN.format(host=host, port=port, error=e)) from e
    server.start()
    return ServerHandle(f"{address}:{bound}", bound, states, server, health_servicer, workers)


def _require_free(host: str, port: int) -> None:
    """Loading takes long: a taken port is said before it. The real port opens when all is loaded,
    so that until then clients are refused instead of kept waiting."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as e:
        raise ServeError(_PORT_TAKEN.format(host=host, port=port, error=e)) from e


def _build(
    manager: ServableManager, workers: Workers, max_message_mb: int
) -> tuple[grpc.Server, health.HealthServicer]:
    server = grpc.server(
        workers,
        options=(
            ("grpc.max_receive_message_length", max_message_mb << 20),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # or a second server would silently share the port
        ),
    )
    health_servicer = health.HealthServicer()
    for name in service.SERVICE_NAMES:
        health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        service.PredictionService(manager), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(service.ModelService(manager), server)
    return server, health_servicer


def _load(
    manager: ServableManager, version: ModelVersion, position: str, progress: Callable[[str], None]
) -> None:
    label = f"{version.name} version {version.version}"
    progress(f"loading {label} ({position}) from {version.path}")
    start = time.monotonic()
    state = manager.load(name=version.name, version=version.version, path=version.path)
    if state.servable is None:
        progress(f"  failed: {state.details}")
        return
    progress(
        f"  available after {time.monotonic() - start:.1f} s, "
        f"{state.servable.warmup_requests} warm-up requests, "
        f"signatures: {', '.join(sorted(state.servable.functions))}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="guim serve",
        description="Serve exported models over TF Serving's gRPC protocol.",
        epilog="examples:\n"
        "  guim serve --models saved_models\n"
        "  guim serve --models saved_models --model retrieval_exact --port 0\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--models", default="saved_models", metavar="DIR", help="holds <name>/<version>/"
    )
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME", help="only this one (repeatable)"
    )
    parser.add_argument(
        "--all-versions", action="store_true", help="serve older versions too, not just the latest"
    )
    parser.add_argument("--host", default=LOOPBACK, help="address to listen at (%(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 for any free one")
    parser.add_argument(
        "--max-message-mb", type=int, default=64, help="largest request (%(default)s)"
    )
    parser.add_argument(
        "--max-workers", type=int, default=16, help="requests that run at once (%(default)s)"
    )
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=30.0,
        help="how long running requests may take after SIGTERM (%(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT, then drains.

    Returns:
      0; 2 with one line on stderr when there is nothing to serve, or no place to serve it at. The
      process ends with 1 when the drain was too short.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if min(arguments.max_message_mb, arguments.max_workers) < 1 or arguments.drain_seconds < 0:
        parser.error("--max-message-mb and --max-workers must be 1 or more, --drain-seconds 0")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    stopped = threading.Event()

    def stop(number: int, frame: object) -> None:
        stopped.set()
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait

    try:
        handle = serve(
            model_folder=arguments.models,
            models=arguments.model,
            all_versions=arguments.all_versions,
            host=arguments.host,
            port=arguments.port,
            max_message_mb=arguments.max_message_mb,
            max_workers=arguments.max_workers,
            progress=_print,
        )
    except ServeError as e:
        print(f"guim serve: {e}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if not _is_loopback(arguments.host):
        _print(f"note: {arguments.host} is reachable from other machines, without encryption")
    served = ", ".join(f"{s.name}/{s.version}" for s in handle.states if s.servable)
    _print(f"ready at {handle.address}: {served}")
    while not stopped.wait(_SIGNAL_SECONDS):
        pass
    _print("draining")
    if not handle.stop(drain_seconds=arguments.drain_seconds):
        _print("stopped before all requests were answered")
        os._exit(1)  # Python would wait for their graphs, which nothing can interrupt
    _print("stopped")
    return 0


def _print(line: str) -> None:
    print(line, flush=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    sys.exit(main())
