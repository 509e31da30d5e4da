"""Terminals and the groups of execs in a sandbox of the `oci` driver: its own /dev/pts, its seccomp profile,
its user namespace.
"""

import base64
import secrets
from typing import Any

import pytest

from bay.drivers.base import Handle
from bay.testing.driver_bench import DriverBench, call, endpoint_of, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]

_TERMINALS = 128  # as the spec mounts /dev/pts

LOOK = "stat -c '%A %U %G' $(tty); test -t 2 && stty size; echo $TERM; ps -o tpgid= -p $$ | grep -qw $$ && echo in front"

ESCAPE = """
import os, sys, time
if len(sys.argv) == 1:
    for _ in range(2):
        os.setsid() if os.getpid() != os.getsid(0) else None
        if os.fork():
            os._exit(0)
    os.execve('/usr/bin/python3', ['python3', *sys.orig_argv[1:], 'away'], {})
time.sleep(600)
"""


async def start(handle: Handle, wait_s: float | None, **order: Any) -> dict[str, Any]:
    query = "" if wait_s is None else f"?wait={wait_s}"
    body = {"id": f"exec-{secrets.token_hex(8)}", **order}
    return await call(endpoint_of(handle), "POST", f"/execs{query}", body)


async def test_a_sandbox_has_terminals_of_its_own_and_knows_each_execs_processes(oci: DriverBench) -> None:
    async with oci.session() as handle:
        for user, owner in ((None, "ship"), ("root", "root")):
            shown = await start(handle, 20, command=LOOK, tty=True, rows=30, cols=100, user=user)
            found = base64.b64decode(shown["stdout"]).decode().split("\r\n")
            assert found == [f"crw--w---- {owner} tty", "30 100", "xterm-256color", "in front", ""]
        await _check_escapee_is_ended(handle)
        await _check_terminals_are_bounded(handle)


async def _check_escapee_is_ended(handle: Handle) -> None:
    left = await start(handle, 20, argv=["/usr/bin/python3", "-c", ESCAPE])
    assert left["exit_code"] == 0
    # Its first process ends before the one that got away has its new name.
    assert (await run(handle, "until pgrep -f '[a]way$'; do sleep 0.05; done", timeout_s=20)).exit_code == 0
    await call(endpoint_of(handle), "DELETE", f"/execs/{left['id']}?grace_s=0")
    assert (await run(handle, "pgrep -fc '[a]way$'")).stdout == "0\n"


async def _check_terminals_are_bounded(handle: Handle) -> None:
    answers = [await start(handle, None, argv=["sleep", "600"], tty=True) for _ in range(_TERMINALS + 1)]
    assert [answer.get("state") for answer in answers[:-1]] == ["running"] * _TERMINALS
    assert answers[-1]["error"]["code"] == "conflict"
    assert "terminal" in answers[-1]["error"]["message"]
