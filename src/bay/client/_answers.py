"""The answers of Bay are read here, and unsuccessful ones raised as errors."""

import json
from typing import NoReturn, TypeVar, cast

import httpx

from bay.client._calls import Json
from bay.errors import BayError, Unauthorized, error_from_wire
from bay.models import from_wire

Model = TypeVar("Model")


def check(response: httpx.Response, url: str) -> None:
    """Raise what an unsuccessful answer stands for; its body must have been read."""
    if response.is_success:
        return
    if response.is_redirect:
        raise BayError(
            f"{url} answered with a redirect to {response.headers.get('location')}, which is not followed; "
            "if that is Bay, set BAY_URL to it"
        )
    body = _json_or_none(response)
    if not _names_an_error(body):
        _not_bay(response, url)
    error = error_from_wire(response.status_code, body)
    _note_retry_after(error, response.headers.get("retry-after", ""))
    raise _where_keys_are(error) if isinstance(error, Unauthorized) else error


def _where_keys_are(error: Unauthorized) -> Unauthorized:
    lacking = error.message.startswith("no API key")
    fact = "no API key; set BAY_API_KEY" if lacking else f"{error.message}; check BAY_API_KEY"
    return Unauthorized(
        f"{fact}: a server keeps the first one it made in admin.key in its data directory, "
        "/var/lib/bay unless set otherwise",
        details=error.details,
        request_id=error.request_id,
    )


def _names_an_error(body: object) -> bool:
    return isinstance(body, dict) and isinstance(cast("Json", body).get("error"), dict)


def check_own(response: httpx.Response, url: str) -> None:
    """Raise what Bay itself says of a call to an app; all that the app answers is good, whatever its status.

    Bay adds a policy to everything that an app answers by path, and to nothing of its own.
    """
    is_of_app = "sandbox allow-scripts" in response.headers.get("content-security-policy", "")
    if not (response.is_success or is_of_app):
        check(response, url)


def decode(response: httpx.Response, url: str) -> Json:
    """The JSON object of a successful answer, {} for an empty one."""
    if not response.content:
        return {}
    body = _json_or_none(response)
    if not isinstance(body, dict):
        _not_bay(response, url)
    return cast("Json", body)


def model(cls: type[Model], data: object) -> Model:
    """A `cls` from what the server said; BayError when it does not describe one."""
    try:
        return from_wire(cls, data)
    except (TypeError, ValueError) as error:
        raise BayError(
            f"the server's answer is not a {cls.__name__} ({error}); is it a Bay of another version?"
        ) from error


def items(page: Json) -> list[object]:
    """The items of one page of a list."""
    return listed(page, "items")


def listed(page: Json, name: str) -> list[object]:
    """The list of that name in an answer."""
    found = page.get(name)
    if not isinstance(found, list):
        raise BayError("the server's answer is not a list; is it a Bay of another version?")
    return cast("list[object]", found)


def next_cursor(page: Json) -> str | None:
    """Where the next page begins, None after the last one."""
    return str(page["next_cursor"]) if page.get("has_more") and page.get("next_cursor") else None


def _json_or_none(response: httpx.Response) -> object:
    try:
        return json.loads(response.content)
    except ValueError:
        return None


def _not_bay(response: httpx.Response, url: str) -> NoReturn:
    kind = response.headers.get("content-type", "no content type").partition(";")[0]
    error = BayError(
        f"{url} answered HTTP {response.status_code} with {kind}, which is not an answer of Bay; "
        "check that BAY_URL is Bay and no proxy stands between"
    )
    error.status = response.status_code
    raise error


def _note_retry_after(error: BayError, header: str) -> None:
    if header.isascii() and header.isdigit():
        error.details.setdefault("retry_after_ms", int(header) * 1000)
