"""An HTTP proxy before a real Bay that injects faults. The first part of the path names one:

    /html/…      an HTML page                     /redirect/…  a redirect elsewhere
    /garbage/…   200 with text that is no JSON    /busy/…      503 at the first of each request, then as usual
    /cut/…       output and downloads break off after their first piece, the first time, then as usual
    /mute/…      no answer at all                 /full/…      507 to what has a body, before its end

A path without one goes through as it is.
"""

import http.client
import json
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

FAULTS = ("html", "redirect", "garbage", "busy", "cut", "mute", "full")
CUT = ("application/x-ndjson", "application/octet-stream", "application/x-tar", "application/zstd")
HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "date", "host"}
WAIT_S = 20


class Proxy:
    """Where it sends requests, and those that came."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.url = ""
        self.seen: list[str] = []
        self.answers: dict[str, object] = {}
        """Answers of its own to GETs, by path: numbers that a real Bay would have to be driven to."""
        self.after_cut: Callable[[], object] = lambda: None
        """Called once a download is broken off."""
        self._lock = threading.Lock()

    def first_time(self, request: str) -> bool:
        with self._lock:
            self.seen.append(request)
            return self.seen.count(request) == 1

    def requests(self, text: str) -> int:
        """How many requests had that in their first line."""
        return sum(text in request for request in self.seen)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 — the base class calls it so
        pass

    def do_GET(self) -> None:
        word, _, rest = self.path[1:].partition("/")
        fault = word if word in FAULTS else ""
        if fault == "full" and self.command in ("PUT", "POST"):
            return self._full()
        body = self._body()
        first = self.proxy.first_time(f"{self.command} {self.path}")
        if self.command == "GET" and (canned := self.proxy.answers.get(urlsplit(self.path).path)):
            return self._answer(200, json.dumps(canned).encode())
        match fault:
            case "html":
                self._answer(200, b"<html>It works!</html>", {"Content-Type": "text/html"})
            case "garbage":
                self._answer(200, b'{"id": ')
            case "redirect":
                self._answer(302, b"", {"Location": "http://elsewhere.invalid/"})
            case "busy" if first:
                self._answer(503, error("session_not_ready", retry_after_ms=1), {"Retry-After": "1"})
            case "mute":
                self.close_connection = True
                self.connection.recv(1)  # until the client goes
            case _:
                self._forward(f"/{rest}" if fault else self.path, body, cut=fault == "cut" and first)
        return None

    do_POST = do_DELETE = do_PUT = do_PATCH = do_GET

    def _full(self) -> None:
        """The answer comes while the body does, and the connection ends with it."""
        self.close_connection = True
        self._answer(507, error("storage_full"), {"Connection": "close"})
        with suppress(ConnectionError):
            while self.rfile.read1(1 << 20):
                pass

    def _forward(self, path: str, body: bytes, *, cut: bool) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        with closing(http.client.HTTPConnection(self.proxy.upstream, timeout=WAIT_S)) as link:
            link.request(self.command, path, body or None, headers)
            answer = link.getresponse()
            kind = answer.getheader("Content-Type", "").partition(";")[0]
            given = {name: value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP}
            if cut and answer.status < 300 and kind in CUT:
                self._cut(answer, kind, given)
            else:
                self._answer(answer.status, answer.read(), given)

    def _cut(self, answer: http.client.HTTPResponse, kind: str, headers: dict[str, str]) -> None:
        """Output ends in the middle of its second line, an export one byte early as if it were whole, the
        rest half way.
        """
        if kind == "application/zstd":
            return self._answer(answer.status, answer.read()[:-1], headers)
        data = (
            answer.readline() + b'{"offset": 12, "stre' if kind == "application/x-ndjson" else answer.read()
        )
        size = len(data) if kind != "application/x-ndjson" else 2 * len(data)
        self.close_connection = True
        self._head(answer.status, size, headers)
        self.wfile.write(data[: max(1, size // 2)])
        self.proxy.after_cut()
        return None

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = bytearray()
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(body)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, len(body), {"Content-Type": "application/json", **(headers or {})})
        self.wfile.write(body)

    def _head(self, status: int, size: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()


class Server(ThreadingHTTPServer):
    """Quiet about clients that go away."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def error(code: str, **details: object) -> bytes:
    body = {"code": code, "message": f"a {code}", "details": details, "request_id": "req-1"}
    return json.dumps({"error": body}).encode()


@contextmanager
def before(upstream: str) -> Generator[Proxy]:
    """A proxy before the Bay at `upstream`, until the block is left."""
    proxy = Proxy(upstream)
    with Server(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"proxy": proxy})) as server:
        proxy.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join(WAIT_S)
