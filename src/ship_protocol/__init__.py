"""Constants of the protocol of Ship and Bay (docs/ship-protocol.md); the SDK shares the close codes.

A name that stands here is written nowhere else. Every Ship loads this module at its start: it imports the
standard library only.
"""

import hashlib
import hmac
import struct
from enum import IntEnum, StrEnum

SESSION_HEADER = "X-Ship-Session"
"""Carries the proof of `session_proof` in every answer."""

FILE_HEADER = "X-Ship-File"
"""Describes, as JSON, the bytes of a file that follow."""

MESSAGE_BYTES = 1 << 20
"""The most that one WebSocket message may hold."""

FRAGMENTS = 1024
"""The most frames that one WebSocket message may come in."""

CONTROLS_PER_S = 50
"""The most control messages that an attachment takes in a second."""

STDIN, STDOUT, STDERR, REPAINT, END_OF_STDIN = b"\0", b"\1", b"\2", b"\3", b"\4"
"""The first byte of an attachment's binary frame. Output of a terminal is STDOUT; only Bay sends REPAINT."""

LEAVE = '{"type": "leave"}'
"""Ship's message that asks the peer of an attachment to close it, and to attach again."""

RING_BYTES = 16 << 20
"""The most output that a Ship keeps of an exec."""

CELL_BYTES = 16 << 20
"""The most output that a Ship keeps of a cell."""

ERROR_BYTES = 20 << 20
"""The longest line of an error that ends a cell, which is kept beside its output."""

LISTED_ENTRIES, LISTED_DEPTH = 200_000, 64
"""The most entries, and directory levels, of one list of files."""

TERMINAL_EXTENT = 1000
"""The most rows, or columns, of a terminal."""

PIECE_HEAD = struct.Struct(">I")
"""Before each piece of a tunnel: how many bytes it has."""

END_OF_PIECES = PIECE_HEAD.pack(0)

CHECKPOINT_TRAILER = 1024
"""The bytes behind the last member of a checkpoint's tar: JSON, filled up with zeros."""

HELLO_NONCE = range(32, 129)
"""How many hexadecimal digits the nonce of `GET /hello` has."""

BOOTSTRAP_BYTES = 4 << 20
"""The largest body of `POST /bootstrap`."""

BOOTSTRAP_SETTINGS = frozenset(
    ("SHIP_TOKEN", "SHIP_WORKSPACE", "SHIP_UID", "SHIP_GID", "SHIP_USER", "SHIP_HOME", "SHIP_CWD",
     "SHIP_MAKE_ACCOUNT", "SHIP_GROUPS", "SHIP_USERS", "SHIP_ALLOW_ROOT", "SHIP_KERNEL", "SHIP_ENV",
     "SHIP_KERNEL_ENV", "SHIP_ENV_FILE", "SHIP_SKILLS", "SHIP_SWITCH", "SHIP_SYNC")
)  # fmt: skip
"""The settings that `POST /bootstrap` takes."""

_FIRST_OFFSET = "first_offset="


class Feature(StrEnum):
    """A part of the protocol that Ships of earlier Bays do not have, and would ignore in silence."""

    ACTING = "acting"
    """Files are touched and watched as a named user, by paths from that user's home."""
    ATTRIBUTES = "attributes"
    """A file that is written is given extended attributes."""
    WATCH_SIZES = "watch_sizes"
    """A watch tells the sizes of files."""
    ATTACHED_CELLS = "attached_cells"
    """A cell ends with its reader."""
    CELL_ENV = "cell_env"
    """A cell has variables of its own."""
    COPIES = "copies"
    """A Ship that pauses by processes gives a copy of the workspace, for which the programs stand still."""
    CELL_CWD = "cell_cwd"
    """A cell has a directory for the kernel that it makes."""
    DESCRIBED_RESULTS = "described_results"
    """A cell tells figures and tables as data."""


class CloseCode(IntEnum):
    """Why a WebSocket was closed: RFC 6455, section 7.4; from 4000 on Bay's own, after the HTTP status."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    INVALID_DATA = 1007
    TOO_LARGE = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_MESSAGE = 4400
    FORBIDDEN = 4403
    NOT_FOUND = 4404
    CONFLICT = 4409
    OUTPUT_GONE = 4410
    TOO_MANY = 4429
    SHIP_FAILED = 4500
    UNREACHABLE = 4502


def session_proof(token: str) -> str:
    """The proof that a Ship knows the token of its session."""
    return hashlib.sha256(f"ship-session:{token}".encode()).hexdigest()[:32]


def bootstrap_token(token: str) -> str:
    """The one-time token of a Ship that is reached over TCP, from the token of its session. It tells nothing
    of that: HMAC-SHA256 (RFC 2104).
    """
    return hmac.digest(token.encode(), b"ship-bootstrap", "sha256").hex()


def hello_proof(bootstrap: str, nonce: str, certificate: str) -> str:
    """The proof that the owner of a certificate (SHA-256 of its DER, hex) knows the bootstrap token."""
    said = f"ship-hello:{nonce}:{certificate}".encode()
    return hmac.digest(bootstrap.encode(), said, "sha256").hex()


def first_offset_reason(offset: int) -> str:
    """The reason beside OUTPUT_GONE: the oldest byte that is kept."""
    return f"{_FIRST_OFFSET}{offset}"


def first_offset_in(reason: str) -> int | None:
    """The offset in the reason beside OUTPUT_GONE; None when it has none."""
    digits = reason.removeprefix(_FIRST_OFFSET)
    is_one = digits != reason and digits.isascii() and digits.isdecimal() and len(digits) <= 18
    return int(digits) if is_one else None
