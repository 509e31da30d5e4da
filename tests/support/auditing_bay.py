"""A Bay that is killed in the middle of a call: a program for `test_audit`, not a test.

It serves one create over HTTP with a driver that stops at a step, says the sandbox's id once the step is
reached, and waits for ever.
"""

import asyncio
import sys
from pathlib import Path

import httpx
from server_harness import settings_in

from bay.clock import ManualClock
from bay.drivers.fake import FakeDriver
from bay.server import logs
from bay.server.app import build_app
from bay.server.control_plane import ControlPlane


async def main(root: Path) -> None:
    """Delete one sandbox, and stop in the middle of that."""
    logs.configure("error", "json")  # on stderr: stdout is for what the test waits for
    driver = FakeDriver(run_dir=root / "run")
    app = build_app(settings_in(root), driver=driver, clock=ManualClock())
    bay: ControlPlane = app.state.bay
    async with bay.running(), asyncio.TaskGroup() as group:
        headers = {"Authorization": f"Bearer {await bay.keys.add('alice', 'k', 'write')}"}
        transport = httpx.ASGITransport(app)
        client = httpx.AsyncClient(transport=transport, base_url="http://bay", headers=headers, timeout=60)
        made = (await client.post("/v1/sandboxes", params={"wait": 20}, json={"name": "box"})).json()
        await bay.deferred.flush()
        driver.hold_at = "destroy"
        group.create_task(client.delete("/v1/sandboxes/box", headers={"X-Request-Id": "cut-off"}))
        await driver.held.wait()
        sys.stdout.write(f"{made['id']}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
