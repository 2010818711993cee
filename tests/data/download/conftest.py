"""Servers for tests of downloads."""

import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from typing import Any

import pytest

from tests.data.download.server import Handler, Site


@pytest.fixture
def serve() -> Iterator[Callable[..., Site]]:
    """Start servers, each with one site."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(**settings: Any) -> Site:
        site = Site(**settings)
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"site": site}))
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client may hang up
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        servers.append((server, thread))
        site.url = f"http://127.0.0.1:{server.server_address[1]}/file"
        return site

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()
