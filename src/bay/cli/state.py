"""The state that all commands share: how to reach Bay, and parts that are loaded on demand."""

import gc
import importlib
import math
import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from bay import durations
from bay.cli.error_words import in_words_of_the_cli, say_what_goes_on
from bay.cli.local_bay import bay_here
from bay.cli.output import note
from bay.errors import BayError, InvalidArgument
from bay.hints import extra

if TYPE_CHECKING:
    from bay.cli.contexts import ClientConfig, ServerContext
    from bay.client import Box, Client

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, one value a line; errors too, on stderr.")
]
EnvOption = Annotated[
    list[str] | None,
    typer.Option("--env", "-e", metavar="NAME=VALUE", help="Set an environment variable. Repeatable."),
]


DEFAULT_SANDBOX = "."
"""In the place of a sandbox's name: the default of this directory, which `bay use` sets."""


@dataclass(frozen=True, slots=True)
class CallTarget:
    """Where calls go and with which key, and which of the ways to say it decided."""

    url: str | None
    url_from: str
    key_from: str | None
    context: "ServerContext | None" = None
    key: Callable[[], str | None] = lambda: None


@dataclass(slots=True)
class State:
    """The options before the command."""

    url: str | None = None
    api_key: str | None = None
    as_json: bool = False
    context: str | None = None

    def reach(self) -> tuple[str | None, str | None]:
        """Bay's address and key, each None where nothing says it. Raises BayError for an unreadable key."""
        target = self.target()
        return target.url, target.key()

    def target(self) -> CallTarget:
        """An option decides before the environment, that before a context, that before the Bay that runs
        here. The key of a context, or of the Bay here, goes only there.
        """
        named = self.url or (None if self.context else os.environ.get("BAY_URL")) or None
        key, key_from = self._given_key()
        if named is None and (context := self._chosen()):
            return self._of_context(context, key, key_from)
        url_from = "the default" if named is None else "--url" if self.url else "BAY_URL"
        if not (named and key) and (here := bay_here()) and (named or here.url).rstrip("/") == here.url:
            if named is None:
                url_from = "the Bay on this machine"
            own = here.key
            return CallTarget(
                here.url,
                url_from,
                key_from or (own and "the Bay on this machine"),
                key=lambda: key or own,
            )
        return CallTarget(named, url_from, key_from, key=lambda: key)

    def url_or_default(self) -> str:
        """The address that calls go to, always in the same words."""
        return checked_url(self.target().url or "")

    def default_sandbox(self) -> str:
        """The sandbox that `.` stands for here. Raises InvalidArgument when there is none."""
        return str(lazily("bay.cli.default_sandbox", "needed")(self.url_or_default()))

    def _of_context(self, context: "ServerContext", key: str | None, key_from: str | None) -> CallTarget:
        where = f"the context {context.name}"
        if context.key_place and (key is None or (self.context and not self.api_key)):
            base = lazily("bay.cli.contexts", "config_path")().parent
            return CallTarget(context.url, where, context.key_place, context, lambda: context.key(base))
        return CallTarget(context.url, where, key_from, context, lambda: key)

    def _given_key(self) -> tuple[str | None, str | None]:
        if self.api_key:
            return self.api_key, "--api-key"
        key = os.environ.get("BAY_API_KEY") or None
        return key, key and "BAY_API_KEY"

    def _chosen(self) -> "ServerContext | None":
        config: ClientConfig = lazily("bay.cli.contexts", "load")()
        name = self.context or os.environ.get("BAY_CONTEXT") or config.current
        return config.find(name) if name else None


def state_of(ctx: typer.Context) -> State:
    """The options given before the command of `ctx`."""
    return ctx.ensure_object(State)


RETRY_S = 10.0
"""The default time for which a broken connection is retried."""


def client_of(url: str | None, api_key: str | None, *, retry_s: float, timeout_s: float = 60.0) -> "Client":
    """A client of the Bay at `url`."""
    return lazily("bay.client", "Client")(url, api_key, retry_s=retry_s, timeout_s=timeout_s)


@contextmanager
def connect(ctx: typer.Context, retry_s: float = RETRY_S) -> Generator["Client", None, None]:
    """A client of the Bay that the options or the environment name, else of the one on this machine."""
    target = state_of(ctx).target()
    with client_of(target.url, target.key(), retry_s=retry_s) as client:
        try:
            yield client
        except BayError as error:
            told = in_words_of_the_cli(ctx, target, client, error)
            if told is error:
                raise
            raise told from error
        except KeyboardInterrupt:
            say_what_goes_on(ctx)
            raise


