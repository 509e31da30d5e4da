"""The web console in a real Chromium, on a real Bay with real runc. The steps are in `console/tests/`."""

import pytest
from console_bay import needs_chromium, run_steps
from scripts.build_console import CONSOLE
from serving import Server

pytestmark = [
    pytest.mark.clients,
    needs_chromium,
    pytest.mark.long,
    pytest.mark.timeout(600),  # each is a file of tests, whose own waits are bounded
]

PICTURES = "pictures.browser.ts"
"""`test_pictures.py` runs it, on a Bay with more to show."""
MEMORY = "memory.browser.ts"
"""`test_memory_in_browser.py` runs it, on a Bay that saves memory."""
_FILES = sorted({path.name for path in (CONSOLE / "tests").glob("*.browser.ts")} - {PICTURES, MEMORY})


@pytest.mark.gate
def test_a_person_signs_in_and_types_into_a_terminal(server: Server) -> None:
    run_steps(server, "box.browser.ts", only="a shell does what is typed")


@pytest.mark.parametrize("name", _FILES)
def test_people_use_the_console(server: Server, control: str, name: str) -> None:
    run_steps(server, name, BAY_CONTROL=control)
