"""A Bay that starts one session and is to be killed: a program for `test_oci_crash`, not a test.

It says each step on stdout as it reaches it, and at the one it was told waits for ever.
"""

import asyncio
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bay.drivers.base import SessionSpec
from bay.drivers.oci import cgroups
from bay.drivers.oci.driver import OciDriver
from bay.drivers.oci.runc import Runc
from bay.drivers.oci.zygote import FirstProcess, Zygote
from bay.models import NetworkPolicy, Resources
from bay.network.manager import NetworkManager

STEPS: dict[str, tuple[Any, str]] = {
    "forked": (Zygote, "fork"),
    "born": (FirstProcess, "born"),
    "created": (Runc, "run"),
    "joined": (cgroups, "join"),
    "ordered": (FirstProcess, "order"),
}
"""What the launching thread does with the zygote: it has done one when it says so."""


def stop_after(step: str) -> None:
    """Have the launching thread wait for ever once it has done `step`."""
    place, name = STEPS[step]
    does: Callable[..., Any] = getattr(place, name)

    def do_and_wait(*arguments: Any, **named: Any) -> Any:
        does(*arguments, **named)
        say(step)
        threading.Event().wait()

    setattr(place, name, do_and_wait)


def say(step: str) -> None:
    """Tell the test."""
    sys.stdout.write(f"{step}\n")
    sys.stdout.flush()


async def main(
    root: str, run_dir: str, ids: str, workspace: str, session_id: str, stop_at: str, runc: str
) -> None:
    """Start `session_id` as far as `stop_at`."""
    network = NetworkManager(instance=Path(run_dir).name[2:6])
    driver = OciDriver(root=Path(root), run_dir=Path(run_dir), ids_dir=Path(ids), runc=runc, network=network)
    await driver.open()
    if stop_at in STEPS:
        stop_after(stop_at)
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
        say(str(handle.data["step"]))
        if handle.data["step"] == stop_at:
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
