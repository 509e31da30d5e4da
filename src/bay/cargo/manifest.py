"""The manifest describes an exported checkpoint."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, cast

from bay.errors import BadRequest
from bay.ids import is_id
from bay.models import Persist

FORMAT = 1
LONGEST = 1 << 16
"""Bytes of it as JSON, at most."""
_WORDS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One exported checkpoint: by which Bay, and what was known of it. Its machine grew from `image`."""

    bay: str
    persist: Persist
    image: str
    created_at: datetime
    name: str | None = None
    comment: str | None = None
    sandbox_id: str | None = None

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self), "created_at": self.created_at.isoformat()})

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Raises BadRequest for what no Bay writes, or only a newer one."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        match found:
            case {"format": int(version)} if version > FORMAT:
                raise BadRequest("the checkpoint was exported by a newer Bay; import it with that one")
            case {
                "format": 1,
                "bay": str(),
                "persist": "workspace" | "machine",
                "image": str(),
                "created_at": str(),
            }:
                return cls._checked(cast("dict[str, Any]", found))
            case _:
                raise BadRequest("its manifest has no checkpoint; Bay did not export it")

    @classmethod
    def _checked(cls, found: dict[str, Any]) -> "Manifest":
        names = ("bay", "persist", "image", "name", "comment", "sandbox_id")
        words: dict[str, Any] = {name: found.get(name) for name in names}
        sandbox_id = words["sandbox_id"]
        if not all(map(_is_text, words.values())) or (sandbox_id and not is_id(sandbox_id)):
            raise BadRequest("its manifest is invalid; Bay did not export it")
        try:
            created = datetime.fromisoformat(found["created_at"])
            if created.tzinfo is not None:
                created = created.astimezone(UTC)  # may lie outside of the years that there are
        except (ValueError, OverflowError):
            raise BadRequest("its manifest has no time of the checkpoint; Bay did not export it") from None
        if created.tzinfo is None:
            raise BadRequest("the time in its manifest has no zone; Bay did not export it")
        return cls(**words, created_at=created)


def _is_text(word: object) -> bool:
    return word is None or (isinstance(word, str) and len(word) <= _WORDS and _can_be_kept(word))


def _can_be_kept(word: str) -> bool:
    return not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in word)
