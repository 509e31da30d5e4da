"""How requests of Sprites name their caller, and how its nouns, times, durations and errors look."""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from starlette.responses import JSONResponse, Response

from bay import __version__
from bay.clock import to_rfc3339, utc_now
from bay.errors import BadRequest, BayError, NotFound, QuotaExceeded, Unauthorized
from bay.models import Compute, PortAccess, PortSettings, Sandbox
from bay.server.compat.sprites.file_errors import file_error
from bay.server.web.auth import Caller, Keys
from bay.server.web.replies import headers_of
from bay.server.web.wire_format import Headers, Scope, WireFormat

PREFIX = "/v1/sprites"

PROFILE = "sprite"
URL_PORT = 8080
"""Where a sprite's URL leads unless a service of it says otherwise."""

UrlAuth = Literal["sprite", "public"]
_AUTH: dict[PortAccess, UrlAuth] = {"owner": "sprite", "public": "public"}
_ACCESS: dict[UrlAuth, PortAccess] = {"sprite": "owner", "public": "public"}

SpriteStatus = Literal["cold", "warm", "running"]
_STATUS: dict[Compute, SpriteStatus] = {
    "cold": "cold",
    "warming": "cold",  # the next call waits for a start
    "warm": "warm",
    "hibernated": "warm",
    "running": "running",
}

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_PART = r"(\d{1,12}(?:\.\d{1,9})?)(ns|us|µs|ms|s|m|h)"
_GO = re.compile(rf"(?:{_GO_PART})+")
_PART = re.compile(_GO_PART)
_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,9})?")
_LONGEST = 128
"""Characters of a duration."""


def time_of(moment: datetime | None) -> str | None:
    """A time as clients parse it: it ends in Z, with at most six digits of a second."""
    return None if moment is None else to_rfc3339(moment)


def seconds_of(text: str, field: str) -> float:
    """A duration as Go writes them (`1m30s`, `500ms`), or a number of seconds. Raises BadRequest."""
    if _NUMBER.fullmatch(text):
        return float(text)
    if len(text) > _LONGEST or not _GO.fullmatch(text):
        raise BadRequest(
            f"{field} must be a duration such as 10s, or a number of seconds; {text[:32]!r} is none"
        )
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def labels_of(labels: Mapping[str, str]) -> list[str]:
    """Labels as Sprites has them: text. One with a value is `name=value`."""
    return [f"{name}={value}" if value else name for name, value in labels.items()]


def url_settings(auth: UrlAuth) -> PortSettings:
    """The access of a URL, and the port of one that had none."""
    return PortSettings(port=URL_PORT, access=_ACCESS[auth])


def status_of(sandbox: Sandbox) -> SpriteStatus:
    """The status of a sprite: the cost of its next call."""
    return _STATUS[sandbox.compute]


def name_of(sandbox: Sandbox) -> str:
    """The name by which clients ask for it."""
    return sandbox.name or sandbox.id


def counts_of(counts: Mapping[str, int]) -> dict[str, int]:
    """How many sprites there are of each status."""
    found: dict[str, int] = {"running": 0, "warm": 0, "cold": 0}
    for compute, count in counts.items():
        found[_STATUS[compute]] += count  # type: ignore[index]
    return found


def sprite_of(sandbox: Sandbox, owner: str) -> dict[str, Any]:
    """A sandbox as a Sprite."""
    ran_at = _ran_at(sandbox)
    return {
        "id": sandbox.id,
        "name": name_of(sandbox),
        "organization": owner,
        "url": sandbox.url and sandbox.url.href,
        "url_settings": {"auth": _AUTH[sandbox.url.access] if sandbox.url else "sprite"},
        "status": status_of(sandbox),
        "created_at": time_of(sandbox.created_at),
        "updated_at": time_of(ran_at or sandbox.created_at),
        "labels": labels_of(sandbox.labels),
        "version": __version__,
        "environment_version": sandbox.image,
        "last_running_at": time_of(ran_at),
        "last_warming_at": None,
        "config": _config(sandbox),
        "environment": None,
    }


def _ran_at(sandbox: Sandbox) -> datetime | None:
    """When it was last active, by the clock that runs now; None of a cold one."""
    for until, after_s in (
        (sandbox.idle_expires_at, sandbox.idle_timeout),
        (sandbox.warm_expires_at, sandbox.warm_timeout),
    ):
        if until is not None and after_s is not None:
            return until - timedelta(seconds=after_s)
    return None


def _config(sandbox: Sandbox) -> dict[str, Any]:
    storage = None if sandbox.disk_mb is None else sandbox.disk_mb / 1024
    return {"ram_mb": sandbox.memory_mb, "cpus": sandbox.cpus, "storage_gb": storage}


def _caller(keys: Keys, _scope: Scope, headers: Headers) -> Caller:
    return keys.authenticate(headers.one("authorization"))


def _error(error: BayError, request_id: str, _scope: Scope) -> Response:
    body: dict[str, object] = {"error": _words(error), "message": error.message, "request_id": request_id}
    headers = headers_of(error) or {}
    if isinstance(error, QuotaExceeded):
        wait_s = int(headers["Retry-After"])
        body["retry_after_seconds"] = wait_s
        headers |= {
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": str(int(utc_now().timestamp()) + wait_s),
        }
        if isinstance(limit := error.details.get("limit"), int):
            body["limit"] = limit
            headers["X-RateLimit-Limit"] = str(limit)
    body |= file_error(error) or {}
    # A malformed request is 400 to clients of Sprites.
    return JSONResponse(body, 400 if error.status == 422 else error.status, headers)


def _words(error: BayError) -> str:
    """The text that clients compare and show."""
    if isinstance(error, Unauthorized):
        return "authentication failed"
    if type(error) is NotFound and error.message.startswith("there is no sandbox"):
        return "sprite not found"
    return error.message


FORMAT = WireFormat(
    prefix=PREFIX,
    authenticate=_caller,
    error=_error,
    uploads=re.compile(rf"{PREFIX}/[^/]+/fs/write"),
    streams=re.compile(rf"{PREFIX}/[^/]+/exec"),
    readers=re.compile(rf"{PREFIX}/[^/]+/(fs|ports)/watch"),
)
