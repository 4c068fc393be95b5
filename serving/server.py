"""A server of SavedModels: TF Serving's gRPC protocol on one port, its REST interface on another.

One thread runs an event loop that reads requests and writes answers; the threads of `Batcher` run
graphs, and one more looks at the disk for new versions.
"""

import asyncio
import dataclasses
import logging
import pathlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import grpc
from aiohttp import web
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from serving import rest, service, tls
from serving.batching import Batcher
from serving.batching_parameters import BatchingParameters
from serving.manager import ServableManager, VersionState
from serving.metrics import Metrics
from serving.model_config import All, Latest, ModelConfig
from serving.versions import find_versions

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8500  # TF Serving's
_FLUSH_SECONDS = 1.0  # for answers on their way out; ends at once unless somebody watches health
_SECONDS_AT_START = 10.0  # for versions that are being copied in, where there are no others
_PORT_TAKEN = (
    "Can't listen at {host}, port {port}: {error}. Is another server there? "
    "Choose another port, or 0 for any free one."
)

_log = logging.getLogger(__name__)


class ServeError(ValueError):
    """There is nothing to serve, or no place to serve it at."""


def discover(
    *, model_folder: str | pathlib.Path, models: Sequence[str] = (), all_versions: bool = False
) -> tuple[ModelConfig, ...]:
    """The models of a folder, as a configuration.

    Args:
      model_folder: holds `<name>/<version>/`.
      models: names; empty for every model of the folder.
      all_versions: older ones too, not just the latest.

    Raises:
      ServeError: no such folder, or a model without versions.
    """
    folder = pathlib.Path(model_folder).absolute()
    if not folder.is_dir():
        raise ServeError(
            f"{model_folder} does not exist. Export models with `guim export` and `guim index`."
        )
    present = [f.name for f in sorted(folder.iterdir()) if f.is_dir() and find_versions(f)]
    for name in models:
        if name not in present:
            raise ServeError(
                f"{folder / name} has no versions; models in {folder}: "
                f"{', '.join(present) or 'none'}."
            )
    if not present:
        raise ServeError(
            f"{model_folder} holds no models, expected {model_folder}/<name>/<version>/"
            "saved_model.pb. Export models with `guim export` and `guim index`."
        )
    policy = All() if all_versions else Latest()
    return tuple(
        ModelConfig(name, folder / name, policy) for name in present if name in models or not models
    )


@dataclasses.dataclass(frozen=True)
class ServerHandle:
    """A running server.

    Attributes:
      address: `host:port` of gRPC.
      port: that port, also where 0 was asked for.
      rest_address: `host:port` of REST and metrics; None where there is none.
      manager: what is served.
    """

    address: str
    port: int
    rest_address: str | None
    manager: ServableManager
    _stop: Callable[[float], Coroutine[Any, Any, bool]]
    _loop: asyncio.AbstractEventLoop
    _thread: threading.Thread
    _ended: threading.Event

    @property
    def states(self) -> tuple[VersionState, ...]:
        return self.manager.states()

    def stop(self, *, drain_seconds: float = 0.0) -> bool:
        """Refuses new requests and gives running ones so long; whether all of them finished."""
        if self._ended.is_set():
            return True
        self._ended.set()
        finished = asyncio.run_coroutine_threadsafe(self._stop(drain_seconds), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        return finished


def serve(
    configs: Sequence[ModelConfig],
    *,
    host: str = LOOPBACK,
    port: int = DEFAULT_PORT,
    rest_port: int | None = None,
    ssl_config: Any = None,
    batching: BatchingParameters | None = None,
    max_message_mb: int = 64,
    poll_seconds: float = 1.0,
    settle_seconds: float = 5.0,
) -> ServerHandle:
    """Loads models and starts to serve them; returns when requests are answered.

    Args:
      configs: the models, as of `discover` or `model_config.from_proto`.
      host: address to listen at.
      port: of gRPC; 0 for any free one.
      rest_port: of REST and metrics; 0 for any free one, None for none.
      ssl_config: a `text_config.read_ssl_config`; without it there is no encryption, and beyond
        loopback the network must be safe.
      batching: sizes and bounds; given, they are for every model, as in TF Serving. By default only
        models of this project are batched.
      max_message_mb: larger requests are refused with RESOURCE_EXHAUSTED.
      poll_seconds: between two looks at the disk for new versions.
      settle_seconds: how long a version that lists no files must have been left alone.

    Raises:
      ServeError: none of the models loads, or a port is taken.
      TextConfigError: the keys or certificates are no good.
    """
    credentials = tls.server_credentials(ssl_config) if ssl_config else None
    context = tls.server_context(ssl_config) if ssl_config else None
    for wanted in (port, rest_port):
        if wanted is not None:
            _require_free(host, wanted)
    metrics = Metrics()
    manager = ServableManager(metrics=metrics, settle_seconds=settle_seconds)
    ended = threading.Event()
    _load(manager, configs, poll_seconds)
    batcher = Batcher(batching or BatchingParameters(), batch_all=bool(batching), metrics=metrics)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="serve", daemon=True)
    thread.start()
    active = service.Active(max_bytes=max_message_mb << 20)
    starting = _Starting(
        service.Backend(manager, batcher, metrics, active),
        host,
        max_message_mb,
        credentials,
        context,
    )
    try:
        address, rest_address, stop = asyncio.run_coroutine_threadsafe(
            starting.start(port, rest_port), loop
        ).result()
    except (RuntimeError, OSError) as e:
        loop.call_soon_threadsafe(loop.stop)
        batcher.close()
        ports = port if rest_port is None else f"{port} or {rest_port}"
        raise ServeError(_PORT_TAKEN.format(host=host, port=ports, error=e)) from e
    threading.Thread(
        target=_watch, args=(manager, ended, poll_seconds), name="watch", daemon=True
    ).start()
    bound = int(address.rpartition(":")[2])
    return ServerHandle(address, bound, rest_address, manager, stop, loop, thread, ended)


