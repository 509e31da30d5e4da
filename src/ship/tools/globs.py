"""Translates path patterns to expressions (`*`, `?` stop at a slash, `**` not), as git's wildmatch does."""

import re

_WILD = frozenset("*?[\\")
_CLASSES = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "blank": " \\t", "cntrl": "\\x00-\\x1f\\x7f", "digit": "0-9",
    "graph": "!-~", "lower": "a-z", "print": " -~", "punct": "!-/:-@\\[-`{-~", "space": " \\t\\n\\r\\f\\v",
    "upper": "A-Z", "xdigit": "0-9A-Fa-f",
}  # fmt: skip


class BadGlob(ValueError):
    """A pattern that no path can match, since it is not finished."""


def compile_glob(glob: str) -> re.Pattern[str]:
    """A glob for whole paths; one without a slash is for names at any depth. Raises BadGlob."""
    anywhere = "/" not in glob.rstrip("/")
    return re.compile(("(?:.*/)?" if anywhere else "") + translate(glob.lstrip("/")), re.DOTALL)


def translate(glob: str) -> str:
    """The regular expression, to be matched in full and with DOTALL. Raises BadGlob."""
    return _Translation(glob).run()


class _Translation:
    def __init__(self, glob: str) -> None:
        self._glob = glob
        self._at = 0
        self._only_plain_before = True

    def run(self) -> str:
        parts: list[str] = []
        while self._at < len(self._glob):
            char = self._glob[self._at]
            parts.append(self._next(char))
            self._only_plain_before = self._only_plain_before and char not in _WILD
        return "".join(parts)

    def _next(self, char: str) -> str:
        if char == "*":
            return self._stars()
        if char == "[":
            return self._bracket()
        self._at += 1
        if char == "?":
            return "[^/]"
        if char == "\\":
            return self._escaped()
        return re.escape(char)

    def _escaped(self) -> str:
        if self._at == len(self._glob):
            raise BadGlob("it ends in a backslash")
        self._at += 1
        return re.escape(self._glob[self._at - 1])

    def _stars(self) -> str:
        start = self._at
        while self._glob[self._at : self._at + 1] == "*":
            self._at += 1
        after = self._glob[self._at : self._at + 1]
        # git compares what stands before the first wildcard as plain text and cuts it off.
        begins = self._only_plain_before or self._glob[start - 1] == "/"
        if self._at - start < 2 or not begins or after not in ("", "/"):
            return "[^/]*"
        if after == "":
            return ".*"
        self._at += 1
        return "(?:.*/)?"

    def _bracket(self) -> str:
        """`[…]`, which never matches a slash."""
        at = self._at + 1
        negated = self._glob[at : at + 1] in ("!", "^")
        at += negated
        items: list[str] = []
        first = True
        while first or self._glob[at : at + 1] != "]":
            item, at = self._item(at)
            items.append(item)
            first = False
        self._at = at + 1
        return f"(?!/)[{'^' if negated else ''}{''.join(items)}]"

    def _item(self, at: int) -> tuple[str, int]:
        """One character, range or class of a bracket, and where the next one begins."""
        if self._glob.startswith("[:", at):
            end = self._glob.find("]", at + 2)
            if end < 0:
                raise BadGlob("a [ is never closed")
            if self._glob[end - 1] == ":" and end - 1 >= at + 2:
                return self._class(self._glob[at + 2 : end - 1]), end + 1
        low, at = self._member(at)
        if self._glob[at : at + 1] != "-" or self._glob[at + 1 : at + 2] in ("]", ""):
            return _member(low), at
        high, at = self._member(at + 1)
        return (f"{_member(low)}-{_member(high)}" if low <= high else _member(low)), at

    def _class(self, name: str) -> str:
        if name not in _CLASSES:
            raise BadGlob(f"there is no class [:{name}:]")
        return _CLASSES[name]

    def _member(self, at: int) -> tuple[str, int]:
        if self._glob[at : at + 1] == "\\":
            at += 1
        if at >= len(self._glob):
            raise BadGlob("a [ is never closed")
        return self._glob[at], at + 1


def _member(char: str) -> str:
    return "\\" + char if char in "\\]^-[&~|" else char
