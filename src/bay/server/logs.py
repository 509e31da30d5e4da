"""Structured logs: an event name and fields, one line for each change of state, on stderr."""

import logging
import sys
from typing import Literal

import structlog

from bay.server.replies import AnswerCut

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
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if console else [_TRACEBACKS]),
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if console
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    # uvicorn cuts a connection because we tell it to, by this error, and would call it an error of ours.
    logging.getLogger("uvicorn.error").addFilter(_is_no_cut)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s %(levelname)s %(message)s")


def _is_no_cut(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, AnswerCut)
