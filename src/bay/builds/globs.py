"""Patterns of file names, as Go's `path.Match` has them: https://pkg.go.dev/path/filepath#Match

`*` and `?` match within a name, `[a-z]` and `[^a-z]` one character, and a backslash takes the next character
as it is.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

from bay.errors import InvalidArgument

STAR = "[^/]*"
_SPECIAL = frozenset("*?[\\")


def is_pattern(text: str) -> bool:
    """Whether the text may stand for another path than itself, or for several."""
    return bool(_SPECIAL & set(text))


def check(pattern: str) -> None:
    """Raises InvalidArgument for a text that is no pattern."""
    try:
        _compiled(pattern)
    except re.error as error:
        raise InvalidArgument(f"{pattern[:80]!r} is no pattern: {error}") from error


def expressions(pattern: str) -> list[str]:
    """A regular expression for each part of a pattern, for Python's `fullmatch`, whose time is at most length
    times length. Raises InvalidArgument.
    """
    check(pattern)
    return [_expression(part) for part in pattern.split("/")]


def matches(pattern: str, path: str) -> bool:
    """Whether a pattern names a whole path. Both have as many parts then. Raises re.error for none."""
    forms, names = _compiled(pattern), path.split("/")
    return len(forms) == len(names) and all(
        form.fullmatch(name) for form, name in zip(forms, names, strict=True)
    )


def component(text: str, at: int) -> tuple[str, int]:
    """The regular expression for the part of a pattern that begins at `at`, and where the next one begins.
    Raises re.error.
    """
    char = text[at]
    if char == "*":
        return STAR, at + 1
    if char == "?":
        return "[^/]", at + 1
    if char == "[":
        return _class(text, at)
    if char == "\\":
        if at + 1 == len(text):
            raise re.error("a backslash ends it")
        return re.escape(text[at + 1]), at + 2
    return re.escape(char), at + 1


@lru_cache
def _compiled(pattern: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(_expression(part)) for part in pattern.split("/"))


def _expression(text: str) -> str:
    forms: list[str] = []
    at = 0
    while at < len(text):
        form, at = component(text, at)
        forms.append(form)
    return f"(?s:{joined(forms)})"


def joined(forms: Iterable[str], *, ends: bool = True) -> str:
    """The expression for components in a row; `ends`: what they match ends there.

    Atomic groups keep what is between two stars at its first place, which is as good as any later one.
    """
    between: list[list[str]] = [[]]
    for form in forms:
        if form == STAR:
            between.append([])
        else:
            between[-1].append(form)
    first, *others = ("".join(one) for one in between)
    last = STAR + others.pop() if others and ends else ""
    return first + "".join(f"(?>{STAR}?{form})" for form in others) + last


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
