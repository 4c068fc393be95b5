"""The page as a web server: Dash and its own JavaScript, nothing from anywhere else."""

import socket

import werkzeug.serving
from dash import Dash

from serving.explore import callbacks, layout
from serving.explore.answers import Server
from serving.explore.item_map import Atlas
from serving.explore.shop import Shop
from serving.histories import format_time


def make_app(*, shop: Shop, server: Server, atlas: Atlas, k: int) -> Dash:
    """The page of a data set and a server; arguments as of `callbacks.register`."""
    app = Dash(
        __name__,
        title=f"{shop.name} · guim explore",
        update_title="",
        serve_locally=True,
    )
    heading = (
        f"{shop.name}: {len(shop.catalogue):,} items, as of {format_time(shop.as_of)} UTC. "
        f"Answers by {server.retrieval.address}."
    )
    app.layout = layout.page(heading=heading, suggested=shop.suggested)
    callbacks.register(app, shop=shop, server=server, atlas=atlas, k=k)
    return app


def listen(app: Dash, *, host: str, port: int) -> werkzeug.serving.BaseWSGIServer:
    """A server of the page that has its port, 0 for any free one; `serve_forever` begins.

    Raises:
      OSError: the port is taken or no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as bound:
        return werkzeug.serving.make_server(  # it has its own copy of the socket
            host, port, app.server, threaded=True, request_handler=_Quiet, fd=bound.fileno()
        )


class _Quiet(werkzeug.serving.WSGIRequestHandler):
    def log_request(self, *args: object) -> None:
        """Each view of the page is a dozen requests: only what fails belongs on a terminal."""
