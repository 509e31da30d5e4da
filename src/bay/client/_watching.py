"""The frames of a watch's WebSocket, decided without I/O."""

from bay.client._answers import model
from bay.client._calls import Json
from bay.client._lines import line_object
from bay.errors import BayError
from bay.models import FileEvent
from ship_protocol import CloseCode

OVERFLOW = FileEvent(type="overflow")
_TYPES = ("created", "modified", "deleted", "moved", "attributes", "overflow")


def is_end(error: BayError) -> bool:
    """Whether the server closed the socket because there is nothing left to watch."""
    return error.details.get("close_code") == CloseCode.NORMAL


def watching(frame: str | bytes) -> None:
    """The first frame; raises BayError when it does not say that the watch has begun."""
    if _object(frame).get("type") != "watching":
        raise BayError("the server's first frame is not `watching`; is it a Bay of another version?")


def event(frame: str | bytes) -> FileEvent | None:
    """The event of a frame; None for a kind that a newer server adds."""
    data = _object(frame)
    return model(FileEvent, data) if data.get("type") in _TYPES else None


def _object(frame: str | bytes) -> Json:
    return line_object(frame.encode() if isinstance(frame, str) else frame)
