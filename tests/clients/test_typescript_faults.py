"""The TypeScript SDK beside servers, callers and sources that fail."""

import os
import subprocess
from pathlib import Path

import fault_proxy
import pytest
import real_bay

pytestmark = pytest.mark.clients

PROGRAM = Path(__file__).parent / "programs" / "typescript_faults.mjs"


LIMIT_S = 300
"""More than the limits of the program's own tests, each of which says what it waited for."""


@pytest.mark.timeout(LIMIT_S + 60)
def test_the_typescript_sdk_bears_faults() -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    with real_bay.running() as live, fault_proxy.before(live.url) as proxy:
        given = kept | {"BAY_URL": live.url, "BAY_API_KEY": real_bay.KEY, "FAULTS": proxy.url}
        try:
            done = subprocess.run(
                ["node", "--unhandled-rejections=strict", "--test-reporter=tap", PROGRAM],
                env=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            pytest.fail(f"it took more than {LIMIT_S} s:\n{(late.stdout or b'').decode()}")
    output = done.stdout.decode()
    assert done.returncode == 0, output
    assert "\n# fail 0\n" in output
