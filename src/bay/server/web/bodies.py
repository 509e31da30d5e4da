"""Models and parsers that the bodies of requests share.

An unknown field is refused, since a misspelt one would mean something else than was written. A number is a
number, not a text or a boolean that could pass for one. The length of a list or an object is compared before
its items are looked at, and a list is looked at up to its first wrong item: a body of 1 MiB cannot have
65,000 errors.
"""

from collections.abc import Sized
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import (
    AwareDatetime,
    BeforeValidator,
    ConfigDict,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from bay import durations
from bay.clock import from_rfc3339
from bay.server.web.known_fields import KnownFields


class Body(KnownFields):
    """A JSON object that a caller sends."""

    model_config = ConfigDict(strict=True)


@dataclass(frozen=True, slots=True)
class Most:
    """Metadata of a list or object: how many items it may have."""

    count: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A schema that compares the length first, and stops at the first wrong item of a list."""
        schema = cast("dict[str, Any]", handler(source))
        schema |= {"max_length": self.count, "strict": False}  # a tuple comes as JSON's only kind of list
        if schema["type"] in ("list", "tuple"):
            schema["fail_fast"] = True
        return core_schema.no_info_before_validator_function(self._check, cast("CoreSchema", schema))

    def _check(self, given: object) -> object:
        if isinstance(given, list | dict) and len(cast("Sized", given)) > self.count:
            kind = "Dictionary" if isinstance(given, dict) else "List"
            length = len(cast("Sized", given))
            context = {"field_type": kind, "max_length": self.count, "actual_length": length}
            raise PydanticKnownError("too_long", context)
        return cast("object", given)


class _Duration:
    """Metadata of a number of seconds, which may then also be text with units."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(_seconds, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        text = {"type": "string", "pattern": f"^(?!$){durations.PATTERN[1:]}", "examples": ["10m", "1h30m"]}
        return {"anyOf": [handler(schema), text]}


def _seconds(given: object) -> object:
    if isinstance(given, float) and given.is_integer():
        return int(given)  # JSON has one kind of number
    parsed = durations.parse(given) if isinstance(given, str) else None
    return given if parsed is None else parsed


def raw_body(media_type: str, description: str) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads its body as it comes."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {"requestBody": {"required": True, "description": description, "content": content}}


DURATION = _Duration()
"""Seconds as a number, or as text such as `10m` or `1h30m`."""


def _moment(given: object) -> object:
    try:
        return from_rfc3339(given) if isinstance(given, str) else given
    except (ValueError, OverflowError) as error:
        raise ValueError("is not a time; give one such as 2030-01-31T12:00:00Z") from error


Moment = Annotated[AwareDatetime, BeforeValidator(_moment)]
"""A time in RFC 3339 and nothing else: a number would be taken for seconds since 1970."""
