"""A collector of OpenTelemetry traces, which reads the protocol's own messages from OTLP over HTTP."""

import gzip
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PATIENCE_S = 30.0


@dataclass(frozen=True)
class SeenSpan:
    """A span as it was sent; ids in hexadecimal, times in ns since 1970."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    began: int
    ended: int
    attributes: dict[str, Any]
    has_failed: bool
    resource: dict[str, Any]


class TraceCollector:
    """All spans that came, in their order."""

    def __init__(self) -> None:
        self.spans: list[SeenSpan] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.url = ""
        self._changed = threading.Condition()

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        """One export."""
        data = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
        export = ExportTraceServiceRequest.FromString(data)
        with self._changed:
            self.paths.append(path)
            self.headers.append(headers)
            for group in export.resource_spans:
                about = _values(group.resource.attributes)
                for scope in group.scope_spans:
                    self.spans += [_seen(span, about) for span in scope.spans]
            self._changed.notify_all()

    def wait(self, are_there: Callable[[list[SeenSpan]], bool]) -> list[SeenSpan]:
        """The spans, once they are as `are_there` wants them. Blocks: from the event loop in a thread."""
        until = time.monotonic() + PATIENCE_S
        with self._changed:
            while not are_there(self.spans):
                left = until - time.monotonic()
                assert left > 0, f"not among {[one.name for one in self.spans]}"
                self._changed.wait(left)
            return list(self.spans)


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def _seen(span: Any, resource: dict[str, Any]) -> SeenSpan:
    return SeenSpan(
        name=span.name,
        kind=span.kind,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        began=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        has_failed=span.status.code == span.status.STATUS_CODE_ERROR,
        resource=resource,
    )


@contextmanager
def collecting() -> Generator[TraceCollector]:
    """A collector that listens on this host."""
    collector = TraceCollector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.take(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
