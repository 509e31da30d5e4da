"""Splits a Dockerfile into instructions: parser directives, comments, continued lines and heredocs.

As Docker's own parser does it: https://docs.docker.com/reference/dockerfile/#format and
https://github.com/moby/buildkit/blob/master/frontend/dockerfile/parser/parser.go
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from bay.builds.problems import at_line, fault
from bay.builds.words import split_raw, strip_quotes
from bay.errors import InvalidArgument

LONGEST = 1 << 20
"""Bytes of a Dockerfile."""
LONGEST_LINE = 65_535
"""Bytes of one line, as Docker has it."""
MOST = 1000
"""Instructions in one."""

_DIRECTIVES = frozenset({"escape", "syntax", "check"})
_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]+)")
_TAKES_HEREDOCS = frozenset({"RUN", "COPY", "ADD"})
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Heredoc:
    """Lines of text that follow an instruction. Variables in it are replaced unless its name was quoted."""

    name: str
    content: str
    expand: bool
    chomp: bool

    @property
    def text(self) -> str:
        """The content, without leading tabs where `<<-` asks for that."""
        return _LEADING_TABS.sub("", self.content) if self.chomp else self.content


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: `keyword` in capitals, and `text` the rest, on one line. `line` counts from 1."""

    keyword: str
    text: str
    line: int
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True)
class DockerfileLines:
    """A whole file."""

    instructions: tuple[Instruction, ...]
    escape: str


def split(text: str) -> DockerfileLines:
    """The instructions of a file. Raises InvalidArgument with the line of the first fault."""
    if len(text.encode(errors="surrogatepass")) > LONGEST:
        raise InvalidArgument(f"the Dockerfile has more than {LONGEST >> 20} MiB, the limit; make it smaller")
    if "\0" in text:
        raise fault(text[: text.index("\0")].count("\n") + 1, "it has a NUL; a Dockerfile is plain text")
    lines = [line.removesuffix("\r") for line in text.removeprefix("\ufeff").split("\n")]
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST_LINE // 4 and len(line.encode(errors="surrogatepass")) > LONGEST_LINE:
            raise fault(
                number, f"it has more than {LONGEST_LINE} bytes, the limit; break it with a \\ at its end"
            )
    escape = _escape_of(lines)
    found = tuple(_Reader(lines, escape).instructions())
    if not found:
        raise InvalidArgument("the Dockerfile has no instructions; it begins with FROM")
    return DockerfileLines(found, escape)


def _escape_of(lines: list[str]) -> str:
    """The character of the parser directive `escape`. Directives stand above everything else."""
    seen: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, value = _directive(line.strip())
        if name not in _DIRECTIVES or not value:
            break
        if name in seen:
            raise fault(number, f"the parser directive {name} stands there twice; leave one out")
        seen[name] = value
        if name == "escape" and value not in ("\\", "`"):
            raise fault(number, f"the escape character {value[:40]!r} must be \\ or `")
    return seen.get("escape", "\\")


def _directive(line: str) -> tuple[str, str]:
    """Name and value of `# name=value`; the name is empty for any other line."""
    name, equals, value = line.removeprefix("#").partition("=")
    is_one = line.startswith("#") and equals and name.isascii()
    return (name.strip().lower() if is_one else ""), value.strip()


@dataclass(slots=True)
class _Reader:
    lines: list[str]
    escape: str
    at: int = 0
    count: int = 0
    _continued: re.Pattern[str] = field(init=False)

    def __post_init__(self) -> None:
        mark = re.escape(self.escape)
        self._continued = re.compile(rf"(?:(?<=[^{mark}])|^){mark}[ \t]*$")

    def instructions(self) -> Iterator[Instruction]:
        while self.at < len(self.lines):
            line = self.at + 1
            text = self._joined().strip()
            if not text:
                continue
            self.count += 1
            if self.count > MOST:
                raise fault(line, f"it is instruction {self.count}; the limit is {MOST}")
            keyword, *rest = text.split(maxsplit=1)
            yield self._instruction(keyword.upper(), "".join(rest), line)

    def _instruction(self, keyword: str, rest: str, line: int) -> Instruction:
        with at_line(line):
            return Instruction(keyword, rest, line, self._heredocs(keyword, rest, line))

    def _joined(self) -> str:
        """The next instruction on one line, or "" for a comment or an empty line."""
        line = self._next().lstrip()
        text, more = self._cut("" if line.startswith("#") else line)
        parts = [text]
        while more and self.at < len(self.lines):
            line = self._next()
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            text, more = self._cut(line)
            parts.append(text)
        return "".join(parts)

    def _next(self) -> str:
        self.at += 1
        return self.lines[self.at - 1]

    def _cut(self, line: str) -> tuple[str, bool]:
        """The line without the mark that continues it, and whether it had one."""
        match = self._continued.search(line)
        return (line[: match.start()], True) if match else (line, False)

    def _heredocs(self, keyword: str, rest: str, line: int) -> tuple[Heredoc, ...]:
        if keyword not in _TAKES_HEREDOCS or "<<" not in rest or json_form(rest) is not None:
            return ()
        marks = [mark for word in split_raw(rest) if (mark := _mark(word)) is not None]
        return tuple(self._heredoc(*mark, line) for mark in marks)

    def _heredoc(self, name: str, expand: bool, chomp: bool, line: int) -> Heredoc:
        kept: list[str] = []
        while self.at < len(self.lines):
            found = self._next()
            if (found.lstrip("\t") if chomp else found) == name:
                return Heredoc(name, "".join(f"{one}\n" for one in kept), expand, chomp)
            kept.append(found)
        raise fault(line, f"the heredoc {name} has no end; put a line with {name} alone below it")


def json_form(text: str) -> tuple[str, ...] | None:
    """The words of a JSON array of strings; None where the text is none, and then it is for a shell."""
    if not text.lstrip().startswith("["):
        return None
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list):
        return None
    items = cast("list[Any]", found)
    return tuple(items) if all(isinstance(one, str) for one in items) else None


def is_heredoc(word: str) -> bool:
    """Whether a word such as `<<EOF` stands for a heredoc."""
    return _mark(word) is not None


def _mark(word: str) -> tuple[str, bool, bool] | None:
    """The name of the heredoc that a word begins, whether it is expanded, and whether tabs are cut off."""
    match = _HEREDOC.fullmatch(word)
    if match is None or len(split_raw(match[3])) != 1:
        return None
    name = strip_quotes(match[3])
    return (name, name == match[3], match[2] == "-") if name else None
