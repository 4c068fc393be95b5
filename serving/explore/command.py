"""`guim explore`: a web page on a data set and a running server."""

import argparse
import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from guim_tf import schema
from serving import client
from serving.explore.answers import Server
from serving.explore.endpoint import AnswerError, Endpoint
from serving.explore.shop import Shop
from serving.histories import HistoryError

if TYPE_CHECKING:
    from serving.explore.item_map import Atlas, ItemMap

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
DEFAULT_PORT = 8050  # Dash's
_MISSING = (
    "the page needs {name}, which is not installed. Install it with: pip install 'guim-tf[explore]'"
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="guim explore",
        description="A web page: users, what each of their interests recommends, items and their "
        "neighbours, a map of items.",
        epilog="examples:\n"
        "  guim explore --dataset work/dataset\n"
        "  guim explore --dataset work/dataset --server 127.0.0.1:8500 --port 0\n"
        "  guim explore --dataset work/dataset --server 127.0.0.1:8500 --encoders 127.0.0.1:8510\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, metavar="DIR", help="of guim build-dataset")
    client.add_server_arguments(parser)
    parser.add_argument(
        "--encoders",
        metavar="HOST:PORT",
        help="where user_encoder and item_encoder are served, if not there (serving/docker)",
    )
    parser.add_argument("--k", type=int, default=10, help="items a list (%(default)s)")
    parser.add_argument(
        "--map-items", type=int, default=3000, help="most bought items on the map (%(default)s)"
    )
    parser.add_argument("--host", default=_LOOPBACK[0], help="address to listen at (%(default)s)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 for any free one")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serves the page until it is interrupted.

    Returns:
      0; 2 with one line on stderr for what is not installed, a data set that is not there or a
      port that is taken; 1 for a server that does not answer.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if min(arguments.k, arguments.map_items) < 1 or arguments.timeout <= 0:
        parser.error("--k and --map-items must be 1 or more, --timeout above 0")
    try:
        from serving.explore import item_map, page
    except ModuleNotFoundError as e:
        return _stop(_MISSING.format(name=e.name), 2)
    try:
        credentials = client.credentials(arguments)
    except client.TextConfigError as e:
        return _stop(str(e), 2)
    server = Server(
        retrieval=Endpoint.connect(arguments.server, credentials),
        encoders=Endpoint.connect(arguments.encoders or arguments.server, credentials),
        model=arguments.model,
        timeout=arguments.timeout,
    )
    try:
        shop = Shop(arguments.dataset)
        server.require()
    except (HistoryError, schema.SchemaError) as e:
        return _stop(str(e), 2)
    except AnswerError as e:
        return _stop(str(e), 1)
    atlas = item_map.Atlas(functools.partial(_make_map, shop, server, arguments.map_items))
    app = page.make_app(shop=shop, server=server, atlas=atlas, k=arguments.k)
    try:
        web = page.listen(app, host=arguments.host, port=arguments.port)
    except (OSError, OverflowError) as e:
        return _stop(
            f"can't listen at {arguments.host}, port {arguments.port}: {e}. "
            "Choose another --port, or 0 for any free one.",
            2,
        )
    host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
    if arguments.host in _LOOPBACK:  # another name is a foreign page that points it here
        app.server.config["TRUSTED_HOSTS"] = [*_LOOPBACK, "[::1]"]
    else:
        print(f"note: {arguments.host} may be reached from other machines, and asks no password")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        print(f"ready at http://{host}:{web.port}/ (Ctrl-C ends it)", flush=True)
        threading.Thread(target=_ahead, args=(atlas,), daemon=True).start()
        web.serve_forever()
    return 0


def _make_map(shop: Shop, server: Server, count: int) -> "ItemMap":
    from serving.explore.item_map import ItemMap, project

    items = shop.catalogue.first(count)
    with tqdm(total=len(items), unit="item", desc="encoding items", leave=False) as bar:
        vectors = server.encode_items(items, progress=bar.update)
    return ItemMap(items, project(vectors))


def _ahead(atlas: "Atlas") -> None:
    """Makes the map before somebody waits for it; the page says what went wrong, if it did."""
    with contextlib.suppress(AnswerError):
        atlas.get()


def _stop(text: str, status: int) -> int:
    print(f"guim explore: {text}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
