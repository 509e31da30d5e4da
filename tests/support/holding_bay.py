"""A Bay whose driver stops at a step, to be killed there: a program for `test_http`, not a test.

It makes one sandbox, says its id once the step is reached, and waits for ever.
"""

import asyncio
import sys
from pathlib import Path

from server_harness import settings_in

from bay.clock import ManualClock
from bay.drivers.fake import FakeDriver
from bay.server import logs
from bay.server.app import build_app
from bay.server.control_plane import ControlPlane
from bay.server.sandboxes.service import NewSandbox, Sandboxes
from bay.server.web.auth import Caller


async def main(root: Path, step: str) -> None:
    """Start a sandbox as far as `step`; `done` is its last."""
    logs.configure("error", "json")  # on stderr: stdout is for what the test waits for
    driver = FakeDriver(run_dir=root / "run", hold_at=step)
    app = build_app(settings_in(root), driver=driver, clock=ManualClock())
    bay: ControlPlane = app.state.bay
    async with bay.running():
        caller = Caller("alice", "write", "key-1")
        wait_s = 20 if step == "done" else 0
        made = await bay.services()[Sandboxes].create(caller, NewSandbox(profile="eager"), None, wait_s)
        if step != "done":
            await driver.held.wait()
        sys.stdout.write(f"{made.id}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
