"""Patterns of file names, as Go's `path.Match` has them: https://pkg.go.dev/path/filepath#Match

`*` and `?` match within a name, `[a-z]` and `[^a-z]` one character, and a backslash takes the next character
as it is.
"""

import re
from functools import lru_cache

from bay.errors import InvalidArgument

_SPECIAL = frozenset("*?[\\")


def is_pattern(text: str) -> bool:
    """Whether the text may stand for another path than itself, or for several."""
    return bool(_SPECIAL & set(text))


def check(pattern: str) -> None:
    """Raises InvalidArgument for a text that is no pattern."""
    try:
        for part in pattern.split("/"):
            _parts(part)
    except re.error as error:
        raise InvalidArgument(f"{pattern[:80]!r} is no pattern: {error}") from error


def expressions(pattern: str) -> list[str]:
    """A regular expression for each part of a pattern, for Python's `fullmatch`, whose time is at most length
    times length. Raises InvalidArgument.
    """
    check(pattern)
    return [_expression(part) for part in pattern.split("/")]


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern names a whole path. Both have as many parts then."""
    forms, names = pattern.split("/"), path.split("/")
    return len(forms) == len(names) and all(_matches_name(*both) for both in zip(forms, names, strict=True))


def component(text: str, at: int) -> tuple[str, int]:
    """The regular expression for the part of a pattern that begins at `at`, and where the next one begins.
    Raises re.error.
    """
    char = text[at]
    if char == "*":
        return "[^/]*", at + 1
    if char == "?":
        return "[^/]", at + 1
    if char == "[":
        return _class(text, at)
    if char == "\\":
        if at + 1 == len(text):
            raise re.error("a backslash ends it")
        return re.escape(text[at + 1]), at + 2
    return re.escape(char), at + 1


def _expression(text: str) -> str:
    """Atomic groups keep what is between two stars at its first place, which is as good as any later one."""
    between, at = [""], 0
    while at < len(text):
        is_star = text[at] == "*"
        form, at = component(text, at)
        if is_star:
            between.append("")
        else:
            between[-1] += form
    first, *middle = between
    if not middle:
        return f"(?s:{first})"
    atoms = "".join(f"(?>[^/]*?{form})" for form in middle[:-1])
    return f"(?s:{first}{atoms}[^/]*{middle[-1]})"


def _class(text: str, at: int) -> tuple[str, int]:
    """Python's classes have the same form, but for characters that mean something in them here alone."""
    end = at + 1 + text.startswith("^", at + 1)
    inner = ""
    while end < len(text) and (text[end] != "]" or not inner):
        escaped = text[end] == "\\"
        end += escaped
        if end == len(text):
            break
        inner += "-" if text[end] == "-" and not escaped else re.escape(text[end])
        end += 1
    if end >= len(text):
        raise re.error("a [ has no ]")
    negated = "^" if text.startswith("^", at + 1) else ""
    return f"(?!/)[{negated}{inner}]", end + 1


def _matches_name(pattern: str, name: str) -> bool:
    """Compares part by part, and goes back to the last star only: the time is at most length times length."""
    parts = _parts(pattern)
    part = at = 0
    star, retry = -1, 0
    while at < len(name):
        if part < len(parts) and parts[part] is None:
            star, retry, part = part, at, part + 1
        elif part < len(parts) and (form := parts[part]) is not None and form.fullmatch(name[at]):
            part, at = part + 1, at + 1
        elif star >= 0:
            part, retry = star + 1, retry + 1
            at = retry
        else:
            return False
    return all(one is None for one in parts[part:])


@lru_cache
def _parts(pattern: str) -> tuple[re.Pattern[str] | None, ...]:
    """A form for each character, and None for a star."""
    found: list[re.Pattern[str] | None] = []
    at = 0
    while at < len(pattern):
        is_star = pattern[at] == "*"
        form, at = component(pattern, at)
        found.append(None if is_star else re.compile(form, re.DOTALL))
    return tuple(found)
