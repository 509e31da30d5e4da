"""Parses multipart forms (RFC 7578) as a stream: the parts in their order, each read once, none kept."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from bay.errors import BadRequest

_MAX_PARTS = 64
_UNREADABLE = "the body is no multipart/form-data that can be read, or broke off"


@dataclass(frozen=True, slots=True)
class _PartHead:
    """The beginning of a part."""

    name: str
    filename: str


class Form:
    """The parts of a body. Raises BadRequest for what is no form, when it is read."""

    def __init__(
        self, content_type: str, body: AsyncIterator[bytes], *, most_parts: int = _MAX_PARTS
    ) -> None:
        kind, options = parse_options_header(content_type)
        self.is_one = kind == b"multipart/form-data" and bool(options.get(b"boundary"))
        """Whether the head says that it is a form at all."""
        self._body = body
        self.filename = ""
        """The name of the part's file as the client wrote it, with its directories."""
        self._most_parts = most_parts
        self._events: deque[_PartHead | bytes] = deque()
        """The heads of parts that begin, and their bytes."""
        self._parts = 0
        self._is_over = False
        self._header, self._value, self._disposition = b"", b"", b""
        self._parser = self._parser_of(options.get(b"boundary", b"-"))

    async def next_part(self) -> str | None:
        """The name of the next part, None at the end; an unread rest of the last one is skipped."""
        while (event := await self._next()) is not None:
            if isinstance(event, _PartHead):
                self.filename = event.filename
                return event.name
        return None

    async def data(self) -> AsyncGenerator[bytes]:
        """The bytes of the part, as they come."""
        while (event := await self._next()) is not None:
            if isinstance(event, _PartHead):
                self._events.appendleft(event)
                return
            yield event

    async def text(self, most: int) -> str:
        """The part as text of `most` bytes."""
        found = b""
        async for piece in self.data():
            found += piece
            if len(found) > most:
                raise BadRequest(f"a field of the form has more than {most} bytes")
        try:
            return found.decode()
        except UnicodeDecodeError as error:
            raise BadRequest("a field of the form is not UTF-8 text") from error

    async def _next(self) -> "_PartHead | bytes | None":
        while not self._events and not self._is_over:
            try:
                self._parser.write(await anext(self._body))
            except StopAsyncIteration:
                raise BadRequest(_UNREADABLE) from None
            except FormParserError as error:
                raise BadRequest(_UNREADABLE) from error
        return self._events.popleft() if self._events else None

    def _parser_of(self, boundary: bytes) -> MultipartParser:
        try:
            return MultipartParser(
                boundary,
                {
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise BadRequest(_UNREADABLE) from error

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._disposition = b""
        self._parts += 1
        if self._parts > self._most_parts:
            raise BadRequest(f"the form has more than {self._most_parts} parts")
        name, filename = options.get(b"name", b""), options.get(b"filename", b"")
        self._events.append(
            _PartHead(name.decode(errors="replace"), filename.decode(errors="surrogateescape"))
        )

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(data[start:end])

    def _on_end(self) -> None:
        self._is_over = True
