"""`.dockerignore`: which files of a context a build gets.

The last pattern that matches a file, or a directory above it, decides. Rules:
https://docs.docker.com/build/concepts/context/#dockerignore-files and
https://github.com/moby/patternmatcher
"""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from bay.builds.globs import STAR, component, joined
from bay.errors import InvalidArgument

LONGEST = 1 << 20
"""Characters of a file of patterns."""
LONGEST_PATTERN = 4095
"""Characters of one, as no path has more."""
MOST = 10_000
"""Patterns of a file."""

_DIRECTORIES = "(?:.*?/)??"
"""The expression of `**` where something follows it: as little as will do."""
_MOST_INSIDE = 4


@dataclass(frozen=True)
class _IgnorePattern:
    text: str
    brings_back: bool

    @cached_property
    def form(self) -> re.Pattern[str]:
        return _compiled(self.text)


@dataclass(frozen=True, slots=True)
class Ignored:
    """The patterns of a file, in their order."""

    patterns: tuple[_IgnorePattern, ...] = ()

    @classmethod
    def read(cls, text: str) -> "Ignored":
        """Raises InvalidArgument with the line of a pattern that cannot be understood."""
        if len(text) > LONGEST:
            raise InvalidArgument(
                f".dockerignore has more than {LONGEST >> 20} MiB, the limit; make it smaller"
            )
        found: list[_IgnorePattern] = []
        for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
            if not line.startswith("#") and line.strip():
                found.append(_pattern(line.strip(), number))
                if len(found) > MOST:
                    raise InvalidArgument(
                        f".dockerignore has more than {MOST} patterns, the limit; name directories instead"
                    )
        return cls(tuple(found))

    def covers(self, path: str) -> bool:
        """Whether the file or directory at `path`, relative to the context's top, is left out."""
        names = list(_with_parents(path))
        ignored = False
        for pattern in self.patterns:
            if pattern.brings_back == ignored and any(pattern.form.fullmatch(name) for name in names):
                ignored = not pattern.brings_back
        return ignored

    @property
    def brings_back(self) -> bool:
        """Whether something below a directory that is left out may be in."""
        return any(pattern.brings_back for pattern in self.patterns)


def _with_parents(path: str) -> Iterable[str]:
    while path:
        yield path
        path = posixpath.dirname(path)


def _pattern(text: str, number: int) -> _IgnorePattern:
    brings_back = text.startswith("!")
    body = text[1:].strip() if brings_back else text
    if len(text) > LONGEST_PATTERN:
        raise InvalidArgument(
            f".dockerignore line {number}: the pattern has more than {LONGEST_PATTERN} characters, the limit"
        )
    if not body:
        raise InvalidArgument(
            f".dockerignore line {number}: a ! alone names nothing; put a pattern behind it"
        )
    clean = posixpath.normpath(body)
    found = _IgnorePattern(clean.lstrip("/") or clean, brings_back)
    try:
        _ = found.form
    except re.error as error:
        raise InvalidArgument(f".dockerignore line {number}: {body[:80]!r} is no pattern: {error}") from error
    return found


def _compiled(text: str) -> re.Pattern[str]:
    """The pattern for whole paths: `**` stands for any number of directories, `*` and `?` for no slash.
    Raises re.error.
    """
    forms: list[str] = []
    at = 0
    while at < len(text):
        if not text.startswith("**", at):
            form, at = component(text, at)
            forms.append(form)
            continue
        at += 2 + text.startswith("/", at + 2)
        if forms[-1:] != [_DIRECTORIES]:
            forms.append(_DIRECTORIES)
    is_open = forms[-1:] == [_DIRECTORIES]
    plain = _plain(forms[:-1] if is_open else forms)
    return re.compile("|".join(_expression(one, ends=not is_open) for one in plain), re.DOTALL)


def _plain(forms: list[str]) -> list[list[str]]:
    """The same as patterns whose `**` all follow a slash: `a**b` is `ab` and `a*/**b`. Raises re.error."""
    inside = [at for at, form in enumerate(forms) if at and form == _DIRECTORIES and forms[at - 1] != "/"]
    if not inside:
        return [forms]
    if len(inside) > _MOST_INSIDE:
        raise re.error(f"more than {_MOST_INSIDE} ** follow a name and not a slash")
    before, behind = forms[: inside[0]], forms[inside[0] + 1 :]
    return _plain(before + behind) + _plain([*before, STAR, "/", _DIRECTORIES, *behind])


def _expression(forms: list[str], *, ends: bool) -> str:
    """As between stars, what is between two `**` is as good at its first place as at any later one."""
    parts: list[list[str]] = [[]]
    for form in forms:
        if form == _DIRECTORIES:
            parts.append([])
        parts[-1].append(form)
    *first, last = parts
    atoms = "".join(f"(?>{joined(part, ends=False)})" for part in first)
    return f"{atoms}{joined(last, ends=ends)}{'' if ends else '.*'}"
