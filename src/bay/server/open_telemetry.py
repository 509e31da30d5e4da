"""Records spans with OpenTelemetry's SDK, and sends them to a collector by OTLP over HTTP.

Imported only where traces are on: the SDK is an extra, and takes 60 ms to import. The variables OTEL_* of
its own decide on the rest: headers, the sampler, limits of the queue, attributes of the resource.
"""

import threading
import time
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan

from bay import __version__
from bay.tracing import Attribute, Kind, Span, TraceContext, Tracing, present

_KINDS = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT}
_NS = 1_000_000_000
_EXPORT_S = 10.0
"""One export, with its attempts."""
_MAX_TEXT = 1024
"""Characters of an attribute: a path is of a stranger, and thousands of spans may wait for a collector."""
_END_S = 2.0
"""So long the end of Bay waits for the last export."""


class RecordedSpan(Span):
    """A span that the SDK has. One that the sampler leaves out only carries its context."""

    def __init__(self, span: OtelSpan) -> None:
        super().__init__(_context_of(span.get_span_context()))
        self._span = span

    def note(self, attributes: Mapping[str, Attribute]) -> None:
        """Add facts to it."""
        self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        """Name it anew, once more is known."""
        self._span.update_name(name)

    def fail(self, code: str) -> None:
        """It has failed, with the code of an error."""
        super().fail(code)
        self._span.set_attribute("error.type", code)
        self._span.set_status(Status(StatusCode.ERROR))

    def end(self) -> None:
        """It is over."""
        super().end()
        if self.sandbox_id is not None:
            self._span.set_attribute("bay.sandbox.id", self.sandbox_id)
        if self.request_id is not None:
            self._span.set_attribute("bay.request.id", self.request_id)
        self._span.end()


class OpenTelemetry(Tracing):
    """Records each span. `endpoint` is a collector's base URL; spans go to `/v1/traces` below it."""

    def __init__(self, endpoint: str) -> None:
        ours = Resource({"service.name": "bay", "service.version": __version__})
        self._provider = TracerProvider(
            resource=ours.merge(OTELResourceDetector().detect()),
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_attribute_length=_MAX_TEXT),
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("bay", __version__)

    def took(self, name: str, seconds: float) -> None:
        """A part of the present work is over, and took so long."""
        asked = present()
        if asked is None or asked.context is None:
            return
        now = time.time_ns()
        span = self._tracer.start_span(name, _parent(asked.context), start_time=now - int(seconds * _NS))
        if asked.sandbox_id is not None:
            span.set_attribute("bay.sandbox.id", asked.sandbox_id)
        span.end(now)

    def close(self) -> None:
        """Send what is recorded, within a few seconds, and record no more. It blocks."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(_END_S)

    def _begin(self, name: str, kind: Kind, parent: TraceContext | None) -> Span:
        context = None if parent is None else _parent(parent)
        return RecordedSpan(self._tracer.start_span(name, context, _KINDS[kind]))


def _context_of(named: SpanContext) -> TraceContext | None:
    """None of a library that its own variables have turned off."""
    if not named.is_valid:
        return None
    state = named.trace_state.to_header() if named.trace_state else ""
    return TraceContext(named.trace_id, named.span_id, int(named.trace_flags), state)


def _parent(named: TraceContext) -> Context:
    state = TraceState.from_header([named.state]) if named.state else None
    flags = TraceFlags(named.flags)
    span = SpanContext(named.trace_id, named.span_id, is_remote=True, trace_flags=flags, trace_state=state)
    return set_span_in_context(NonRecordingSpan(span))
