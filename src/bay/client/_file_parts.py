"""Parts of the file calls without I/O: an open file's place, a listing's lines, a watch's frames."""

from typing import ClassVar

from bay.client._answers import model
from bay.client._lines import line_object
from bay.errors import BayError
from bay.models import FileEvent, FileInfo

OVERFLOW = FileEvent(type="overflow")
_TYPES = ("created", "modified", "deleted", "moved", "attributes", "overflow")


class OpenFile:
    """An open file has a place, and is for reading or for writing."""

    _reads: ClassVar[bool]

    def __init__(self, path: str) -> None:
        self.name = path
        self._buffer: bytearray = bytearray()
        self._at = 0

    def readable(self) -> bool:
        """Whether it was opened for reading."""
        return self._reads

    def seekable(self) -> bool:
        """Whether there is a choice of what comes next: in a file that is read."""
        return self._reads

    def writable(self) -> bool:
        """Whether it was opened for writing."""
        return not self._reads

    def tell(self) -> int:
        """The offset of the next byte."""
        return self._at


class Listing:
    """A listing, line by line; the last line says whether there is more."""

    def __init__(self) -> None:
        self.ended = False
        self.truncated = False

    def accept(self, line: bytes) -> FileInfo | None:
        data = line_object(line)
        if "truncated" in data and "name" not in data:
            self.ended, self.truncated = True, bool(data["truncated"])
            return None
        return model(FileInfo, data)


def watching(frame: str | bytes) -> None:
    """The first frame; raises BayError when it does not say that the watch has begun."""
    if line_object(frame).get("type") != "watching":
        raise BayError("the server's first frame is not `watching`; is it a Bay of another version?")


def event(frame: str | bytes) -> FileEvent | None:
    """The event of a frame; None for a kind that a newer server adds."""
    data = line_object(frame)
    return model(FileEvent, data) if data.get("type") in _TYPES else None
