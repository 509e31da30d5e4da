"""The web console in a real Chromium, on a real Bay with real runc. The steps are in `console/tests/`."""

import os
import shutil
import subprocess

import pytest
from scripts.build_console import BUILT, CONSOLE
from serving import KEY, Server

pytestmark = [
    pytest.mark.skipif(
        not BUILT.is_dir() or not shutil.which("chromium"), reason="needs `make console` and chromium"
    ),
    pytest.mark.timeout(600),  # each is a file of tests, whose own waits are bounded
]

_FILES = sorted(path.name for path in (CONSOLE / "tests").glob("*.browser.ts"))


@pytest.mark.parametrize("name", _FILES)
def test_people_use_the_console(server: Server, control: str, name: str) -> None:
    program = [
        "npx",
        "--no-install",
        "vitest",
        "run",
        "--config",
        "vitest.browser.config.ts",
        f"tests/{name}",
    ]
    given = {
        **os.environ, "BAY_URL": server.url, "BAY_API_KEY": KEY, "BAY_CONTROL": control, "NO_COLOR": "1",
    }  # fmt: skip
    done = subprocess.run(
        program, cwd=CONSOLE, env=given, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
