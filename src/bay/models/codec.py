"""The codec turns models into JSON-ready data and back."""

from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import datetime
from functools import cache, partial
from types import UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from bay.clock import from_rfc3339, to_rfc3339

Model = TypeVar("Model")


def to_wire(value: object) -> Any:
    """`value` (a model, or anything made of models) as JSON-ready data."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if names := _names(kind):
        return {name: to_wire(getattr(value, name)) for name in names}
    if isinstance(value, datetime):
        return to_rfc3339(value)
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {str(k): to_wire(v) for k, v in cast("dict[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [to_wire(v) for v in cast("list[object]", value)]
    return value


_PLAIN = frozenset((str, int, float, bool, type(None)))


@cache
def _names(kind: type[object]) -> tuple[str, ...]:
    """The fields of a model; none of what is no model."""
    return tuple(f.name for f in fields(kind)) if is_dataclass(kind) else ()


def from_wire(cls: type[Model], data: object) -> Model:
    """A `cls` from decoded JSON. Raises TypeError or ValueError when `data` does not describe one."""
    if not isinstance(data, dict):
        raise TypeError(f"expected an object for {cls.__name__}, got {type(data).__name__}")
    given = cast("dict[str, Any]", data)
    decoders = _decoders(cls)
    return cls(**{n: _decoded(decoders[n], value) for n, value in given.items() if n in decoders})


Decoder = Callable[[Any], Any]


def _decoded(decode: Decoder | None, value: Any) -> Any:
    return value if decode is None or value is None else decode(value)


@cache
def _decoders(cls: type[object]) -> dict[str, Decoder | None]:
    """How each field is decoded, found out once a class; None for what stays as it came."""
    return {name: _decoder(hint) for name, hint in get_type_hints(cls).items()}


def _decoder(hint: Any) -> Decoder | None:
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return _decoder(next(a for a in get_args(hint) if a is not type(None)))
    if origin is tuple:
        each = _decoder(get_args(hint)[0])
        return tuple if each is None else lambda items: tuple(_decoded(each, item) for item in items)
    if hint is datetime:
        return from_rfc3339
    if hint is bytes:
        return partial(b64decode, validate=True)
    return partial(from_wire, cast("type[Any]", hint)) if is_dataclass(hint) else None
