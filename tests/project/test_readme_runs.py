"""The Python in the documentation that is marked `<!-- runnable -->` is run, in a sandbox of this host."""

import os
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from bay.server import embedded

ROOT = Path(__file__).parents[2]
MARKED = re.compile(r"(?ms)^<!-- runnable -->\n```python\n(.*?)^```$")
TEXTS = [
    pytest.param(text, id=f"{path.name}-{number}")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for number, text in enumerate(MARKED.findall(path.read_text(encoding="utf-8")))
]


@pytest.fixture(scope="module")
def server() -> Generator[dict[str, str]]:
    """The environment in which a client finds a Bay of its own."""
    with embedded.start() as (url, key):
        yield {"BAY_URL": url, "BAY_API_KEY": key}


@pytest.mark.parametrize("text", TEXTS)
def test_marked_python_runs(text: str, server: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, **server},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout != ""


def test_there_is_python_to_run() -> None:
    assert any("README" in str(param.id) for param in TEXTS)
