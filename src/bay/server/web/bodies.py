"""Models and fields that the bodies of requests share.

A misspelt field is refused, as it would mean something else than was written. A number is no text or boolean
that could pass for one. A length is compared before the items, and a list is read up to its first wrong one:
a body of 1 MiB cannot have 65,000 errors.
"""

import re
import signal
from collections.abc import Collection, Sized
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, cast

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import (
    CoreSchema,
    InitErrorDetails,
    PydanticCustomError,
    PydanticKnownError,
    core_schema,
)

from bay import durations
from bay.clock import from_rfc3339
from bay.errors import BadRequest, Forbidden
from bay.hints import shown, unknown

MAX_USER = 65
_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}"
_USER = re.compile(rf"{_NAME}(?::{_NAME})?")


class KnownFields(BaseModel):
    """The base of user input, requests and settings alike: it refuses an unknown field by name."""

    model_config = ConfigDict(extra="forbid")
    noun: ClassVar[str] = "field"
    """The noun for its fields in an error."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, given: Any) -> Any:
        # Before pydantic would, which makes an error for each of them and does not say what there is.
        known = {info.alias or name for name, info in cls.model_fields.items()}
        if isinstance(given, dict) and not given.keys() <= known:
            fields = cast("dict[str, object]", given)
            raise _unknown(cls.noun, next(name for name in fields if name not in known), known)
        return cast("object", given)


def _unknown(noun: str, name: str, known: Collection[str]) -> ValidationError:
    error = PydanticCustomError("extra_forbidden", "{words}", {"words": unknown(noun, name, known)})
    place = InitErrorDetails(type=error, loc=(shown(name),), input=None)
    return ValidationError.from_exception_data("fields", [place])


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


LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")
_LabelName = Annotated[str, StringConstraints(pattern=rf"^{LABEL.pattern}$")]
Labels = Annotated[dict[_LabelName, Annotated[str, StringConstraints(max_length=256)]], Most(64)]
"""The labels of a sandbox or an exec."""


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


def _signal_name(value: object) -> object:
    """`INT` for every way to say it. Raises ValueError for what is no signal of this platform."""
    try:
        if isinstance(value, str):
            return signal.Signals[f"SIG{value.removeprefix('SIG')}"].name.removeprefix("SIG")
        if isinstance(value, int) and not isinstance(value, bool):
            return signal.Signals(value).name.removeprefix("SIG")
    except (KeyError, ValueError) as error:
        raise ValueError("is not a signal; give a name such as INT, or its number") from error
    return value


SignalName = Annotated[
    str,
    BeforeValidator(_signal_name, json_schema_input_type=str | int),
    Field(description="`INT`, `SIGINT` or 2"),
]


def split_tags(text: str) -> tuple[str, ...]:
    """The tags in a text of tags with commas between: sorted, each once."""
    return tuple(sorted({tag.strip() for tag in text.split(",")} - {""}))


def normal_tags(text: str | None) -> str | None:
    """The tags sorted, each once; None for an empty list."""
    return ",".join(split_tags(text or "")) or None


Description = Annotated[str | None, Field(max_length=4096)]
Tags = Annotated[
    str | None, Field(max_length=1024, description="Separated by commas"), AfterValidator(normal_tags)
]


def check_user(user: str | None) -> None:
    """Raises BadRequest for what names no user."""
    if user is not None and _USER.fullmatch(user) is None:
        raise BadRequest(
            "user must be a name or a uid of the sandbox's /etc/passwd, or USER:GROUP",
            details={"field": "user"},
        )


def check_allowed(user: str | None, *, root: bool) -> None:
    """Raises Forbidden for root, and for a chosen group, where the profile does not allow `root`."""
    if user is not None and not root and (user in ("root", "0") or ":" in user):
        raise Forbidden(
            f"the sandbox's profile does not allow root, which user {user} needs", details={"field": "user"}
        )
