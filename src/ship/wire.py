"""Formats times, texts and JSON for the wire."""

import json
import time

_encoder = json.JSONEncoder(separators=(",", ":"))  # made once: a list has a hundred thousand lines
_raw_encoder = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


def rfc3339(seconds: float) -> str:
    """`seconds` since the epoch as RFC 3339 in UTC, microseconds and a final Z."""
    micros = round(seconds * 1_000_000)
    whole, fraction = divmod(micros, 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{fraction:06d}Z"


def printable(text: str) -> str:
    """`text` with its lone surrogates replaced, which no other program would take."""
    return text.encode("utf-8", "replace").decode("utf-8")


def encode(value: object) -> bytes:
    return _encoder.encode(value).encode()


def line(value: object) -> bytes:
    return encode(value) + b"\n"


def raw_line(value: object) -> bytes:
    """The same with text as it is, for long text: escapes make some scripts three times as long."""
    return _raw_encoder.encode(value).encode() + b"\n"
