"""Bounds large JSON bodies: their pieces are counted before they are parsed, and one at a time of each owner.

A parser holds the interpreter until it is done, and its cost depends on how many pieces a text has, not on
its bytes: 16 MiB of one string take a few milliseconds, 16 MiB of small fields take seconds. An honest large
body carries one large text. Rejected: a thread, since the parser does not release the interpreter's lock.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from weakref import WeakValueDictionary

from bay.errors import PayloadTooLarge

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

LARGE = 1 << 20
"""Bytes from which on a body is counted. A smaller one is bounded by its size."""

MAX_PIECES = 20_000
"""Texts, and items of lists and objects. An exec may have 4,096 arguments and 256 variables."""

_MARKS = (b",", b"[", b"{")


class LargeBodies:
    """Gives requests their bodies whole."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, owner: str, receive: Receive) -> Receive:
        """The same as `receive`, with the body in one message, once counted and its owner's turn has come."""
        whole = False

        async def next_message() -> Message:
            nonlocal whole
            if whole:
                return await receive()
            whole = True
            return await self._whole(owner, receive)

        return next_message

    async def _whole(self, owner: str, receive: Receive) -> Message:
        chunks: list[bytes] = []
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return message
            chunks.append(message.get("body", b""))
            more = message.get("more_body", False)
        body = b"".join(chunks)
        if len(body) > LARGE:
            await self._turn(owner)
            check_pieces(body)
        return {"type": "http.request", "body": body, "more_body": False}

    async def _turn(self, owner: str) -> None:
        """Wait for the owner's turn, which is over when the loop goes on: the body is parsed by then."""
        lock = self._turns.setdefault(owner, asyncio.Lock())
        await lock.acquire()
        asyncio.get_running_loop().call_soon(lock.release)


def check_pieces(body: bytes) -> None:
    """Raises PayloadTooLarge when a JSON body has too many pieces."""
    if has_more_pieces(body, MAX_PIECES):
        raise PayloadTooLarge(
            f"a body of more than {LARGE} bytes has at most {MAX_PIECES} strings, fields and items; "
            "send data as one string, or as a file"
        )


def has_more_pieces(text: bytes, most: int) -> bool:
    """Whether the JSON `text` has more than `most` strings and items.

    The type's own searches do it, each in one pass. Only the parts between quotation marks are looked at one
    by one, and those are few: where most marks are escaped ones, these are written over first.
    """
    if b"\0" in text:  # UTF-16 or UTF-32, which a parser takes too: where strings end its bytes do not say
        return text.count(b'"') + _items(text) > most
    if text.count(b'"') > 4 * most:
        if b"\\" in text:
            text = text.replace(b"\\\\", b"..").replace(b'\\"', b"..")
        if text.count(b'"') > 2 * most:
            return True
    return _pieces(text.split(b'"')) > most


def _pieces(parts: list[bytes]) -> int:
    """The strings and items of a JSON text that was split at its quotation marks."""
    pieces, is_string = 0, False
    for part in parts:
        if is_string:
            is_string = _ends_in_escape(part)
        else:
            pieces += 1 + _items(part)
            is_string = True
    return pieces


def _ends_in_escape(part: bytes) -> bool:
    return part.endswith(b"\\") and (len(part) - len(part.rstrip(b"\\"))) % 2 == 1


def _items(text: bytes) -> int:
    return sum(map(text.count, _MARKS))
