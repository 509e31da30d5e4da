"""The fenced blocks of the documentation: the text that a reader copies, and where it stands."""

import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^( *)(`{3,}|~{3,}) *(\w*)")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of `page`, a path below the tree; `line` is that of its first fence, from 1."""

    page: str
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        """Its place, as an editor opens it."""
        return f"{self.page}:{self.line}"

    def has_line(self, begins: str) -> bool:
        """Whether a line of it begins so."""
        return any(line.startswith(begins) for line in self.text.splitlines())


@cache
def pages() -> tuple[str, ...]:
    """Every Markdown file of the tree, as a path below it."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z", "*.md"]
    names = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    return tuple(sorted(name for name in names.split("\0") if name and (ROOT / name).is_file()))


@cache
def blocks_of(page: str) -> tuple[Block, ...]:
    """The blocks of a page, in its order."""
    return tuple(blocks_in(page, (ROOT / page).read_text(encoding="utf-8")))


def blocks_in(page: str, text: str) -> list[Block]:
    """The blocks of a text. A fence that nothing closes raises AssertionError."""
    found: list[Block] = []
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if (fence := _FENCE.match(line)) is None:
            continue
        indent, mark, language = fence.groups()
        inside: list[str] = []
        for _, one in lines:
            if one.strip() == mark:
                break
            inside.append(one.removeprefix(indent))
        else:
            raise AssertionError(f"{page}:{number}: this fence is never closed")
        found.append(Block(page, number, language, "".join(f"{one}\n" for one in inside)))
    return found


@cache
def all_blocks() -> tuple[Block, ...]:
    """The blocks of every page."""
    return tuple(block for page in pages() for block in blocks_of(page))
