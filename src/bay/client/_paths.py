"""The paths of calls. An argument that could mean another path is refused here."""

from collections.abc import Mapping
from urllib.parse import quote, unquote

from bay.errors import InvalidArgument
from bay.ids import is_id, is_name


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


def refuse_authorization(headers: Mapping[str, str]) -> None:
    """Raises InvalidArgument for a header that would take the place of the client's key."""
    if any(name.lower() == "authorization" for name in headers):
        raise InvalidArgument(
            "fetch sends this client's key as Authorization, which the app does not see; for an app with "
            "a key of its own, make a URL with ports.link() and request that"
        )


def app_path(sandbox_id: str, port: str, path: str) -> str:
    """The path, with its query, of an app on a port of a sandbox. None leads out of the app."""
    way, _, query = path.partition("?")
    if any(unquote(step) in (".", "..") for step in way.split("/")):
        raise InvalidArgument(f"the path {path!r} has a . or .. segment; give the app's path from its root")
    question = f"?{query}" if query else ""
    return f"{sandbox_path(sandbox_id, 'ports', port)}/{way.lstrip('/')}{question}"


def noun_path(noun: str, thing: str, *rest: str) -> str:
    """The path of one of the things of that noun, or below it."""
    return "/".join(("/v1", noun, _segment(thing), *rest))
