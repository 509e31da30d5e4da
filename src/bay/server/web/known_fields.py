"""The base model of user input, requests and settings alike: it refuses an unknown field by name."""

from collections.abc import Collection
from typing import Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from bay.hints import shown, unknown


class KnownFields(BaseModel):
    """Refuses an unknown field and names the nearest known one: a misspelt field must not be ignored."""

    model_config = ConfigDict(extra="forbid")
    noun: ClassVar[str] = "field"
    """The noun for its fields in an error."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, given: Any) -> Any:
        # Before pydantic would, which makes an error for each of them and does not say what there is.
        known = cls.model_fields
        if isinstance(given, dict) and not given.keys() <= known.keys():
            fields = cast("dict[str, object]", given)
            raise _unknown(cls.noun, next(name for name in fields if name not in known), known)
        return cast("object", given)


def _unknown(noun: str, name: str, known: Collection[str]) -> ValidationError:
    error = PydanticCustomError("extra_forbidden", "{words}", {"words": unknown(noun, name, known)})
    place = InitErrorDetails(type=error, loc=(shown(name),), input=None)
    return ValidationError.from_exception_data("fields", [place])
