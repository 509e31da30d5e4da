"""Structured logs: an event name and fields, one line for each change of state, on stderr."""

import io
import logging
import sys
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Literal, TextIO, cast

import structlog

from bay.server.web.replies import AnswerCut
from bay.tracing import present

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "json", "console"]

# Without the values of local variables: they are tokens, keys and tenants' environments.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure(level: Level, form: Format) -> None:
    """Set up logging for this process. `auto` is for people on a terminal and JSON elsewhere."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    structlog.configure(
        processors=[
            _name_work,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *(_for_console() if console else (_TRACEBACKS, structlog.processors.JSONRenderer())),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=cast(TextIO, _LossyStream(sys.stderr))),
        cache_logger_on_first_use=True,
    )
    # uvicorn cuts a connection because we tell it to, by this error, and would call it an error of ours.
    logging.getLogger("uvicorn.error").addFilter(_is_no_cut)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s %(levelname)s %(message)s")


def _name_work(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The ids of the request, the sandbox and the trace that a line is about, where the line has none."""
    if (span := present()) is not None:
        named = {"request_id": span.request_id, "sandbox": span.sandbox_id}
        if span.context is not None:
            named["trace_id"] = f"{span.context.trace_id:032x}"
        for name, value in named.items():
            if value is not None:
                event.setdefault(name, value)
    return event


class _LossyStream(io.TextIOBase):
    """A stream whose reader may leave. A line that cannot be written is lost; no call and no task fails."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def close(self) -> None:
        """Nothing: the stream is another's, and a line of it does not wait. The interpreter closes what it
        collects, also at its own end, when the names of this module are gone already.
        """


def _for_console() -> tuple[structlog.types.Processor, ...]:
    return _escaped, structlog.dev.ConsoleRenderer(exception_formatter=_plain_traceback)


def _escaped(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Text of users, such as a path, without the C0, C1 and bidi characters that a terminal acts on."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = _printable(value)
    return event


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _plain_traceback(stream: TextIO, exc_info: structlog.typing.ExcInfo) -> None:
    rendered = io.StringIO()
    structlog.dev.plain_traceback(rendered, exc_info)
    stream.write("\n".join(map(_printable, rendered.getvalue().split("\n"))))


def _is_no_cut(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, AnswerCut)
