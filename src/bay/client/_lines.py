"""Streams of bytes are cut into lines and events."""

import json
from typing import cast

from bay.client._calls import Json
from bay.errors import BayError

MAX_LINE_BYTES = 16 << 20


class Lines:
    """Cuts a stream of bytes into its complete lines; bytes after the last newline are kept for later."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise BayError(
                f"the server sent an output line of more than {MAX_LINE_BYTES} bytes; is it a Bay of another "
                "version?"
            )
        return [line for line in lines if line.strip()]


class Blocks:
    """Cuts a stream of server-sent events into its complete blocks, each the lines up to an empty one."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The blocks that `data` completes."""
        *blocks, self._rest = (self._rest + data).split(b"\n\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise BayError(
                f"the server sent an event of more than {MAX_LINE_BYTES} bytes; is it a Bay of another version?"
            )
        return blocks


def line_object(line: bytes) -> Json:
    """The JSON object on one line of output."""
    try:
        found: object = json.loads(line)
    except ValueError as error:
        raise BayError(f"the server sent {line[:40]!r}, which is not a line of output") from error
    if not isinstance(found, dict):
        raise BayError(f"the server sent {line[:40]!r}, which is not a line of output")
    return cast("Json", found)
