"""Routes whose requests are read by a plan that is made once.

FastAPI looks through a route's signature again for each request. A plan knows scalars of path, query and
headers, one JSON body, and dependencies on those. It reads requests without a fault; FastAPI reads all
others, from the start, and words each refusal.
"""

import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from inspect import iscoroutinefunction, isfunction
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fastapi import HTTPException, Request, Response, params
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

_SCALARS = (str, int, float, bool, NoneType)
_SOURCES = {"path_params": "path_params", "query_params": "query_params", "header_params": "headers"}
_ODD = (
    "cookie_params",
    "websocket_param_name",
    "background_tasks_param_name",
    "response_param_name",
    "security_scopes_param_name",
)


class _Unplanned(Exception):
    """A route or request that FastAPI is to read."""


class PlannedRoute(APIRoute):
    """A route of FastAPI in all but the reading of requests."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Called by FastAPI."""
        by_fastapi, endpoint = super().get_route_handler(), self.endpoint
        try:
            plan = _plan(self.dependant)
        except _Unplanned:
            return by_fastapi
        if not _gives_response(endpoint) or self._embed_body_fields or len(plan.body) > 1:
            return by_fastapi

        async def handle(request: Request) -> Response:
            try:
                values = await plan.values(request, await _json(request) if plan.body else None, {})
            except _Unplanned:
                return await by_fastapi(request)
            return await endpoint(**values)

        return handle


@dataclass(frozen=True, slots=True)
class _Field:
    """An argument that is a part of the request: `source` is the attribute of Request that has it."""

    name: str
    alias: str
    source: str
    is_required: bool
    default: Any
    validate: Callable[..., tuple[Any, Any]]

    def of(self, given: Any) -> Any:
        """The value of what is given, None for nothing. Raises _Unplanned."""
        if given is None:
            if self.is_required:
                raise _Unplanned
            return self.default
        value, errors = self.validate(given, {}, loc=())
        if errors:
            raise _Unplanned
        return value


@dataclass(frozen=True, slots=True)
class _Plan:
    """How the arguments of a route or dependency are found. `name` is that of the argument it gives."""

    call: Callable[..., Awaitable[Any]]
    name: str | None
    below: tuple["_Plan", ...]
    fields: tuple[_Field, ...]
    body: tuple[_Field, ...]
    requests: tuple[str, ...]
    """Arguments that are the request itself."""

    async def values(self, request: Request, body: Any, found: dict[Any, Any]) -> dict[str, Any]:
        """The arguments; `found` has what dependencies gave so far. Raises _Unplanned, and as they do."""
        values: dict[str, Any] = dict.fromkeys(self.requests, request)
        for plan in self.below:
            if plan.call not in found:
                found[plan.call] = await plan.call(**await plan.values(request, body, found))
            if plan.name is not None:
                values[plan.name] = found[plan.call]
        for field in self.fields:
            values[field.name] = field.of(getattr(request, field.source).get(field.alias))
        for field in self.body:
            values[field.name] = field.of(body)
        return values


async def _json(request: Request) -> Any:
    """The body of a request that says it is JSON, and is. Raises _Unplanned."""
    try:
        body = await request.body()
    except ClientDisconnect as error:
        raise HTTPException(400, "There was an error parsing the body") from error  # as FastAPI says it
    if not body or request.headers.get("content-type") != "application/json":
        raise _Unplanned
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _Unplanned from None


def _plan(part: Dependant) -> _Plan:
    """The plan of a function's arguments. Raises _Unplanned."""
    call = part.call
    if call is None or any(getattr(part, name, None) for name in _ODD):
        raise _Unplanned
    if not iscoroutinefunction(call if isfunction(call) else type(call).__call__):
        raise _Unplanned
    requests = (part.http_connection_param_name, part.request_param_name)
    return _Plan(
        call=call,
        name=part.name,
        below=tuple(map(_plan, part.dependencies)),
        fields=tuple(
            _field(field, source) for kind, source in _SOURCES.items() for field in getattr(part, kind)
        ),
        body=tuple(_field(field, "") for field in part.body_params),
        requests=tuple(name for name in requests if name),
    )


def _field(field: Any, source: str) -> _Field:
    info, default = field.field_info, field.default
    is_required = info.is_required()
    is_plain = info.validation_alias in (None, field.alias) and not info.validate_default
    has_value = is_required or isinstance(default, _SCALARS)
    if not is_plain or not has_value or isinstance(info, params.Form):
        raise _Unplanned
    if source and not _is_scalar(info.annotation):
        raise _Unplanned
    return _Field(field.name, field.alias, source, is_required, default, field.validate)


def _is_scalar(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, UnionType):
        return all(map(_is_scalar, get_args(annotation)))
    return get_origin(annotation) is Literal or annotation in _SCALARS


def _gives_response(endpoint: Callable[..., Any]) -> bool:
    given = get_type_hints(endpoint).get("return")
    return isinstance(given, type) and issubclass(given, Response)
