"""The pages on concepts begin with a summary that is read once; the docs have a glossary of their words."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
MOST_WORDS = 100
"""About half a minute of reading."""


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def concepts() -> list[str]:
    """The pages of the section Concepts of the site."""
    section = re.search(r"(?m)^  - Concepts:\n((?:      - .+\n)+)", read("mkdocs.yml"))
    assert section is not None
    names = re.findall(r": (\S+\.md)$", section[1], re.MULTILINE)
    return [name if name[0].isupper() else f"docs/{name}" for name in names]


def rows_of(name: str, heading: str) -> dict[str, str]:
    """The first and the last cell of each row of a section's table; links are left out."""
    section = read(name).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    cells = [re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", line).strip("| ").split(" | ") for line in lines]
    return {row[0]: row[-1] for row in cells}


def glossary() -> dict[str, str]:
    return rows_of("docs/README.md", "Glossary")


@pytest.mark.parametrize("name", concepts())
def test_a_page_on_a_concept_begins_with_a_summary_of_two_to_four_sentences(name: str) -> None:
    _, summary, *_ = read(name).split("\n\n")
    assert re.match(r"[A-Z]", summary), "a paragraph stands before all else"
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z`])", summary.strip())
    assert 2 <= len(sentences) <= 4
    assert len(summary.split()) <= MOST_WORDS
    assert not summary.startswith("This page"), "it says how things are, and not what the page has"


def test_every_page_of_the_section_is_looked_at() -> None:
    assert {"docs/lifecycle.md", "docs/reliability.md", "SECURITY.md"} <= set(concepts())


@pytest.mark.parametrize("term", glossary())
def test_a_term_of_the_glossary_is_used_in_the_docs(term: str) -> None:
    pages = [path for path in (ROOT / "docs").glob("*.md") if path.name != "README.md"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages)
    for word in term.split(", "):
        assert re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE), word


def test_the_glossary_agrees_with_that_of_the_architecture() -> None:
    code = rows_of("ARCHITECTURE.md", "Nouns") | rows_of("ARCHITECTURE.md", "Glossary")
    code = {term.lower(): meaning for term, meaning in code.items()}
    both = {term: meaning for term, meaning in glossary().items() if term.lower() in code}
    assert {"sandbox", "cargo", "hold", "lost"} <= set(both)
    assert both == {term: code[term.lower()] for term in both}


def test_the_glossary_is_in_the_order_of_the_alphabet_with_one_line_each() -> None:
    terms = list(glossary())
    assert terms == sorted(terms, key=str.lower)
    assert [term for term, meaning in glossary().items() if len(meaning) > 300] == []
