"""Answers of many lines, each a JSON object, which clients read as the progress of a call.

The act is over, or runs on by itself, before the first line is sent: a reader who leaves cancels nothing.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping

from starlette.responses import Response

MEDIA_TYPE = "application/x-ndjson"

Line = Mapping[str, object]


def encoded(line: Line) -> bytes:
    """The line as it is sent."""
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"


def whole(lines: Iterable[Line]) -> Response:
    """An answer of lines that are all known."""
    return Response(b"".join(map(encoded, lines)), media_type=MEDIA_TYPE)


async def encoded_all(lines: AsyncIterator[Line]) -> AsyncGenerator[bytes]:
    """The lines as they are sent."""
    async for line in lines:
        yield encoded(line)
