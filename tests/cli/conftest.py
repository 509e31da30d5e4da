"""A real Bay with the `fake` driver, and the command line that talks to it."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fault_proxy
import pytest
import real_bay
from cli_runner import Cli

from bay import Client


@pytest.fixture(scope="module")
def real() -> Iterator[real_bay.RealBay]:
    with real_bay.running() as running:
        yield running


@pytest.fixture(scope="module")
def served(real: real_bay.RealBay) -> tuple[str, str]:
    """The URL and a key of an admin."""
    return real.where


@pytest.fixture
def proxy(real: real_bay.RealBay) -> Iterator[fault_proxy.Proxy]:
    with fault_proxy.before(real.url) as made:
        yield made


@pytest.fixture
def bay(real: real_bay.RealBay) -> Cli:
    return Cli(real.url)


@pytest.fixture
def name(bay: Cli) -> str:
    """A sandbox that exists."""
    with Client(bay.url, real_bay.KEY) as client:
        return client.sandboxes.create(name=f"box-{os.urandom(6).hex()}", wait=20).info.name or ""


@pytest.fixture
def thief() -> Iterator[tuple[str, list[str | None]]]:
    """An HTTP server that is no Bay, and the keys that it was sent."""
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_response(404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()
