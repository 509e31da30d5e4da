"""The client's configuration, `bay.toml`: servers by name, and which of them `bay` speaks to.

A key is best kept where the user keeps secrets, in a file or behind a command. A change edits the lines that
it is about, so that comments and order stay, and is kept only when the result reads as intended.
"""

import json
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from bay.cli.own_files import changing, read_own, replace_own, user_directory
from bay.errors import BayError, InvalidArgument

_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
_HEADER = re.compile(r"\s*\[")
_CURRENT = re.compile(r"\s*current\s*=")
_COMMAND_S = 60
"""How long a password manager may ask its user."""


@dataclass(frozen=True, slots=True)
class ServerContext:
    """A server by name. At most one of the three says what its key is."""

    name: str
    url: str
    api_key: str | None = field(default=None, repr=False)
    api_key_file: str | None = None
    api_key_command: tuple[str, ...] = ()

    @property
    def key_place(self) -> str | None:
        """Where its key is kept, for people; None when it has none."""
        if self.api_key is not None:
            return "bay.toml"
        return self.api_key_file or (shlex.join(self.api_key_command) if self.api_key_command else None)

    def key(self, base: Path) -> str | None:
        """Its key; a relative file is below `base`. Raises BayError when it cannot be had."""
        if self.api_key_file is not None:
            return _key_in(base / Path(self.api_key_file).expanduser())
        return self.api_key or (_key_by(self.name, self.api_key_command) if self.api_key_command else None)


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """The content of `bay.toml`."""

    path: Path
    current: str | None = None
    contexts: dict[str, ServerContext] = field(default_factory=dict[str, ServerContext])

    def find(self, name: str) -> ServerContext:
        """The context of that name. Raises InvalidArgument, with the name that was probably meant."""
        if name in self.contexts:
            return self.contexts[name]
        hint = _near(name, self.contexts) or "`bay context ls` lists them"
        raise InvalidArgument(f"there is no context {name!r} in {self.path}; {hint}")


def config_path() -> Path:
    """The place of `bay.toml`, whether or not it is there. Raises InvalidArgument where HOME has none."""
    if given := os.environ.get("BAY_CONFIG"):
        return Path(given)
    directory = user_directory("XDG_CONFIG_HOME", ".config")
    if directory is None:
        raise InvalidArgument("there is no place for bay.toml: set BAY_CONFIG to its path, or HOME")
    return directory / "bay.toml"


def load() -> ClientConfig:
    """The content of the file; empty when there is none. Raises InvalidArgument for one it may not use."""
    try:
        path = config_path()
    except InvalidArgument:
        return ClientConfig(Path("bay.toml"))
    found = read_own(path)
    if found is None:
        if os.environ.get("BAY_CONFIG"):
            raise InvalidArgument(f"there is no file {path} (BAY_CONFIG)")
        return ClientConfig(path)
    config = parse(path, found.text)
    if found.others_read and any(context.api_key for context in config.contexts.values()):
        raise InvalidArgument(f"{path} holds a key and others may read it; run: chmod 600 {path}")
    return config


def parse(path: Path, text: str) -> ClientConfig:
    """The content of such a file. Raises InvalidArgument, with the place."""
    try:
        given: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidArgument(f"{path} is not valid TOML: {error}") from error
    _known(path, "", given, ("current", "contexts"))
    contexts = {name: _context(path, name, one) for name, one in _table(path, "contexts", given).items()}
    config = ClientConfig(path, _text(path, "", given, "current"), contexts)
    if config.current is not None:
        config.find(config.current)
    return config


def add(context: ServerContext, *, use: bool) -> ClientConfig:
    """Add a context; the first becomes the current one. Raises InvalidArgument when the name is taken."""
    if not _NAME.fullmatch(context.name):
        raise InvalidArgument(
            f"a name of a context has 1 to 63 letters, digits, - and _, not {context.name!r}"
        )

    def change(config: ClientConfig, text: str) -> tuple[ClientConfig, str]:
        if context.name in config.contexts:
            raise InvalidArgument(
                f"there is a context {context.name}; remove it: bay context rm {context.name}"
            )
        wanted = replace(config, contexts={**config.contexts, context.name: context})
        text = f"{text.rstrip()}\n\n{_section(context)}".lstrip()
        return _use(wanted, text, context.name) if use or not config.contexts else (wanted, text)

    return _change(change)


def use(name: str | None) -> ClientConfig:
    """Make a context the current one, or none."""

    def change(config: ClientConfig, text: str) -> tuple[ClientConfig, str]:
        return _use(config, text, name and config.find(name).name)

    return _change(change)


def remove(names: Iterable[str]) -> ClientConfig:
    """Remove contexts."""

    def change(config: ClientConfig, text: str) -> tuple[ClientConfig, str]:
        for name in names:
            config.find(name)
            left = {key: one for key, one in config.contexts.items() if key != name}
            config, text = replace(config, contexts=left), _without(text, name)
            if config.current == name:
                config, text = _use(config, text, None)
        return config, text

    return _change(change)


