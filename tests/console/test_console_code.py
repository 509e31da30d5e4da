"""The source of the web console: its types and style are right, its own tests pass, and it stays small."""

import re
import subprocess
from pathlib import Path

import pytest
from scripts.build_console import BUILT, CONSOLE, FIRST_BYTES, loaded_first

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(not (CONSOLE / "node_modules").is_dir(), reason="needs `make console`"),
]

_SOURCES = CONSOLE / "src"


@pytest.mark.timeout(320)  # more than that of the program
@pytest.mark.parametrize("script", ["check", "test"])
def test_the_console_passes_its_own(script: str) -> None:
    done = subprocess.run(
        ["npm", "run", "--silent", script],
        cwd=CONSOLE,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_first_page_is_small() -> None:
    sizes = {path.name: path.stat().st_size for path in loaded_first()}
    assert any(name.endswith(".js.gz") for name in sizes)
    assert sum(sizes.values()) <= FIRST_BYTES, sizes


def test_nothing_of_the_console_is_of_another_host() -> None:
    page = (BUILT / "index.html").read_text()
    for used in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert used.startswith("/console/assets/"), used
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", page)


def test_no_text_of_the_console_is_put_into_a_page_as_markup() -> None:
    bad = re.compile(
        r"dangerouslySetInnerHTML|\.innerHTML\b|\.outerHTML\b|insertAdjacentHTML|document\.write|\beval\("
    )
    found: list[Path] = [
        path for path in _SOURCES.rglob("*.ts*") if ".test." not in path.name and bad.search(path.read_text())
    ]
    assert found == []
