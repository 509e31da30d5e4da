"""The ways to treat a block of the documentation, and the worlds that pages assume."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Steps = tuple[tuple[str, str], ...]
"""Of a person at a terminal: a pattern that is shown, and the text that is typed then."""

Language = Literal["javascript", "python", "shell"]
Consumer = Literal[
    "contexts", "dockerfile", "error", "event", "json", "mcp", "policy", "prometheus", "settings"
]

LANGUAGES: Mapping[str, Language] = {
    "console": "shell", "js": "javascript", "python": "python", "sh": "shell",
}  # fmt: skip
"""What runs a block of each language."""
READ: Mapping[str, Consumer] = {"dockerfile": "dockerfile", "json": "json", "toml": "settings"}
"""What reads a block of each other language."""


def _none() -> Mapping[str, str]:
    return {}


def _no_steps() -> Mapping[str, Steps]:
    return {}


@dataclass(frozen=True, slots=True)
class Row:
    """One block of a page, by how its text begins."""

    begins: str


@dataclass(frozen=True, slots=True)
class Run(Row):
    """The block is run, between `before` and `after`, which are of its language. `first` is shell that makes
    what the block assumes. Lines are named by how they begin.
    """

    first: str = ""
    before: str = ""
    after: str = ""
    without: Mapping[str, str] = field(default_factory=_none)
    """Lines that are left out, each with the fact that prevents it."""
    above: Mapping[str, str] = field(default_factory=_none)
    """Lines that are put above others."""
    typed: Mapping[str, Steps] = field(default_factory=_no_steps)
    """Lines that a person runs at a terminal."""
    words: Mapping[str, str] = field(default_factory=_none)
    """Words of the page that a reader replaces."""
    says: tuple[str, ...] = ()
    """What its output has, in this order."""
    inside: str = ""
    """The sandbox that the block is typed in."""


@dataclass(frozen=True, slots=True)
class Serve(Row):
    """Each line of the block is a server, which runs to the end of the page."""

    first: str = ""
    words: Mapping[str, str] = field(default_factory=_none)


@dataclass(frozen=True, slots=True)
class RunBy(Row):
    """The block is run by another test, `FILE::NAME`."""

    test: str


@dataclass(frozen=True, slots=True)
class ReadBy(Row):
    """The block is given to the program that it is for."""

    consumer: Consumer


@dataclass(frozen=True, slots=True)
class Shown(Row):
    """The block is output: of `first`, or of the block that ran before. `…` stands for anything in a line,
    and a space for any number of them.
    """

    first: str = ""
    words: Mapping[str, str] = field(default_factory=_none)
    without: Mapping[str, str] = field(default_factory=_none)


@dataclass(frozen=True, slots=True)
class NotRun(Row):
    """Nothing runs the block."""

    fact: str


@dataclass(frozen=True, slots=True)
class World:
    """What a page assumes, and its blocks that are not simply run."""

    bay: bool = True
    """Whether a Bay runs, whose URL and key are in the environment. Else the page starts its own."""
    first: str = ""
    """Shell that makes what the page assumes."""
    last: str = ""
    """Shell that removes what the page has left."""
    images: tuple[str, ...] = ()
    """Names of a small image that is there."""
    databases: int = 0
    """How many empty databases of PostgreSQL there are: POSTGRES-1 stands for the URL of the first."""
    python: str = ""
    """The Python of the page, as a path below the tree."""
    words: Mapping[str, str] = field(default_factory=_none)
    languages: Mapping[str, Row] = field(default_factory=dict[str, Row])
    """How all blocks of a language are treated that have no row. Their `begins` is empty."""
    rows: tuple[Row, ...] = ()
