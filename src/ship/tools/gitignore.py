"""Applies a .gitignore file to the paths below its directory. The rules: gitignore(5)."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from ship.tools.globs import BadGlob, translate

MAX_BYTES = 1 << 20


class _Rule(NamedTuple):
    keeps: bool
    directories_only: bool
    by_name: bool
    """Looked for in the last part of a path, at any depth."""
    regex: str


class _Run:
    """Rules that follow each other and say the same, so that their order does not matter."""

    def __init__(self, keeps: bool, rules: Iterable[_Rule]) -> None:
        listed = list(rules)
        everything = [rule for rule in listed if not rule.directories_only]
        self.ignores = not keeps
        self._of_files = _Regexes(everything)
        self._of_directories = _Regexes(listed)

    def matches(self, path: str, name: str, is_directory: bool) -> bool:
        return (self._of_directories if is_directory else self._of_files).match(path, name)


class _Regexes:
    def __init__(self, rules: list[_Rule]) -> None:
        self._names = _any_of(rule.regex for rule in rules if rule.by_name)
        self._paths = _any_of(rule.regex for rule in rules if not rule.by_name)

    def match(self, path: str, name: str) -> bool:
        if self._names is not None and self._names.fullmatch(name):
            return True
        return self._paths is not None and self._paths.fullmatch(path) is not None


class GitIgnore:
    """One file. Later rules win over earlier ones."""

    def __init__(self, content: bytes) -> None:
        text = content[:MAX_BYTES].removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        runs = groupby(_rules(text), key=lambda rule: rule.keeps)
        self._runs = [_Run(keeps, rules) for keeps, rules in runs][::-1]

    def ignores(self, path: str, name: str, is_directory: bool) -> bool | None:
        """Whether `path` (from the file's directory, ending in `name`) is ignored; None without a match."""
        for run in self._runs:
            if run.matches(path, name, is_directory):
                return run.ignores
        return None


@dataclass(frozen=True, slots=True)
class Layer:
    """A .gitignore seen from a walk's top: its paths are the walk's past `skip` letters, after `prefix`."""

    rules: GitIgnore
    prefix: str
    skip: int


def is_ignored(layers: tuple[Layer, ...], path: str, name: str, is_directory: bool) -> bool:
    """The layers' verdict on a path of the walk; the last match decides."""
    for layer in reversed(layers):
        verdict = layer.rules.ignores(layer.prefix + path[layer.skip :], name, is_directory)
        if verdict is not None:
            return verdict
    return False


def _rules(text: str) -> Iterator[_Rule]:
    for line in text.split("\n"):
        if line and not line.startswith("#"):
            rule = _rule(_trimmed(line.removesuffix("\r")))
            if rule is not None:
                yield rule


def _trimmed(line: str) -> str:
    """Without the spaces at the end, but for one behind a backslash."""
    end, at = 0, 0
    while at < len(line):
        if line[at] != " ":
            at += line[at] == "\\"
            end = at + 1
        at += 1
    return line[:end]


def _rule(line: str) -> _Rule | None:
    keeps = line.startswith("!")
    pattern = line[keeps:]
    directories_only = pattern.endswith("/")
    pattern = pattern[: len(pattern) - directories_only]
    by_name = "/" not in pattern
    try:
        regex = translate(pattern.removeprefix("/"))
    except BadGlob:
        return None
    return _Rule(keeps, directories_only, by_name, regex) if pattern else None


def _any_of(regexes: Iterable[str]) -> re.Pattern[str] | None:
    joined = "|".join(f"(?:{regex})" for regex in regexes)
    return re.compile(joined, re.DOTALL) if joined else None
