"""Rewords validation errors in the form `must be …`, for the API, `bay serve` and the CLI.

It knows pydantic's error types and nothing of pydantic itself, which the CLI does not always load.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

Context = Mapping[str, Any]

_INTERNAL = frozenset("[(")

_FIXED: dict[str, str] = {
    "missing": "is missing",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "bytes_type": "must be text",
    "date_from_datetime_parsing": "must be a date such as 2030-01-31",
    "datetime_from_date_parsing": "must be a time such as 2030-01-31T12:00:00Z",
    "datetime_object_invalid": "must be a time such as 2030-01-31T12:00:00Z",
    "datetime_parsing": "must be a time such as 2030-01-31T12:00:00Z",
    "datetime_type": "must be a time such as 2030-01-31T12:00:00Z",
    "dict_type": "must be an object",
    "extra_forbidden": "is not known here",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_type": "must be a whole number",
    "ip_any_address": "must be an IP address",
    "ip_any_network": "must be a network such as 10.0.0.0/8",
    "ip_v4_address": "must be an IP address",
    "ip_v4_network": "must be a network such as 10.0.0.0/8",
    "ip_v6_address": "must be an IP address",
    "ip_v6_network": "must be a network such as 10.0.0.0/8",
    "list_type": "must be a list",
    "model_attributes_type": "must be an object",
    "model_type": "must be an object",
    "path_type": "must be a path",
    "string_sub_type": "must be text",
    "string_type": "must be text",
    "string_unicode": "must be UTF-8 text",
    "timezone_aware": "must be a time with its offset, such as 2030-01-31T12:00:00Z",
    "tuple_type": "must be a list",
}

_FILLED: dict[str, str] = {
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be {ge} or more",
    "json_invalid": "is not valid JSON: {error}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be {le} or less",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_long": "must have {max_length} characters or fewer",
    "string_too_short": "must have {min_length} characters or more",
    "too_long": "must have {max_length} items or fewer, and has {actual_length}",
    "too_short": "must have {min_length} items or more",
    "union_tag_invalid": "must be one of {expected_tags}",
}


def place(error: Mapping[str, Any]) -> str:
    """Where it is wrong, such as `body.ports.0.port`, without what pydantic says of its own validators."""
    parts = map(str, cast("tuple[object, ...]", error["loc"]))
    return ".".join(part for part in parts if not _INTERNAL & set(part))


def words(error: Mapping[str, Any]) -> str:
    """The problem with the value of pydantic's `error`, in plain words."""
    kind, context = str(error.get("type")), cast("Context", error.get("ctx") or {})
    if (fixed := _FIXED.get(kind)) is not None and not _is_own(kind, error):
        return fixed
    if (form := _FILLED.get(kind)) is not None:
        return _filled(form, context)
    return _OTHERS.get(kind, _rest)(str(error.get("msg", "is not valid")))


def _is_own(kind: str, error: Mapping[str, Any]) -> bool:
    """Whether Bay has said more about it than pydantic would."""
    return kind == "extra_forbidden" and str(error.get("msg")) != "Extra inputs are not permitted"


def _filled(form: str, context: Context) -> str:
    try:
        return form.format_map(context)
    except KeyError:
        return "is not valid"


def _own(message: str) -> str:
    return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")


def _rest(message: str) -> str:
    return message.replace("Input should be", "must be").replace("Input should", "must")


_OTHERS: dict[str, Callable[[str], str]] = {"value_error": _own, "assertion_error": _own}
