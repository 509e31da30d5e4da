"""Streams of bytes are cut into lines and events."""

import json
from typing import cast

from bay.client._calls import Json
from bay.errors import BayError

MAX_LINE_BYTES = 16 << 20


class Lines:
    """Cuts a stream of bytes at `end` into its complete lines; bytes behind the last are kept for later."""

    def __init__(self, end: bytes = b"\n", what: str = "an output line") -> None:
        self._end, self._what = end, what
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, without empty ones."""
        *lines, self._rest = (self._rest + data).split(self._end)
        if len(self._rest) > MAX_LINE_BYTES:
            raise BayError(
                f"the server sent {self._what} of more than {MAX_LINE_BYTES} bytes; is it a Bay of another version?"
            )
        return [line for line in lines if line.strip()]


def line_object(line: str | bytes) -> Json:
    """The JSON object on one line of output."""
    try:
        found: object = json.loads(line)
    except ValueError as error:
        raise BayError(f"the server sent {line[:40]!r}, which is not a line of output") from error
    if not isinstance(found, dict):
        raise BayError(f"the server sent {line[:40]!r}, which is not a line of output")
    return cast("Json", found)
