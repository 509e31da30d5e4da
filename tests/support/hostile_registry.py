"""A registry that does as a test says: stalls, drips, lies, redirects, and asks for passwords elsewhere."""

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from image_files import ImageFile, as_json


class Request(BaseHTTPRequestHandler):
    """One request, with the answers that hooks give."""

    protocol_version = "HTTP/1.1"

    @property
    def registry(self) -> "HostileRegistry":
        return cast("HostileServer", self.server).registry

    def do_GET(self) -> None:
        self.registry.requests.append((self.path, dict(self.headers)))
        with suppress(OSError):
            self.registry.answer(self)

    do_HEAD = do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's
        del format, args

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, **headers: str) -> None:
        self.send(status, as_json({"errors": [{"code": code, "message": "no"}]}), **headers)

    def begin(self, length: int) -> None:
        """The head of an answer, whose body is another's business."""
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.flush()

    def reset(self) -> None:
        """End the connection with a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


Hook = Callable[[Request], bool]
"""Whether it has answered the request; if not, the next hook may, and at last the image is given."""


@dataclass
class HostileRegistry:
    """Serves one image, wherever no hook says otherwise."""

    image: ImageFile
    hooks: list[Hook] = field(default_factory=list[Hook])
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list[tuple[str, dict[str, str]]])
    host: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    """Set at the end, for hooks that wait."""

    def answer(self, request: Request) -> None:
        if any(hook(request) for hook in self.hooks):
            return
        kind, _, last = request.path.rpartition("/")
        blobs = self.image.blobs()
        if request.path == "/v2/":
            request.send(200, b"{}")
        elif kind.endswith("/manifests"):
            request.send(200, self.image.manifest_bytes, Content_Type=self.image.media_type)
        elif kind.endswith("/blobs") and last in blobs:
            request.send(200, blobs[last])
        else:
            request.refuse(404, "MANIFEST_UNKNOWN")

    def asked(self, part: str) -> list[dict[str, str]]:
        """The headers of the requests whose path has `part`."""
        return [headers for path, headers in self.requests if part in path]


class HostileServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, registry: HostileRegistry) -> None:
        super().__init__(listener.getsockname()[:2], Request, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.registry = registry

    def handle_error(self, request: Any, client_address: Any) -> None:
        del request, client_address


def listening(address: str, port: int = 0) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(64)
    return listener


@contextmanager
def hostile(
    image: ImageFile,
    *hooks: Hook,
    listener: socket.socket | None = None,
    wrap: Callable[[Any], Any] | None = None,
) -> Generator[HostileRegistry]:
    """A registry that runs until the end of the block, on loopback if nothing else is said."""
    listener = listener or listening("127.0.0.1")
    registry = HostileRegistry(image, list(hooks))
    registry.host = "{}:{}".format(*listener.getsockname()[:2])
    server = HostileServer(wrap(listener) if wrap else listener, registry)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield registry
    finally:
        registry.over.set()
        server.shutdown()
        server.socket.close()
        thread.join()


def at(part: str, act: Callable[[Request], object], times: int | None = None) -> Hook:
    """A hook for the requests whose path has `part`, the first `times` of them."""
    left = [times]

    def hook(request: Request) -> bool:
        if part not in request.path or left[0] == 0:
            return False
        if left[0] is not None:
            left[0] -= 1
        act(request)
        return True

    return hook
