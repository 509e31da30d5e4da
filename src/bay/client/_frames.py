"""The frames of an attachment's WebSocket, decided without I/O.

A binary frame is one byte that says what it is and then bytes as they are; a text frame is a JSON object.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime

from bay.client._answers import model
from bay.client._calls import Json, Params, given
from bay.client._follow import OutputPlace, ended
from bay.client._lines import line_object
from bay.client._paths import sandbox_path
from bay.errors import (
    BayError,
    Conflict,
    ConnectionFailed,
    InvalidArgument,
    NotFound,
    OutputGone,
    PayloadTooLarge,
    QuotaExceeded,
    Unauthorized,
)
from bay.models import Exec, OutputChunk, Stream
from ship_protocol import REPAINT, STDERR, STDIN, STDOUT, CloseCode, first_offset_in

FRAME_BYTES = 256 << 10
"""How much input one piece of a request carries."""

INPUT_BYTES = 16 << 10
"""The input in one frame: so much fits the buffer of a socket that has room, without waiting."""

MAX_FRAME_BYTES = 4 << 20
"""A longer message is not Bay's."""

_CLOSED: dict[int, type[BayError]] = {
    CloseCode.TOO_LARGE: PayloadTooLarge,
    CloseCode.BAD_MESSAGE: InvalidArgument,
    CloseCode.FORBIDDEN: Unauthorized,
    CloseCode.NOT_FOUND: NotFound,
    CloseCode.CONFLICT: Conflict,
    CloseCode.OUTPUT_GONE: OutputGone,
    CloseCode.TOO_MANY: QuotaExceeded,
}
_COME_BACK = {
    CloseCode.NORMAL,
    CloseCode.GOING_AWAY,
    CloseCode.NO_STATUS,
    CloseCode.ABNORMAL,
    CloseCode.INTERNAL_ERROR,
    CloseCode.SERVICE_RESTART,
    CloseCode.TRY_AGAIN_LATER,
    CloseCode.UNREACHABLE,
}


def close_error(code: int, reason: str, url: str) -> BayError:
    """The error of a close by the server with `code` before the exec had ended."""
    said = f": {reason}" if reason else ""
    if code in _COME_BACK:
        return ConnectionFailed(
            f"the connection to {url} broke (code {code}{said})",
            details={"url": url, "sent": True, "close_code": code},
        )
    kind = _CLOSED.get(code, BayError)
    first = first_offset_in(reason) if kind is OutputGone else None
    details: Json = {"close_code": code} | ({} if first is None else {"first_offset": first})
    return kind(f"the server closed the connection with code {code}{said}", details=details)


def is_end(error: BayError) -> bool:
    """Whether the server closed the socket in good order: there is nothing left to say."""
    return error.details.get("close_code") == CloseCode.NORMAL


def input_frames(data: str | bytes) -> Iterator[bytes]:
    """The frames that carry `data` to the process."""
    whole = memoryview(data.encode() if isinstance(data, str) else data)
    for start in range(0, len(whole), INPUT_BYTES):
        yield STDIN + whole[start : start + INPUT_BYTES]


def resize_frame(rows: int, cols: int) -> str:
    """The frame that says how large the terminal is now."""
    return json.dumps({"type": "resize", "rows": rows, "cols": cols})


def signal_frame(signal: str | int) -> str:
    """The frame that has a signal sent."""
    return json.dumps({"type": "signal", "signal": signal})


