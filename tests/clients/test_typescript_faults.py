"""The TypeScript SDK beside servers, callers and sources that fail."""

import os
import subprocess
from pathlib import Path

import fault_proxy
import real_bay

PROGRAM = Path(__file__).parent / "programs" / "typescript_faults.mjs"


def test_the_typescript_sdk_bears_faults() -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    with real_bay.running() as live, fault_proxy.before(live.url) as proxy:
        given = kept | {"BAY_URL": live.url, "BAY_API_KEY": real_bay.KEY, "FAULTS": proxy.url}
        done = subprocess.run(
            ["node", "--unhandled-rejections=strict", "--test-reporter=tap", PROGRAM],
            env=given,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n# fail 0\n" in done.stdout
