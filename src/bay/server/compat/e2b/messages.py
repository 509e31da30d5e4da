"""Messages of protobuf in its JSON mapping, read as leniently as the mapping allows.

Fields come in lowerCamelCase or as in the schema, 64-bit integers as texts, enums by name or number, bytes in
any base64 with or without padding. Fields that are unknown here are for newer servers.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, cast

_HUMP = re.compile(r"_([a-z])")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""An escape for half of a pair. Alone it is no text that a file, a program or a database could take."""
_MOST_ITEMS = 65_536


class Malformed(ValueError):
    """A message, or a field of one, is not of its kind."""


class Message:
    """One message. Its fields are asked for by their names in the schema. A wrong kind raises Malformed."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    @classmethod
    def of_json(cls, data: bytes) -> "Message":
        """The message in a body; an empty body is an empty message."""
        try:
            text = data.decode()
            found: object = json.loads(text or "{}")
            if _SURROGATE.search(text):
                json.dumps(found, ensure_ascii=False).encode()
        except UnicodeError as error:
            raise Malformed("the message has text that is not UTF-8, or half of a surrogate pair") from error
        except (ValueError, RecursionError) as error:
            raise Malformed("the message is not JSON") from error
        if not isinstance(found, dict):
            raise Malformed("the message is not a JSON object")
        return cls(cast("dict[str, Any]", found))

    def has(self, name: str) -> bool:
        """Whether the field is there, null being as good as absent."""
        return self._value(name) is not None

    def text(self, name: str) -> str:
        """A text, empty when absent."""
        value = self._value(name)
        return self._checked(name, "" if value is None else value, str)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A boolean."""
        value = self._value(name)
        return self._checked(name, default if value is None else value, bool)

    def number(self, name: str) -> int:
        """A whole number, 0 when absent."""
        value = self._value(name)
        if isinstance(value, bool) or not isinstance(value, int | str | None):
            raise Malformed(f"{name} must be a whole number")
        try:
            found = int(value or 0)
        except (ValueError, OverflowError) as error:
            raise Malformed(f"{name} must be a whole number") from error
        return found

    def enum(self, name: str, numbers: Mapping[str, int]) -> int:
        """The number of an enum's value, given by its name or number."""
        value = self._value(name)
        return numbers[value] if isinstance(value, str) and value in numbers else self.number(name)

    def data(self, name: str) -> bytes:
        """Bytes."""
        text = self.text(name).rstrip("=").translate(str.maketrans("-_", "+/"))
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except (binascii.Error, ValueError) as error:
            raise Malformed(f"{name} is not base64") from error

    def message(self, name: str) -> "Message | None":
        """A message in this one; None when absent."""
        value = self._value(name)
        return None if value is None else Message(self._checked(name, value, dict))

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        value = self._value(name)
        found: list[object] = [] if value is None else self._checked(name, value, list)
        if len(found) > _MOST_ITEMS or not all(isinstance(item, str) for item in found):
            raise Malformed(f"{name} must be a list of up to {_MOST_ITEMS} texts")
        return cast("list[str]", found)

    def pairs(self, name: str) -> dict[str, str]:
        """A map of texts."""
        value = self._value(name)
        found: dict[str, object] = {} if value is None else self._checked(name, value, dict)
        if not all(isinstance(item, str) for item in found.values()):
            raise Malformed(f"{name} must be a map of texts")
        return cast("dict[str, str]", found)

    def _value(self, name: str) -> Any:
        found = self._fields.get(_HUMP.sub(lambda hump: hump[1].upper(), name))
        return self._fields.get(name) if found is None else found

    def _checked(self, name: str, value: Any, kind: type[Any]) -> Any:
        if not isinstance(value, kind):
            raise Malformed(f"{name} must be a {_KINDS[kind]}")
        return value


_KINDS: dict[type[Any], str] = {str: "text", bool: "boolean", dict: "message", list: "list"}
