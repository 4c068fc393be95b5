"""`guim serve`: a folder of SavedModels behind TF Serving's gRPC and REST protocols."""

import argparse
import ipaddress
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

import tensorflow as tf

from serving import log, text_config
from serving.batching_parameters import BatchingParameters
from serving.model_config import ModelConfig, ModelConfigError, from_proto
from serving.server import DEFAULT_PORT, LOOPBACK, ServeError, discover, serve

_SIGNAL_SECONDS = 0.2  # a signal may reach another thread, and then it does not wake the main one

_log = logging.getLogger("serving.command")  # also where the module is run as a script


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="guim serve",
        description="Serve exported models over TF Serving's protocols. New versions of a model "
        "are found, loaded and put in the place of the old one while requests go on.",
        epilog="examples:\n"
        "  guim serve --models saved_models\n"
        "  guim serve --models saved_models --model retrieval_exact --port 0 --rest-port 8501\n"
        "  guim serve --model-config-file models.config --batching-parameters-file batching.config "
        "\\\n      --ssl-config-file ssl.config --host 0.0.0.0\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--models", default="saved_models", metavar="DIR", help="holds <name>/<version>/"
    )
    which.add_argument(
        "--model-config-file", metavar="FILE", help="TF Serving's: ModelServerConfig as text proto"
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME",
        help="only this one of --models (repeatable)",
    )
    parser.add_argument(
        "--all-versions", action="store_true", help="serve older versions too, not just the latest"
    )
    parser.add_argument("--host", default=LOOPBACK, help="address to listen at (%(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 for any free one")
    parser.add_argument(
        "--rest-port", type=int, help="for REST and Prometheus metrics; 0 for any free one (none)"
    )
    parser.add_argument(
        "--ssl-config-file", metavar="FILE", help="TF Serving's: SSLConfig as text proto"
    )
    parser.add_argument(
        "--batching-parameters-file",
        metavar="FILE",
        help="TF Serving's: BatchingParameters as text proto",
    )
    parser.add_argument(
        "--tensorflow-intra-op-parallelism",
        type=int,
        default=1,
        metavar="THREADS",
        help="TF Serving's: threads that share one operation (%(default)s: most answers a second; "
        "more for few clients of a large exact index)",
    )
    parser.add_argument(
        "--max-message-mb", type=int, default=64, help="largest request (%(default)s)"
    )
    parser.add_argument(
        "--poll-seconds",
        type=float,
        default=1.0,
        help="between two looks for new versions (%(default)s)",
    )
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=30.0,
        help="how long running requests may take after SIGTERM (%(default)s)",
    )
    parser.add_argument(
        "--log-format", choices=[log.TEXT, log.JSON], default=log.TEXT, help="(%(default)s)"
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
    for name, value in (
        ("--max-message-mb", arguments.max_message_mb),
        ("--tensorflow-intra-op-parallelism", arguments.tensorflow_intra_op_parallelism),
    ):
        if value < 1:
            parser.error(f"{name} must be 1 or more")
    if arguments.drain_seconds < 0 or arguments.poll_seconds <= 0:
        parser.error("--drain-seconds must be 0 or more, --poll-seconds above 0")
    log.configure(arguments.log_format)
    stopped = threading.Event()

    def stop(number: int, frame: object) -> None:
        stopped.set()
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait

    try:
        configs = _configs(arguments)
        # Batches run beside each other: one that spreads over all processors would be in their way.
        threads = arguments.tensorflow_intra_op_parallelism
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        handle = serve(
            configs,
            host=arguments.host,
            port=arguments.port,
            rest_port=arguments.rest_port,
            ssl_config=arguments.ssl_config_file
            and text_config.read_ssl_config(arguments.ssl_config_file),
            batching=_batching(arguments.batching_parameters_file),
            max_message_mb=arguments.max_message_mb,
            poll_seconds=arguments.poll_seconds,
        )
    except (ServeError, ModelConfigError, text_config.TextConfigError) as e:
        print(f"guim serve: {e}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if not _is_loopback(arguments.host) and not arguments.ssl_config_file:
        _log.info("note: %s is reachable from other machines, without encryption", arguments.host)
    if handle.rest_address:
        _log.info("REST and metrics at %s", handle.rest_address)
    served = ", ".join(f"{s.name}/{s.version}" for s in handle.states if s.servable)
    _log.info("ready at %s: %s", handle.address, served)
    while not stopped.wait(_SIGNAL_SECONDS):
        pass
    _log.info("draining")
    if not handle.stop(drain_seconds=arguments.drain_seconds):
        _log.info("stopped before all requests were answered")
        logging.shutdown()
        os._exit(1)  # Python would wait for their graphs, which nothing can interrupt
    _log.info("stopped")
    logging.shutdown()
    os._exit(0)  # requests whose clients are gone may still be inside of TensorFlow


def _configs(arguments: argparse.Namespace) -> tuple[ModelConfig, ...]:
    if arguments.model_config_file:
        return from_proto(text_config.read_model_config(arguments.model_config_file))
    return discover(
        model_folder=arguments.models,
        models=arguments.model,
        all_versions=arguments.all_versions,
    )


def _batching(file: str | None) -> BatchingParameters | None:
    if file is None:
        return None
    try:
        return BatchingParameters.from_proto(text_config.read_batching_parameters(file))
    except ValueError as e:
        raise text_config.TextConfigError(f"{file}: {e}") from e


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    sys.exit(main())
