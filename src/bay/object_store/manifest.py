"""The manifest of a pushed checkpoint, the last object of it to be written: without it there is nothing."""

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, cast

from bay.errors import BadRequest
from bay.ids import is_id_of
from bay.models import Persist
from bay.object_store.base import LARGEST

FORMAT = 1
LONGEST = 8 << 20
"""Bytes of it as JSON, at most."""
MOST_PARTS = 20_000
_WORDS = 4096
_DIGEST = re.compile("[0-9a-f]{64}")
_PART = re.compile("[0-9a-f]{8}-[0-9]{5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivePart:
    """One object of an archive; `size` in bytes. Its name is of digits alone, and leads out of no folder."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PushManifest:
    """A pushed checkpoint. `sha256` and `size` (bytes) are those of the archive, `parts` in their order."""

    bay: str
    checkpoint_id: str
    sandbox_id: str
    sandbox_name: str | None
    name: str | None
    comment: str | None
    persist: Persist
    image: str
    created_at: datetime
    pushed_at: datetime
    sha256: str
    size: int
    files: int
    parts: tuple[ArchivePart, ...]

    def to_json(self) -> bytes:
        times = {"created_at": self.created_at.isoformat(), "pushed_at": self.pushed_at.isoformat()}
        return json.dumps({"format": FORMAT, **asdict(self), **times}).encode()

    @classmethod
    def from_json(cls, text: bytes, checkpoint_id: str) -> "PushManifest":
        """The manifest of that checkpoint. Raises BadRequest for what no Bay writes, or only a newer one."""
        bad = f"the manifest of {checkpoint_id} in the object store is damaged; push the checkpoint again"
        try:
            found = json.loads(text) if len(text) <= LONGEST else None
        except (ValueError, RecursionError):
            found = None
        values = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
        version = values.pop("format", None)
        if type(version) is int and version > FORMAT:
            raise BadRequest(f"{checkpoint_id} was pushed by a newer Bay; pull it with that one")
        try:
            if version != FORMAT or values["checkpoint_id"] != checkpoint_id:
                raise ValueError(version)
            return cls._checked(values)
        except (ValueError, KeyError, TypeError, OverflowError):
            raise BadRequest(bad) from None

    @classmethod
    def _checked(cls, found: dict[str, Any]) -> "PushManifest":
        parts = tuple(part_of(one) for one in found["parts"])
        texts = {name: _text(found[name], name) for name in ("sandbox_name", "name", "comment")}
        _check(0 < len(parts) <= MOST_PARTS)
        _check(len({part.name for part in parts}) == len(parts))
        _check(type(found["size"]) is int and sum(part.size for part in parts) == found["size"])
        _check(type(found["files"]) is int and 0 <= found["files"] < 1 << 53)
        _check(found["persist"] in ("workspace", "machine"))
        _check(is_id_of("ckpt", found["checkpoint_id"]) and is_id_of("sandbox", found["sandbox_id"]))
        _check(is_digest(found["sha256"]))
        return cls(
            **texts, parts=parts, size=found["size"], files=found["files"], persist=found["persist"],
            checkpoint_id=found["checkpoint_id"], sandbox_id=found["sandbox_id"], sha256=found["sha256"],
            bay=_given(found, "bay"), image=_given(found, "image"),
            created_at=_time(found["created_at"]), pushed_at=_time(found["pushed_at"]),
        )  # fmt: skip


def part_of(found: dict[str, Any]) -> ArchivePart:
    """One part as a manifest has it. Raises ValueError, KeyError or TypeError for what no Bay writes."""
    name, size, digest = found["name"], found["size"], found["sha256"]
    _check(_PART.fullmatch(name) is not None and is_digest(digest))
    _check(type(size) is int and 0 < size <= LARGEST)
    return ArchivePart(name=name, size=size, sha256=digest)


def is_digest(text: str) -> bool:
    """Whether it is a SHA-256 in hexadecimal digits."""
    return _DIGEST.fullmatch(text) is not None


def _check(is_right: bool) -> None:
    if not is_right:
        raise ValueError("the manifest")


def _given(found: dict[str, Any], name: str) -> str:
    text = _text(found[name], name)
    _check(text is not None)
    return text or ""


def _text(word: Any, name: str) -> str | None:
    if word is None:
        return None
    _check(isinstance(word, str) and len(word) <= _WORDS)
    _check(not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in word))
    return cast("str", word)


def _time(text: Any) -> datetime:
    found = datetime.fromisoformat(text)
    _check(found.tzinfo is not None)
    return found.astimezone(UTC)
