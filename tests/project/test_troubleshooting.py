"""docs/troubleshooting.md quotes what people see: each quoted symptom is held to the source that says it."""

import ast
import errno
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from bay.errors import BY_CODE

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
HOLE = "…"
LEAST = 8
"""Characters of fixed text that a quoted sentence must share with one message, lest any message fit."""
KERNEL = {os.strerror(number) for number in errno.errorcode}
BY_STATUS = re.compile(r"\b(4\d\d|5\d\d) `(\w+)`")


def quotes() -> list[str]:
    """The quoted words of the first column of every table."""
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    symptoms = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    return [quote for symptom in symptoms for quote in re.findall(r"`([^`]+)`", symptom)]


def docstrings(tree: ast.Module) -> set[int]:
    """The nodes of texts that no code uses."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def messages_in(tree: ast.Module) -> Iterator[str]:
    """The texts of a module, with a hole for each part that is put in while it runs."""
    left_out = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            left_out |= {id(part) for part in node.values}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else HOLE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out:
            yield re.sub(r"\{\w*\}", HOLE, node.value)


@cache
def messages() -> frozenset[str]:
    """Every text in the code of Bay and Ship."""
    files = [*(ROOT / "src/bay").rglob("*.py"), *(ROOT / "src/ship").rglob("*.py")]
    return frozenset(
        text for file in files for text in messages_in(ast.parse(file.read_text(encoding="utf-8")))
    )


def is_said(quote: str) -> bool:
    """Whether some code, or the kernel, says it: a word as a whole, a sentence as a part of a message."""
    if quote in KERNEL or quote in BY_CODE:
        return True
    if re.fullmatch(r"[\w/-]+", quote):
        return any(fits_whole(quote, message) for message in messages())
    pattern = re.compile(".*".join(map(re.escape, quote.split(HOLE))))
    fixed = sum(len(part) for part in quote.split(HOLE))
    return fixed >= LEAST and any(pattern.search(message) for message in messages())


def fits_whole(word: str, message: str) -> bool:
    """Whether a message can be exactly this word, such as `session_exited` from `session_…`."""
    fixed = message.replace(HOLE, "")
    if not fixed or " " in message or len(fixed) * 2 < len(word):
        return False
    return re.fullmatch(".+".join(map(re.escape, message.split(HOLE))), word) is not None


@pytest.mark.parametrize("quote", quotes())
def test_a_quoted_symptom_is_in_the_source(quote: str) -> None:
    assert is_said(quote)


def test_the_page_quotes_enough_to_be_searched() -> None:
    assert len(quotes()) > 40


def test_a_changed_message_is_not_found() -> None:
    assert is_said("you have a sandbox named …")
    assert not is_said("you have a sandbox called …")
    assert not is_said("session_vanished_long_ago")
    assert not is_said("nobody_says_so")


def test_codes_on_the_page_have_their_status() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    named = [(int(status), code) for status, code in BY_STATUS.findall(text)]
    assert len(named) > 10
    assert [(status, code) for status, code in named if BY_CODE[code].status != status] == []
