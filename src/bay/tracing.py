"""The work that log lines and spans name: a request, or what the reconciler does to a sandbox.

A caller names its trace by the headers of W3C Trace Context (https://www.w3.org/TR/trace-context/), and
commands in sandboxes get it as the variables TRACEPARENT and TRACESTATE. `Tracing` carries that and records
no span; `bay.server.open_telemetry` records them. Names of spans are few and Bay's own, as those of metrics.

The present work is a context variable, not an argument, since a log line is anywhere. A task that outlives
the work that began it has none: work that is over is nobody's.
"""

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from bay.errors import BayError

Attribute = str | int | float | bool
Kind = Literal["server", "internal", "client"]

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_FLAGS = 0b11
"""Those of the standard: the caller records the trace, and its id is random."""
_MAX_STATE = 512
"""Characters of `tracestate` that are carried, as many as the standard asks for at least."""
_STATE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span of a trace, as it is named to others. `state` belongs to the systems that record it."""

    trace_id: int
    span_id: int
    flags: int
    state: str = ""

    @property
    def traceparent(self) -> str:
        """It as a header's value."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.flags:02x}"


def parsed(traceparent: Sequence[str], tracestate: Sequence[str]) -> TraceContext | None:
    """The span that these headers name; None without a valid one: no request is refused for its trace."""
    found = _TRACEPARENT.fullmatch(traceparent[0]) if len(traceparent) == 1 else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    state = ",".join(tracestate)
    if len(state) > _MAX_STATE or not _STATE.fullmatch(state):
        state = ""
    return TraceContext(int(trace_id, 16), int(span_id, 16), int(flags, 16) & _FLAGS, state)


class Span:
    """One piece of work. This one is not recorded: its context, if it has any, is that of the caller."""

    def __init__(self, context: TraceContext | None) -> None:
        self.context = context
        self.request_id: str | None = None
        self.sandbox_id: str | None = None
        self.is_over = False
        self.error: str | None = None
        """The code of the error that it failed with."""

    def note(self, attributes: Mapping[str, Attribute]) -> None:
        """Add facts to it."""

    def rename(self, name: str) -> None:
        """Name it anew, once more is known."""

    def fail(self, code: str) -> None:
        """It has failed, with the code of an error."""
        self.error = code

    def end(self) -> None:
        """It is over."""
        self.is_over = True


_present: ContextVar[Span | None] = ContextVar("bay_span", default=None)


def present() -> Span | None:
    """The work under way; None when there is none."""
    span = _present.get()
    return None if span is None or span.is_over else span


def about(sandbox_id: str) -> None:
    """Name the sandbox that the present work is about."""
    if (span := present()) is not None:
        span.sandbox_id = sandbox_id


def fail(code: str) -> None:
    """The present work has failed, with the code of an error that is raised to nobody."""
    if (span := present()) is not None:
        span.fail(code)


def environment() -> dict[str, str]:
    """The variables by which a command finds the trace that it belongs to; none outside of a trace."""
    span = present()
    if span is None or span.context is None:
        return {}
    state = {"TRACESTATE": span.context.state} if span.context.state else {}
    return {"TRACEPARENT": span.context.traceparent, **state}


class Tracing:
    """Begins spans, and records none of them."""

    @contextmanager
    def request(
        self, name: str, request_id: str, traceparent: Sequence[str], tracestate: Sequence[str]
    ) -> Generator[Span]:
        """The block is a request, part of the trace that its headers name."""
        span = self._begin(name, "server", parsed(traceparent, tracestate) if traceparent else None)
        span.request_id = request_id
        with _during(span):
            yield span

    @contextmanager
    def work(self, name: str, sandbox_id: str, cause: Span | None = None) -> Generator[Span]:
        """The block is work on that sandbox, which `cause` or else the present work asked for."""
        asked = cause or present()
        span = self._begin(name, "internal", asked.context if asked else None)
        span.request_id = asked.request_id if asked else None
        span.sandbox_id = sandbox_id
        with _during(span):
            yield span

    @contextmanager
    def call(self, name: str, attributes: Mapping[str, Attribute]) -> Generator[None]:
        """The block is a call to another program, a part of the present work; nothing when there is none."""
        asked = present()
        if asked is None or asked.context is None:
            yield
            return
        span = self._begin(name, "client", asked.context)
        span.request_id, span.sandbox_id = asked.request_id, asked.sandbox_id
        span.note(attributes)
        try:
            with _failing(span):
                yield
        finally:
            span.end()

    def took(self, name: str, seconds: float) -> None:
        """A part of the present work is over, and took so long."""

    def close(self) -> None:
        """Send what is recorded, within a few seconds, and record no more. It blocks."""

    def _begin(self, name: str, kind: Kind, parent: TraceContext | None) -> Span:
        return Span(parent)


@contextmanager
def _during(span: Span) -> Generator[None]:
    token = _present.set(span)
    try:
        with _failing(span):
            yield
    finally:
        span.end()
        _present.reset(token)


@contextmanager
def _failing(span: Span) -> Generator[None]:
    try:
        yield
    except Exception as error:
        if span.error is None:  # else its code is known, and this only cuts the answer
            span.fail(error.code if isinstance(error, BayError) else type(error).__name__)
        raise
