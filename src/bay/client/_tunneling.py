"""The frames of a tunnel's WebSocket, decided without I/O.

A binary frame is bytes of the TCP connection as they are; the text frame ``{"type": "eof"}`` is the end of
one direction.
"""

import json
from collections.abc import Iterator

from bay.client._frames import INPUT_BYTES, is_end
from bay.client._lines import line_object
from bay.errors import BayError, Conflict, ConnectionFailed, PortClosed
from ship_protocol import CloseCode

EOF_FRAME = json.dumps({"type": "eof"})


def frames(data: bytes | bytearray | memoryview) -> Iterator[bytes]:
    """The frames that carry `data`: each of them fits into the buffer of a socket that has room."""
    whole = memoryview(data).cast("B")
    for start in range(0, len(whole), INPUT_BYTES):
        yield bytes(whole[start : start + INPUT_BYTES])


def is_eof(frame: str) -> bool:
    """Whether a text frame says that the bytes have ended. A kind that a newer server adds does not."""
    return line_object(frame).get("type") == "eof"


def meaning(error: BayError, port: int) -> BayError:
    """The error that the socket's end means for a tunnel to `port`."""
    if is_end(error):
        return Conflict(f"the program behind port {port} closed the connection; nothing more can be sent")
    if error.details.get("close_code") == CloseCode.UNREACHABLE and "port_closed" in error.message:
        return PortClosed(f"nothing listens on port {port} of the sandbox any more", details=error.details)
    if isinstance(error, ConnectionFailed):
        return ConnectionFailed(f"the tunnel to port {port} broke: {error.message}", details=error.details)
    return error
