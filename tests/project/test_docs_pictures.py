"""The pictures of docs/images: each page of the console has one, and those that pages show are there."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
PAGES = ROOT / "console" / "src" / "pages"
MOST_BYTES = 1536 << 10
"""Of all of them: each change of one stays in the history for ever."""
_SHOWN = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")


def routes() -> list[str]:
    """The pages of the console and the tabs of a sandbox, by their paths."""
    sources = (PAGES / "pages.tsx", PAGES / "sandbox" / "tabs.tsx")
    return [path for source in sources for path in re.findall(r'\bpath: "([^"]+)"', source.read_text())]


@pytest.mark.parametrize("path", routes())
def test_each_page_of_the_console_has_a_picture(path: str) -> None:
    assert (IMAGES / f"{path.replace('/', '-')}.webp").is_file(), "`make pictures` makes it"


def test_the_routes_are_found() -> None:
    assert {"sandboxes", "operator/host", "terminal", "python"} <= set(routes())


def shown(page: Path) -> list[tuple[str, Path]]:
    """The pictures that a page shows, each with its text."""
    found = _SHOWN.findall(page.read_text(encoding="utf-8"))
    return [(text, page.parent / name) for text, name in found]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_the_pictures_that_a_page_shows_are_there_and_have_a_text(page: Path) -> None:
    assert [path for text, path in shown(page) if not path.is_file() or len(text) < 20] == []


def test_the_readme_shows_two_of_the_console() -> None:
    assert [path.parent for _, path in shown(ROOT / "README.md")].count(IMAGES) == 2


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in IMAGES.iterdir()) <= MOST_BYTES