def _load(manager: ServableManager, configs: Sequence[ModelConfig], poll_seconds: float) -> None:
    missing = manager.configure(configs)
    end = time.monotonic() + _SECONDS_AT_START
    while missing and manager.unsettled() and time.monotonic() < end:
        time.sleep(min(poll_seconds, 1.0))
        missing = manager.update()
    states = manager.states()
    if not any(state.servable for state in states):
        raise ServeError(
            "None of the models could be loaded: "
            + (
                "; ".join(f"{s.name} version {s.version}: {s.details}" for s in states)
                or ", ".join(f"{c.base_path} has no versions" for c in configs)
            )
        )


def _watch(manager: ServableManager, ended: threading.Event, poll_seconds: float) -> None:
    while not ended.wait(poll_seconds):
        try:
            manager.update()
        except Exception:  # the next look may fare better; what is served goes on
            _log.exception("looking for new versions failed")


def _require_free(host: str, port: int) -> None:
    """Loading takes long: a taken port is said before it. The real port opens when all is loaded,
    so that until then clients are refused instead of kept waiting."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as e:
        raise ServeError(_PORT_TAKEN.format(host=host, port=port, error=e)) from e


@dataclasses.dataclass(frozen=True)
class _Starting:
    """What runs on the event loop to open the ports and to close them."""

    backend: service.Backend
    host: str
    max_message_mb: int
    credentials: grpc.ServerCredentials | None
    context: ssl.SSLContext | None

    async def start(
        self, port: int, rest_port: int | None
    ) -> tuple[str, str | None, Callable[[float], Coroutine[Any, Any, bool]]]:
        """(gRPC's address, REST's address, what stops both)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", self.max_message_mb << 20),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # or a second server would silently share the port
            )
        )
        server.add_generic_rpc_handlers(service.grpc_handlers(self.backend))
        servicer = health.aio.HealthServicer()
        for name in service.METHODS:
            await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        target = f"{host}:{port}"
        if self.credentials is None:
            bound = server.add_insecure_port(target)
        else:
            bound = server.add_secure_port(target, self.credentials)
        await server.start()
        runner, rest_address = None, None
        if rest_port is not None:
            app = rest.application(self.backend, max_message_mb=self.max_message_mb)
            runner = web.AppRunner(
                app, access_log=None, shutdown_timeout=_FLUSH_SECONDS, handler_cancellation=True
            )
            await runner.setup()
            site = web.TCPSite(runner, self.host, rest_port, ssl_context=self.context)
            await site.start()
            rest_address = f"{host}:{runner.addresses[0][1]}"

        async def stop(drain_seconds: float) -> bool:
            self.backend.active.end()
            await servicer.enter_graceful_shutdown()
            if runner is not None:
                for site in list(runner.sites):
                    await site.stop()
            finished = await self.backend.active.wait_idle(drain_seconds)
            # Only now: a request that meets a closing server may be left without any answer. A
            # graph that still runs can hold up the end for ever.
            await server.stop(_FLUSH_SECONDS if finished else None)
            if runner is not None:
                await runner.cleanup()
            self.backend.batcher.close()
            return finished

        return f"{host}:{bound}", rest_address, stop
