"""The last word to a person: an error of the API in the words of the command line, and after Ctrl-C the work
that Bay goes on with.
"""

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from bay.cli.output import note
from bay.errors import BayError, ConnectionFailed, InvalidArgument, NotFound, Unauthorized

if TYPE_CHECKING:
    from bay.cli.state import CallTarget
    from bay.client import Client

_FIELD = re.compile(r"(?:body|query)\.(\w+)(?:\.(\S+))?: (.*)", re.DOTALL)
_THING = re.compile(r"there is no (\w+) \S+( in this sandbox)?")
_LISTS = {
    "cargo": "bay cargo ls",
    "checkpoint": "bay checkpoint ls NAME",
    "exec": "bay execs NAME",
    "key": "bay keys ls",
    "secret": "bay secret ls",
    "service": "bay services ls NAME",
    "webhook": "bay webhooks ls",
}
"""The command that lists the things of a kind."""

GOES_ON = {
    "create": "the sandbox may be made all the same; see `bay ls`",
    "fork": "the forks may be made all the same; see `bay ls`",
    "update": "the change may be made all the same; see `bay get NAME`",
    "start": "Bay goes on starting what it has begun; see `bay ls`",
    "resume": "Bay goes on starting what it has begun; see `bay ls`",
    "pause": "Bay finishes what it has begun; see `bay ls`",
    "stop": "Bay finishes what it has begun; see `bay ls`",
    "rm": "Bay finishes what it has begun; see `bay ls`",
    "cp": "the file in work is as it was, and those before it are copied",
    "logs": "the command runs on",
    "services logs": "the service runs on",
    "services put": "the service may be there all the same; see `bay services ls NAME`",
    "services restart": "Bay finishes the restart; see `bay services ls NAME`",
    "checkpoint create": "the checkpoint may be made all the same; see `bay checkpoint ls NAME`",
    "checkpoint restore": "Bay finishes the restore; see `bay get NAME`",
    "checkpoint import": "the checkpoint may be there all the same; see `bay checkpoint ls NAME`",
    "cargo create": "the cargo may be made all the same; see `bay cargo ls`",
    "cargo move": "Bay finishes the move; see `bay get NAME`",
    "image pull": "Bay goes on fetching the image; see `bay image ls`, and `bay image rm` cancels it",
    "image import": "the image may be there all the same; see `bay image ls`",
    "template create": "Bay goes on making the template; see `bay template ls`",
}
"""After Ctrl-C. A command that is not here ends its own work, or only looks."""


def say_what_goes_on(ctx: Any) -> None:
    """A note about what Bay does after an interrupted command, if it does anything."""
    words = GOES_ON.get(ctx.command_path.removeprefix("bay "))
    if words:
        note(f"interrupted: {words}")


def in_words_of_the_cli(ctx: Any, target: "CallTarget", client: "Client", error: BayError) -> BayError:
    """The error with a way out that this command line has."""
    if isinstance(error, Unauthorized | ConnectionFailed):
        return _of_context(target, error)
    if isinstance(error, NotFound):
        return with_nearest(client, error)
    return _of_option(ctx, error) if isinstance(error, InvalidArgument) else error


def with_nearest(client: "Client", error: BayError) -> BayError:
    """The error, and of something that is not there what there is."""
    found = _THING.fullmatch(error.message) if isinstance(error, NotFound) else None
    if found is None:
        return error
    if found[1] != "sandbox":
        return _say(error, f"{error.message}; see `{_LISTS[found[1]]}`") if found[1] in _LISTS else error
    names = [box.name for box in client.sandboxes.list() if box.name]
    near = get_close_matches(error.message.rpartition(" ")[2], names, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return _say(error, f"{error.message}; {hint}`bay ls` lists yours")


def _of_context(target: "CallTarget", error: BayError) -> BayError:
    """The SDK's way out is a variable; where a context decided, it is the context."""
    if target.context is None:
        return error
    fact = re.sub(r"; (set|check|start it) .*", "", error.message)
    key = f"its key comes from {target.key_from}" if target.key_from else "it has no key; set BAY_API_KEY"
    cause = f"; {key}" if isinstance(error, Unauthorized) else ""
    return _say(
        error, f"{fact}; `bay` calls the context {target.context.name}{cause} (see `bay context show`)"
    )


def _of_option(ctx: Any, error: BayError) -> BayError:
    """A field of the API by the option that filled it."""
    found = _FIELD.fullmatch(error.message)
    if found is None:
        return error
    field = found[1].replace("_", "-")
    known = {name for param in ctx.command.params for name in param.opts}
    option = next((name for name in (f"--{field}", f"--{field.removesuffix('s')}") if name in known), None)
    place = f" {found[2]}" if found[2] else ""
    return error if option is None else _say(error, f"{option}{place}: {found[3]}")


def _say(error: BayError, message: str) -> BayError:
    return type(error)(message, details=error.details, request_id=error.request_id)