def _change(change: Any) -> ClientConfig:
    path = config_path()
    with changing(path):
        found = read_own(path)
        text = found.text if found else ""
        wanted, text = change(parse(path, text), text)
        if parse(path, text) != wanted:
            raise InvalidArgument(f"{path} is written in a way that `bay` cannot change; edit it by hand")
        replace_own(path, text)
    return wanted


def _use(config: ClientConfig, text: str, name: str | None) -> tuple[ClientConfig, str]:
    lines = text.splitlines(keepends=True)
    tables = next((place for place, line in enumerate(lines) if _HEADER.match(line)), len(lines))
    head = [line for line in lines[:tables] if not _CURRENT.match(line)]
    chosen = [f'current = "{name}"\n', *([] if head[:1] == ["\n"] else ["\n"])] if name else []
    return replace(config, current=name), "".join([*chosen, *head, *lines[tables:]])


def _without(text: str, name: str) -> str:
    """The text without the table of a context; a comment before the next table stays."""
    lines = text.splitlines(keepends=True)
    header = re.compile(rf"\s*\[\s*contexts\s*\.\s*[\"']?{re.escape(name)}[\"']?\s*\]")
    begin = next((place for place, line in enumerate(lines) if header.match(line)), len(lines))
    after = (place for place in range(begin + 1, len(lines)) if _HEADER.match(lines[place]))
    end = next(after, len(lines))
    while end > begin + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    return "".join([*lines[:begin], *lines[end:]])


def _section(context: ServerContext) -> str:
    values: dict[str, object] = {"url": context.url, "api_key": context.api_key}
    values |= {"api_key_file": context.api_key_file, "api_key_command": list(context.api_key_command) or None}
    # A string of JSON, and a list of them, are the same in TOML.
    lines = [f"{name} = {json.dumps(value)}\n" for name, value in values.items() if value is not None]
    return f"[contexts.{context.name}]\n{''.join(lines)}"


def _context(path: Path, name: str, given: object) -> ServerContext:
    place = f"contexts.{name}."
    if not isinstance(given, dict):
        raise InvalidArgument(f"{path}: contexts.{name} must be a table")
    table = cast("dict[str, Any]", given)
    _known(path, place, table, ("url", "api_key", "api_key_file", "api_key_command"))
    url, key, file = (_text(path, place, table, field) for field in ("url", "api_key", "api_key_file"))
    command = table.get("api_key_command", [])
    if not url:
        raise InvalidArgument(f'{path}: {place}url is missing, such as "https://bay.example.com"')
    if not isinstance(command, list) or not all(isinstance(word, str) for word in cast("list[Any]", command)):
        raise InvalidArgument(
            f'{path}: {place}api_key_command must be a list, such as ["pass", "show", "bay"]'
        )
    words = tuple(cast("list[str]", command))
    if sum(bool(way) for way in (key, file, words)) > 1:
        raise InvalidArgument(f"{path}: {place}* gives more than one key; keep one of the api_key settings")
    return ServerContext(name, url, key, file, words)


def _known(path: Path, place: str, given: Iterable[str], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            hint = _near(name, known) or f"there are: {', '.join(known)}"
            raise InvalidArgument(f"{path}: there is no setting {place}{name}; {hint}")


def _near(name: str, known: Iterable[str]) -> str | None:
    near = get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else None


def _table(path: Path, name: str, given: dict[str, Any]) -> dict[str, Any]:
    found = given.get(name, {})
    if not isinstance(found, dict):
        raise InvalidArgument(f"{path}: {name} must be a table")
    return cast("dict[str, Any]", found)


def _text(path: Path, place: str, given: dict[str, Any], name: str) -> str | None:
    found = given.get(name)
    if found is not None and not isinstance(found, str):
        raise InvalidArgument(f"{path}: {place}{name} must be a text in quotes")
    return found or None


def _key_in(path: Path) -> str:
    found = read_own(path)
    if found is None:
        raise InvalidArgument(f"there is no key file {path}")
    if found.others_read:
        raise InvalidArgument(f"others may read the key in {path}; run: chmod 600 {path}")
    return found.text.strip()


def _key_by(name: str, command: tuple[str, ...]) -> str:
    what = f"the command for the key of context {name} ({shlex.join(command)})"
    # Stdin belongs to the command of the user: a pipe of `exec -i`, the stream of `ssh-proxy`.
    none = subprocess.DEVNULL
    try:
        done = subprocess.run(command, stdin=none, stdout=subprocess.PIPE, timeout=_COMMAND_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise BayError(f"{what} took longer than {_COMMAND_S} s") from error
    except OSError as error:
        raise InvalidArgument(f"{what} cannot run: {error.strerror}") from error
    key = done.stdout.decode("utf-8", "replace").partition("\n")[0].strip()
    if done.returncode or not key:
        raise BayError(f"{what} ended with {done.returncode} and printed {'a' if key else 'no'} key")
    return key
