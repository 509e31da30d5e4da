"""The Python and the shell in the documentation that are marked `<!-- runnable -->` are run, beside a Bay of
this host.
"""

import os
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from bay.server import embedded

ROOT = Path(__file__).parents[2]
MARKED = re.compile(r"(?ms)^<!-- runnable -->\n```(python|sh)[^\n]*\n(.*?)^```$")
TEXTS = [
    pytest.param(language, text, id=f"{path.name}-{number}")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for number, (language, text) in enumerate(MARKED.findall(path.read_text(encoding="utf-8")))
]
RUN = {"python": [sys.executable, "-c"], "sh": ["bash", "-euo", "pipefail", "-c"]}
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
HOW_TO = (
    *("data-analysis.md", "web-previews.md", "ci-jobs.md", "many-users.md", "openai-agents.md"),
    *("langchain.md", "quickstart.md"),
)
TYPED = "tests/project/test_tutorial.py types it"
NOT_RUN = {
    ("openai-agents.md", "pip install"): "asks a registry; tests/integrations has the same lock installed",
    ("langchain.md", "pip install"): "asks a registry; tests/integrations has the same lock installed",
    ("quickstart.md", "git clone"): TYPED,
    ("quickstart.md", "sudo make setup"): TYPED,
    ("quickstart.md", "sudo make serve"): TYPED,
    ("quickstart.md", "export BAY_URL"): TYPED,
    ("quickstart.md", ".venv/bin/python first.py"): TYPED,
    ("quickstart.md", "import json"): TYPED,
    ("quickstart.md", "export OPENAI_API_KEY"): TYPED,
}
"""Blocks of these pages that no test here runs, by how they begin, and why."""
FENCE = re.compile(r"(?ms)^(<!-- runnable[^>]*-->\n)?```(\w+)[^\n]*\n(.*?)^```$")


@pytest.fixture(scope="module")
def server() -> Generator[dict[str, str]]:
    """The environment in which a client finds a Bay of its own."""
    with embedded.start() as (url, key):
        yield {"BAY_URL": url, "BAY_API_KEY": key}


@pytest.mark.parametrize(("language", "text"), TEXTS)
def test_marked_code_runs(language: str, text: str, server: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*RUN[language], text],
        env={**os.environ, **server, "PATH": PATH},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr if language == "python" else "") == (0, ""), done.stderr
    assert done.stdout != ""


def test_there_is_python_to_run() -> None:
    assert any("README" in str(param.id) for param in TEXTS)


def test_each_block_of_the_how_to_pages_is_run_or_has_a_reason() -> None:
    unmarked = [
        (page, text)
        for page in HOW_TO
        for marker, _, text in FENCE.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
        if not marker
    ]
    reasons = [
        [(name, begin) for name, begin in NOT_RUN if name == page and text.startswith(begin)]
        for page, text in unmarked
    ]
    assert [block for block, found in zip(unmarked, reasons, strict=True) if not found] == []
    assert {one for found in reasons for one in found} == set(NOT_RUN)


SHELL = [
    pytest.param(text, id=f"{path.name}-{number}")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for number, (_, language, text) in enumerate(FENCE.findall(path.read_text(encoding="utf-8")))
    if language == "sh"
]


@pytest.mark.parametrize("text", SHELL)
def test_shell_in_the_docs_is_shell(text: str) -> None:
    done = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