@contextmanager
def connect_box(ctx: typer.Context, name: str, retry_s: float = RETRY_S) -> Generator["Box", None, None]:
    """The sandbox of that name or id, with a client for as long as the block lasts."""
    with connect(ctx, retry_s) as client:
        yield client.sandboxes.get(name)


def checked_url(text: str) -> str:
    """The URL of a server as it is kept; the default for an empty text. Raises InvalidArgument."""
    return str(lazily("bay.client._config", "resolve")(text, "-", 0.0, 0.0).url)


@contextmanager
def connect_or_embed(ctx: typer.Context) -> Generator["Client", None, None]:
    """A client of the Bay that there is, else of one that runs in this process until the end of the block."""
    if state_of(ctx).target().url is not None:
        with connect(ctx) as client:
            yield client
        return
    with reach_or_embed(ctx) as (url, api_key), client_of(url, api_key, retry_s=RETRY_S) as client:
        yield client


@contextmanager
def reach_or_embed(ctx: typer.Context) -> Generator[tuple[str, str | None], None, None]:
    """Address and key of the Bay that there is, else of one that runs here until the block's end."""
    url, api_key = state_of(ctx).reach()
    if url is not None:
        yield url, api_key
        return
    with ExitStack() as stack:
        with _said_when_it_takes_long(
            "starting a Bay for this command; one that stays is made by `bay serve`"
        ):
            start = load("bay.server.embedded", "start")
            server = cast("AbstractContextManager[tuple[str, str]]", start())
            reached = stack.enter_context(server)
        yield reached


@contextmanager
def _said_when_it_takes_long(text: str) -> Generator[None, None, None]:
    """Print on stderr, for a person, a wait that takes long."""
    teller = threading.Timer(_LONG_S, lambda: note(text))
    teller.daemon = True
    if sys.stderr.isatty():
        teller.start()
    try:
        yield
    finally:
        teller.cancel()


_LONG_S = 1.0


def lazily(module: str, name: str) -> Any:
    """Something that is imported only by the command that needs it."""
    with _uncollected():
        return getattr(importlib.import_module(module), name)


@contextmanager
def _uncollected() -> Generator[None, None, None]:
    """Within, modules are loaded without garbage collection, and later collections pass over them.

    They make no garbage and stay to the end, and looking through them takes a fifth of the time of loading.
    """
    loaded = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > loaded:
            gc.freeze()
        gc.enable()


def load(module: str, name: str) -> Any:
    """Something of the server, which the CLI never imports before a command asks for it."""
    lazily("bay.client._lean", "__name__")  # before the server loads all of httpx
    try:
        return lazily(module, name)
    except ModuleNotFoundError as error:
        raise BayError(
            f"this needs the server, and {error.name} is not installed: {extra('server')}, "
            "or set BAY_URL to a Bay that runs elsewhere"
        ) from error


def seconds(text: str | float) -> float:
    """Seconds of a `DURATION` option, as `90`, `1.5`, `90s`, `10m`, `1h30m` or `7d`. Raises ValueError."""
    parsed = durations.parse(text) if isinstance(text, str) else text
    try:
        found = float(text) if parsed is None else float(parsed)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"it takes seconds or a time such as 10m or 1h30m, not {text!r}")
    return found


def whole_seconds(text: str | float) -> int:
    """The same where only whole seconds count."""
    found = seconds(text)
    if not found.is_integer():
        raise ValueError(f"it takes whole seconds or a time such as 10m or 1h30m, not {text!r}")
    return int(found)


def duration_option(help: str, parser: Callable[[str], float] = whole_seconds) -> Any:  # noqa: A002 — Typer's word
    """An option that takes a time such as 10m, in whole seconds unless the parser is `seconds`."""
    return typer.Option(parser=parser, metavar="DURATION", help=help)


def duration(option: str, text: str) -> int:
    """The whole seconds of an option's text, where the option is parsed by its command."""
    try:
        return whole_seconds(text)
    except ValueError as error:
        raise InvalidArgument(f"{option}: {error}") from error


def pairs(texts: list[str] | None, option: str, between: str) -> dict[str, str]:
    """The mapping that repeated ``NAME=VALUE`` (or ``key:value``) options spell."""
    return dict(_pair(text, option, between) for text in texts or ())


def _pair(text: str, option: str, between: str) -> tuple[str, str]:
    name, found, value = text.partition(between)
    if not (name and found):
        raise InvalidArgument(f"{option} takes NAME{between}VALUE, not {text!r}")
    return name, value
