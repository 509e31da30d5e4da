"""The thread of Ship that takes a user's ids to start a program, under attack by programs of that user, in a
sandbox of the `oci` driver.
"""

import base64
import json
import secrets
from typing import Any

import pytest

from bay.drivers.base import Handle
from bay.testing.driver_bench import DriverBench, call, endpoint_of

pytestmark = [pytest.mark.host, pytest.mark.anyio]

# Signals every thread of Ship until each signal was taken once (which only the thread that has the user's ids
# allows), and tries to read them.
ATTACK = """
import ctypes, json, os, signal, time
libc = ctypes.CDLL(None, use_errno=True)
TGKILL, PTRACE, SEIZE, VM_READ, PRLIMIT = 234, 101, 0x4206, 310, 302
numbers = [signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGCHLD, 32, 33, 34]
taken, read = set(), 0
class Part(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
own = ctypes.create_string_buffer(8)
ours, theirs = Part(ctypes.addressof(own), 8), Part(ctypes.addressof(own), 8)
until = time.monotonic() + 45
while len(taken) < len(numbers) and time.monotonic() < until:
    for thread in map(int, os.listdir("/proc/1/task")):
        taken |= {int(n) for n in numbers if libc.syscall(TGKILL, 1, thread, int(n)) == 0}
        read += libc.syscall(PTRACE, SEIZE, thread, 0, 0) == 0
        read += libc.syscall(VM_READ, thread, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0) > 0
        read += libc.syscall(PRLIMIT, thread, 7, 0, own) == 0
        read += os.access(f"/proc/1/task/{thread}/environ", os.R_OK)
print(json.dumps({"taken": sorted(taken), "wanted": sorted(map(int, numbers)), "read": read}))
"""

WHO = """
import ctypes, json
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
names = ("Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapAmb", "SigIgn", "SigBlk", "NoNewPrivs")
print(json.dumps([status[name].split() for name in names] + [ctypes.CDLL(None).getauxval(23)]))
"""
_NONE, _NO_SIGNAL, _AT_SECURE = (
    ["0000000000000000"],
    ["0000000001001000"],
    0,
)  # Python ignores SIGPIPE and SIGXFSZ


async def start(handle: Handle, query: str, *argv: str) -> dict[str, Any]:
    body = {"id": f"exec-{secrets.token_hex(8)}", "argv": list(argv)}
    return await call(endpoint_of(handle), "POST", f"/execs{query}", body)


async def test_a_program_can_neither_end_nor_read_the_thread_that_starts_others_as_its_user(
    oci: DriverBench,
) -> None:
    async with oci.session() as handle:
        attack = (await start(handle, "", "/usr/bin/python3", "-c", ATTACK))["id"]
        seen: dict[str, Any] = {"state": "running"}
        while seen["state"] == "running":  # which it ends by itself
            assert (await start(handle, "?wait=20", "/usr/bin/true"))["exit_code"] == 0
            seen = await call(endpoint_of(handle), "GET", f"/execs/{attack}?wait=0")
        found = json.loads(base64.b64decode(seen["stdout"]))
        assert found["taken"] == found["wanted"]
        assert found["read"] == 0
        await _check_nothing_is_left_of_the_ids_that_were_kept(handle)


async def _check_nothing_is_left_of_the_ids_that_were_kept(handle: Handle) -> None:
    ended = await start(handle, "?wait=20", "/usr/bin/python3", "-c", WHO)
    assert json.loads(base64.b64decode(ended["stdout"])) == [
        ["1000"] * 4, ["1000"] * 4, _NONE, _NONE, _NONE, _NONE, _NO_SIGNAL, _NONE, ["1"], _AT_SECURE,
    ]  # fmt: skip
