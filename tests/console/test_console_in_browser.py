"""The web console in a real Chromium, on a real Bay with real runc. The steps are in `console/tests/`."""

import pytest
from console_bay import needs_chromium, run_steps
from scripts.build_console import CONSOLE
from serving import Server

pytestmark = [
    needs_chromium,
    pytest.mark.timeout(600),  # each is a file of tests, whose own waits are bounded
]

PICTURES = "pictures.browser.ts"
"""`test_pictures.py` runs it, on a Bay with more to show."""
_FILES = sorted({path.name for path in (CONSOLE / "tests").glob("*.browser.ts")} - {PICTURES})


@pytest.mark.parametrize("name", _FILES)
def test_people_use_the_console(server: Server, control: str, name: str) -> None:
    run_steps(server, name, BAY_CONTROL=control)
