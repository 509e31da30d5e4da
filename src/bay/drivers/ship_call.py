"""One small HTTP exchange with a Ship, for drivers, which have no client."""

import asyncio

from bay.errors import SandboxNotReady

LIMIT = 16_384
"""The longest head, and the longest body, that is read."""


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str, body: bytes = b""
) -> tuple[int, str, bytes]:
    """Send a request (its request line, and headers beyond the usual) and close; the status, the head in
    lower case, and the body of the answer. Raises OSError, and SandboxNotReady for an answer that breaks off
    or is none.
    """
    framing = f"Content-Length: {len(body)}\r\n" if body else ""
    try:
        writer.write(f"{head}Host: ship\r\nConnection: close\r\n{framing}\r\n".encode("ascii") + body)
        answered = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, _, headers = answered.lower().partition("\r\n")
        size = _length(headers)
        return status_of(line), f"\r\n{headers}", await reader.readexactly(size)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise SandboxNotReady("Ship ended its answer early") from error
    finally:
        writer.transport.abort()  # all has been said


def status_of(line: str) -> int:
    """The status in the first line of an answer. Raises SandboxNotReady for a line that has none."""
    words = line.split()
    if len(words) < 2 or not words[1].isascii() or not words[1].isdigit():
        raise SandboxNotReady("the process that answered does not speak HTTP")
    return int(words[1])


def _length(headers: str) -> int:
    given = headers.partition("content-length:")[2].partition("\r\n")[0].strip()
    return min(int(given), LIMIT) if given.isascii() and given.isdigit() and len(given) < 10 else 0
