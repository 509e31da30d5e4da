"""The pages of docs/ as topics of `bay help`. A checkout and an installed wheel have them at `bay/docs`."""

import importlib
import io
import os
import shutil
from difflib import get_close_matches
from pathlib import Path

from bay.errors import InvalidArgument

DOCS = Path(__file__).parents[1] / "docs"
_HIDDEN = ("README", "design")
_WIDEST = 100


def topics(docs: Path = DOCS) -> dict[str, Path]:
    """The pages by their names."""
    found = sorted(docs.glob("**/*.md"))
    return {
        page.stem: page for page in found if not {page.stem, *page.parts[len(docs.parts) :]} & set(_HIDDEN)
    }


def page(name: str, docs: Path = DOCS) -> str:
    """The text of a topic, in Markdown. Raises InvalidArgument, with the name that was probably meant."""
    known = topics(docs)
    if not known:
        raise InvalidArgument(f"this installation has no pages: there is no directory {docs}")
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean `bay help {near[0]}`? " if near else ""
        raise InvalidArgument(
            f"there is no command and no topic {name!r}; {hint}`bay help topics` lists them"
        )
    return known[name].read_text(encoding="utf-8")


def title(text: str) -> str:
    """The first heading of a page."""
    return text.partition("\n")[0].lstrip("# ").replace("`", "")


def show(text: str) -> None:
    """The page on the terminal, by the user's pager (PAGER, else less) where it is longer than that."""
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    shown = io.StringIO()
    console = importlib.import_module("rich.console").Console(file=shown, width=width, no_color=True)
    console.print(importlib.import_module("rich.markdown").Markdown(text))
    os.environ.setdefault("LESS", "FRX")  # as git has it: a short page needs no key to leave
    importlib.import_module("pydoc").pager(shown.getvalue())
