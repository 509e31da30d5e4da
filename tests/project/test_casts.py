"""The recorded terminal sessions of docs/casts are whole, and are those of the commands beside them."""

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "docs" / "casts").glob("*.txt"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_cast_shows_each_command_of_its_script(script: Path) -> None:
    head, *events = map(json.loads, script.with_suffix(".cast").read_text(encoding="utf-8").splitlines())
    assert (head["version"], head["width"]) == (2, 100)
    printed = "".join(data for _, kind, data in events if kind == "o")
    typed = [line.partition("$\x1b[0m ")[2] for line in printed.split("\r\n") if "$\x1b[0m " in line]
    assert typed == script.read_text(encoding="utf-8").splitlines()
    assert str(ROOT) not in printed
    assert "failed" not in printed


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_picture_of_a_cast_loads_nothing(script: Path) -> None:
    picture = script.with_suffix(".svg").read_text(encoding="utf-8")
    assert picture.count("http") == 1  # the name of SVG itself
    assert "<script" not in picture


def test_the_readme_shows_one() -> None:
    assert "(docs/casts/first.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")
