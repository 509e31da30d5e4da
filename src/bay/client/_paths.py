"""The paths of calls. An argument that could mean another path is refused here."""

from collections.abc import Mapping
from urllib.parse import quote, unquote

from bay.client._calls import Call, Method
from bay.errors import InvalidArgument
from bay.ids import is_id, is_name
from bay.models import Checkpoint

_LAST_PORT = 65_535


def sandbox_path(id_or_name: str, *rest: str) -> str:
    """The path of a sandbox. Raises InvalidArgument for a text that could mean another path."""
    if not (is_id(id_or_name) or is_name(id_or_name)):
        raise InvalidArgument(
            f"{id_or_name!r} is neither the id nor the name of a sandbox; a name has a-z, 0-9 and '-'"
        )
    return "/".join(("/v1/sandboxes", id_or_name, *map(_segment, rest)))


def _segment(text: str) -> str:
    if text in ("", ".", ".."):
        raise InvalidArgument(f"{text!r} is not an id")
    return quote(text, safe="")


def checked_port(port: int) -> str:
    """A port as a path or a query has it. Raises InvalidArgument for a number that is none."""
    if not 1 <= port <= _LAST_PORT:
        raise InvalidArgument(f"{port} is not a port; give a number from 1 to {_LAST_PORT}")
    return str(port)


def app_call(method: Method, sandbox_id: str, port: int, path: str, headers: Mapping[str, str]) -> Call:
    """A call to an app on a port of a sandbox. Raises InvalidArgument for one that leads out of the app.

    Also for a header that would take the place of the client's key.
    """
    if any(name.lower() == "authorization" for name in headers):
        raise InvalidArgument(
            "fetch sends this client's key as Authorization, which the app does not see; for an app with "
            "a key of its own, make a URL with ports.link() and request that"
        )
    way, _, query = path.partition("?")
    app = sandbox_path(sandbox_id, "ports", checked_port(port))
    if any(unquote(step) in (".", "..") for step in way.split("/")):
        raise InvalidArgument(f"the path {path!r} has a . or .. segment; give the app's path from its root")
    address = f"{app}/{way.lstrip('/')}{f'?{query}' if query else ''}"
    return Call(method, address, headers=headers, safe=method in ("GET", "HEAD", "OPTIONS"))


def ref(checkpoint: str | Checkpoint) -> str:
    """The id or name for a path."""
    return checkpoint if isinstance(checkpoint, str) else checkpoint.id


def noun_path(noun: str, thing: str, *rest: str) -> str:
    """The path of one of the things of that noun, or below it."""
    return "/".join(("/v1", noun, _segment(thing), *rest))
