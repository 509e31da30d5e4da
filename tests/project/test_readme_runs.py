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
