"""The HTTP/1.1 client of what may lie inside a sandbox: its Ship, or an app.

Two strict patterns read the common exchange: a request whose body is whole, and an answer whose head comes at
once and whose body has a Content-Length, or none. h11, which takes far longer, judges all others.
Rejected: httpx and httpcore, which bound no head and no whole call, and give no connection away after an
upgrade; httptools, which refuses answers that h11 takes, such as one whose lines end without CR.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

import h11

Headers = list[tuple[bytes, bytes]]
Read = Callable[[], Awaitable[bytes]]

_TURN = 64  # pieces that are handed out before others get a turn
_MAX_DIGITS = 18
_TOKEN = rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+"
_REQUEST = re.compile(
    rb"(?!CONNECT )" + _TOKEN + rb" [\x21-\x7e]+ HTTP/1\.1\r\nHost: [\x21-\x7e]+\r\n(?:"
    rb"(?!(?i:host|content-length|transfer-encoding|connection|upgrade|expect):)" + _TOKEN + rb": "
    rb"(?:(?![ \t])[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?\r\n)*"
)
_ANSWER = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [\x20-\x7e]*)?\r\n"
    rb"((?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*)\r\n"
)
"""Both take less than h11 does (RFC 9112, sections 3 to 5)."""


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """The head of an answer, also of an interim one. Names of headers are in lower case."""

    status: int
    headers: Headers


class Http11Client:
    """One connection, request after request. Its caller bounds the time."""

    def __init__(self, max_head_bytes: int) -> None:
        self._max_head_bytes = max_head_bytes
        self._asked: tuple[str, bytes, Headers, bytes | None] = ("", b"", [], None)
        self._h11: h11.Connection | None = None
        """The judge of an exchange that is not common."""
        self._left: int | None = None
        """Bytes of a common answer that are still to come; None before its head."""
        self._may_stay = True
        self._unread = b""
        self.heard = False
        """Whether a byte of the answer has come."""

    def ask(self, method: str, target: bytes, headers: Headers, body: bytes | None = None) -> list[bytes]:
        """The parts to send for a request; `headers` begin with Host, and none frames the body. Raises
        h11.LocalProtocolError when they are no HTTP.
        """
        self._asked = (method, target, headers, body)
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        head = b"%b %b HTTP/1.1\r\n%b" % (method.encode(), target, lines)
        # A value with line ends in it would be read as more headers.
        if head.count(b"\n") != len(headers) + 1 or _REQUEST.fullmatch(head) is None:
            return self._have_judged()
        if body is None:
            return [head + b"\r\n"]
        return [b"%bContent-Length: %d\r\n\r\n" % (head, len(body)), body]

    def encode(self, *events: h11.Request | h11.Data | h11.EndOfMessage) -> list[bytes]:
        """The parts to send for `events` of any other request. Raises h11.LocalProtocolError."""
        return [data for event in events if (data := self._judge.send(event))]

    async def answer(self, read: Read) -> AnswerHead:
        """The next head; `read` gives bytes, none at the end. Raises h11.RemoteProtocolError."""
        if self._h11 is None:
            data = await self._read(read)
            if (common := self._common(data)) is not None:
                return common
            self._have_judged()
            self._judge.receive_data(data)
        event = await self._next_event(read)
        if not isinstance(event, h11.Response | h11.InformationalResponse):
            raise h11.RemoteProtocolError("no answer")
        return AnswerHead(event.status_code, list(event.headers))

    async def part(self, read: Read) -> bytes:
        """The next bytes of the body, none at its end. Raises ConnectionResetError when it breaks off, and
        h11.RemoteProtocolError.
        """
        if self._left is None:
            event = await self._next_event(read)
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if not isinstance(event, h11.EndOfMessage):
                raise ConnectionResetError("the answer broke off")
            return b""
        if not self._left:
            return b""
        data = self._unread or await self._read(read)
        if not data:
            raise ConnectionResetError("the answer broke off")
        self._unread = data[self._left :]
        data = data[: self._left]
        self._left -= len(data)
        return data

    async def body(self, next_part: Callable[[], Awaitable[bytes]]) -> AsyncGenerator[bytes, None]:
        """The rest of the answer, piece by piece, by the caller's bounded `next_part`."""
        count = 0
        while data := await next_part():
            yield data
            count += 1
            if count % _TURN == 0:  # chunks of one byte that are all here would keep others out
                await asyncio.sleep(0)

    @property
    def is_broken(self) -> bool:
        """Whether the peer broke HTTP, or broke off."""
        return self._h11 is not None and self._h11.their_state is h11.ERROR

    @property
    def rest(self) -> bytes:
        """The bytes behind the answer, as after an upgrade."""
        return self._unread if self._h11 is None else self._h11.trailing_data[0]

    def recycle(self) -> bool:
        """Make ready for the next request; False when this connection is used up."""
        is_done = self._left == 0 and self._may_stay if self._h11 is None else _is_done(self._h11)
        if not is_done or self.rest:
            return False
        self._h11, self._left, self.heard = None, None, False
        return True

    @property
    def _judge(self) -> h11.Connection:
        if self._h11 is None:
            self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=self._max_head_bytes)
        return self._h11

    def _common(self, data: bytes) -> AnswerHead | None:
        """The head that `data` begins with; None where it, or the framing behind it, is not common."""
        head = _ANSWER.match(data, 0, self._max_head_bytes)
        if head is None:
            return None
        status, lines = int(head[1]), head[2].split(b"\r\n")[:-1]
        split = (line.partition(b":") for line in lines)
        answer = AnswerHead(status, [(name.lower(), value.strip(b" \t")) for name, _, value in split])
        left = self._size_of(answer)
        if left is not None:
            self._left, self._unread = left, data[head.end() :]
        return answer if left is not None else None

    def _size_of(self, answer: AnswerHead) -> int | None:
        """Of the body. RFC 9112, section 6.3; None for h11 to say."""
        lengths, self._may_stay = list[bytes](), True
        for name, value in answer.headers:
            if name == b"transfer-encoding":
                return None
            if name == b"content-length":
                lengths.append(value)
            elif name == b"connection":
                self._may_stay = self._may_stay and b"close" not in value.lower()
        if len(lengths) > 1 or any(not value.isdigit() or len(value) > _MAX_DIGITS for value in lengths):
            return None
        if self._asked[0] == "HEAD" or answer.status in (204, 304):
            return 0
        return int(lengths[0]) if lengths else None

    def _have_judged(self) -> list[bytes]:
        """Tell h11 what was asked. The parts to send, unless they have been."""
        method, target, headers, body = self._asked
        framing = [] if body is None else [(b"Content-Length", b"%d" % len(body))]
        head = h11.Request(method=method, target=target, headers=[*headers, *framing])
        return self.encode(head, h11.Data(data=body or b""), h11.EndOfMessage())

    async def _next_event(self, read: Read) -> object:
        while (event := self._judge.next_event()) is h11.NEED_DATA:
            self._judge.receive_data(await self._read(read))
        return event

    async def _read(self, read: Read) -> bytes:
        data = await read()
        self.heard = self.heard or bool(data)
        return data


def _is_done(judge: h11.Connection) -> bool:
    is_over = judge.our_state is h11.DONE and judge.their_state is h11.DONE
    return is_over and not judge.trailing_data[1]
