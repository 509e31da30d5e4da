"""The console with sandboxes whose memory goes to disk, in a real Chromium, with real runc and CRIU."""

import pytest
from console_bay import needs_chromium, run_steps
from hibernating_bay import criu_program, server
from serving import Server

__all__ = ["criu_program", "server"]

pytestmark = [pytest.mark.clients, needs_chromium, pytest.mark.long, pytest.mark.timeout(600)]

STEPS = "memory.browser.ts"


def test_people_use_memory_in_the_console(server: Server) -> None:
    run_steps(server, STEPS)
