"""How files and their events look in envd's messages."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from stat import filemode
from typing import Any

from bay.models import FileEvent, FileType
from bay.server.files.ship_client import FileDetails

_TYPES: dict[FileType, str] = {
    "file": "FILE_TYPE_FILE",
    "directory": "FILE_TYPE_DIRECTORY",
}
_LETTERS: dict[FileType, str] = {
    "file": "-", "directory": "d", "symlink": "L", "fifo": "p", "socket": "S", "device": "D",
}  # fmt: skip
"""The first letter of permissions in Go's words, which clients show."""
_TURN = 500
"""Entries that are made before other requests have their turn."""
_CREATE, _WRITE, _REMOVE = "EVENT_TYPE_CREATE", "EVENT_TYPE_WRITE", "EVENT_TYPE_REMOVE"
_RENAME, _CHMOD = "EVENT_TYPE_RENAME", "EVENT_TYPE_CHMOD"
_KINDS: dict[str, str] = {
    "created": _CREATE, "modified": _WRITE, "deleted": _REMOVE, "attributes": _CHMOD,
}  # fmt: skip


def entry_of(found: FileDetails) -> dict[str, Any]:
    """An EntryInfo. A link has the type of what it leads to, none where that is not there."""
    info = found.info
    kind = (found.end[1] if found.end else None) if info.type == "symlink" else info.type
    entry: dict[str, Any] = {
        "name": info.name,
        "type": _TYPES.get(kind, "FILE_TYPE_UNSPECIFIED") if kind else "FILE_TYPE_UNSPECIFIED",
        "path": info.path,
        "size": str(info.size or 0),
        "mode": int(info.mode, 8) & 0o777,
        "permissions": _LETTERS[info.type] + filemode(int(info.mode, 8) & 0o777)[1:],
        "owner": found.owner,
        "group": found.group,
        "modifiedTime": _moment(info.mtime),
    }
    if info.type == "symlink":
        entry["symlinkTarget"] = found.end[0] if found.end else info.target or ""
        entry["isSymlink"] = True
    return entry | ({"metadata": dict(found.attributes)} if found.attributes else {})


async def list_of(found: Sequence[FileDetails]) -> bytes:
    """The answer with all these, as JSON. It is made in parts, between which other requests have their turn:
    fifty thousand entries take half a second of the processor.
    """
    parts: list[bytes] = []
    for first in range(0, len(found), _TURN):
        entries = [entry_of(one) for one in found[first : first + _TURN]]
        parts.append(json.dumps(entries, ensure_ascii=False, separators=(",", ":"))[1:-1].encode())
        await asyncio.sleep(0)
    return b'{"entries":[%b]}' % b",".join(parts)


def steps_of(event: FileEvent) -> list[tuple[str, str]]:
    """The events of envd for one of Bay's, which says what has become of a file: type and path of each. A
    program that writes a new file makes one, sets its mode and writes; to Bay an upload is one event.
    """
    path = event.path or ""
    match event.type, event.content:
        case "moved", _:
            return [(_RENAME, path), (_CREATE, event.to or "")]
        case "created", "new":
            return [(_CREATE, path), (_CHMOD, path), (_WRITE, path)]
        case "created", "replaced":
            return [(_CHMOD, path), (_WRITE, path)]
        case _:
            return [(_KINDS[event.type], path)]


def _moment(mtime: float) -> str:
    try:
        found = datetime.fromtimestamp(mtime, UTC)
    except (ValueError, OverflowError, OSError):  # a year that no calendar has
        found = datetime.fromtimestamp(0, UTC)
    return found.isoformat().replace("+00:00", "Z")


def filesystem_event(told: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The event in a message of a watch; None in one that has none."""
    return told.get("filesystem")
