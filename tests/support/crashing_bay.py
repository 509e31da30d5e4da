"""A Bay that starts one session and is to be killed: a program for `test_oci_crash`, not a test.

It says each step on stdout as it reaches it, and at the one it was told waits for ever.
"""

import asyncio
import sys
from pathlib import Path

from bay.drivers.base import SessionSpec
from bay.drivers.oci.driver import OciDriver
from bay.models import NetworkPolicy, Resources
from bay.network.manager import NetworkManager


async def main(
    root: str, run_dir: str, ids: str, workspace: str, session_id: str, stop_at: str, runc: str
) -> None:
    """Start `session_id` as far as `stop_at`."""
    network = NetworkManager(instance=Path(run_dir).name[2:6])
    driver = OciDriver(root=Path(root), run_dir=Path(run_dir), ids_dir=Path(ids), runc=runc, network=network)
    await driver.open()
    spec = SessionSpec(
        session_id=session_id,
        sandbox_id="sandbox-crash",
        image="host",
        isolation="container",
        resources=Resources(),
        workspace=Path(workspace),
        token="t" * 32,
        network=NetworkPolicy(mode="allowlist"),
    )
    async for handle in driver.start(spec, None):
        sys.stdout.write(f"{handle.data['step']}\n")
        sys.stdout.flush()
        if handle.data["step"] == stop_at:
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