class Door:
    """Where an attachment is asked for.

    Without an exec it is the terminal of the sandbox, which starts a shell; a reconnect goes to that shell.
    """

    def __init__(
        self,
        sandbox_id: str,
        exec_id: str | None,
        *,
        repaint: bool,
        size: Json | None = None,
        claims: bool = False,
    ) -> None:
        self._sandbox_id = sandbox_id
        self._size = size
        self._exec_id = exec_id
        self._repaint = repaint
        self._claims = claims

    @property
    def starts_a_shell(self) -> bool:
        """Whether asking again would start another."""
        return self._exec_id is None

    def path(self) -> str:
        """The path of the route."""
        if self._size is not None or self._exec_id is None:
            return sandbox_path(self._sandbox_id, "terminal")
        return sandbox_path(self._sandbox_id, "execs", self._exec_id, "attach")

    def params(self, since: int | None) -> Params:
        """Its query. Without a `since` it is the last screen that comes first, where that was asked for."""
        if self._size is not None or self._exec_id is None:
            return given(**(self._size or {}), exec=self._exec_id)
        return given(
            since=since,
            repaint="true" if self._repaint and since is None else None,
            wait_for_reader="true" if self._claims else None,
        )

    def opened(self, exec_id: str) -> None:
        """It led to that exec, to which one comes back."""
        self._exec_id, self._size = exec_id, None


class FrameReading:
    """One connection's place in the output, which begins where its first frame says."""

    def __init__(self, offset: int) -> None:
        self.offset = offset


class Progress(OutputPlace):
    """Where an attachment stands, over all its connections. `since` is what the next one asks for.

    With `repaint` dropped output is no error: the screen is drawn anew.
    """

    def __init__(self, info: Exec | None, since: int | None, retry_s: float, *, repaint: bool) -> None:
        super().__init__(since, retry_s)
        self._exact = self._exact and not repaint
        self.info = info
        self.since = since
        self._repaint = repaint

    def begin(self, info: Exec, offset: int) -> FrameReading:
        """A connection said `attached`. Raises OutputGone when wanted bytes before it are missing."""
        self.info = info
        self.patience.opened()
        if offset > self.next:
            self.skip(
                OutputGone(
                    f"output before offset {offset} is no longer kept", details={"first_offset": offset}
                )
            )
        return FrameReading(offset)

    def accept(self, reading: FrameReading, frame: str | bytes) -> OutputChunk | None:
        """The new output in a frame; None for a frame without output."""
        if isinstance(frame, str):
            return self._text(line_object(frame))
        marker = frame[:1]
        if marker == REPAINT:
            # Not output but what redraws it: it has no place of its own in the count.
            return OutputChunk(offset=reading.offset, stream="tty", data=frame[1:], t=datetime.now(UTC))
        if marker not in (STDOUT, STDERR):
            raise BayError(
                f"the server sent a frame that begins with {marker!r}; is it a Bay of another version?"
            )
        chunk = OutputChunk(
            offset=reading.offset, stream=self._stream(marker), data=frame[1:], t=datetime.now(UTC)
        )
        reading.offset += len(chunk.data)
        return self.take(chunk)

    def broke(self, error: BayError) -> float:
        """How long to wait before connecting again; raises `error` when that cannot help."""
        if isinstance(error, OutputGone):
            self.skip(error)
            self.since = None if self._repaint else self.next
            return 0.0
        if self.info is not None and self.next:
            self.since = self.next
        return self.patience.pause(error)

    def _stream(self, marker: bytes) -> Stream:
        if marker == STDERR:
            return "stderr"
        return "tty" if self.info is not None and self.info.tty else "stdout"

    def _text(self, data: Json) -> None:
        # A kind of text frame that a newer server adds is no output, so it may be passed over.
        if data.get("type") == "exit" and self.info is not None:
            self.ended = True
            self.info = ended(self.info, data, self.next)


def attached(frame: str | bytes) -> tuple[Exec, int]:
    """The first frame of a connection: the exec, and the offset of the first byte that follows."""
    data = line_object(frame)
    offset = data.get("next_offset")
    if (
        data.get("type") != "attached"
        or not isinstance(offset, int)
        or isinstance(offset, bool)
        or offset < 0
    ):
        raise BayError("the server's first frame is not `attached`; is it a Bay of another version?")
    return model(Exec, data.get("exec")), offset


def not_for_sure(error: ConnectionFailed) -> ConnectionFailed:
    """The error of input that was on its way when the connection broke; sending it again could double it."""
    return ConnectionFailed(
        f"{error.message}; the data being written may or may not have arrived", details=error.details
    )
