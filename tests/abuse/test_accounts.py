"""A sandbox that takes all it can of what the kernel counts by user leaves every other one, and the host, its
own share.
"""

import ctypes
import os
import re
import shlex
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from oci_bench import opening

from bay.drivers.base import Handle
from bay.drivers.oci.driver import OciDriver
from bay.drivers.oci.rlimits import RLIMITS
from bay.drivers.oci.spec import TERMINALS
from bay.drivers.oci.userns import USER_LIMITS
from bay.testing.driver_bench import DriverBench, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]

# Each takes one more of something, and raises OSError when there is no more.
SIGNAL = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
take = lambda: checked(libc.sigqueue(os.getpid(), int(signal.SIGRTMIN), None))
"""
QUEUE = """
class Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("flags", "messages", "size", "current", *"abcd")]
shape = Attributes(0, 10, 8192)
take = lambda: checked(libc.mq_open(b"/q%d" % taken, os.O_CREAT | os.O_RDWR, 0o600, ctypes.byref(shape)))
"""
PIPE = """
held = []
def take():
    held.append(os.pipe())
    if fcntl.fcntl(held[-1][0], 1032) < 65536:  # F_GETPIPE_SZ: the user has too many for a whole one
        raise OSError
"""
TERMINAL = "take = os.openpty"
WATCHER = "take = lambda: checked(libc.inotify_init1(0))"

_GREEDY = """
import ctypes, fcntl, os, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
taken = 0
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "no more")
    return result
%s
try:
    while taken < %d:
        take()
        taken += 1
except OSError:
    pass
print("took", taken, flush=True)
time.sleep(%d)
"""


async def hold(handle: Handle, thing: str) -> int:
    """Take all of something in a sandbox, keep it, and return how much that was."""
    program = shlex.quote(_GREEDY % (thing, 200_000, 600))
    wait = "until grep -q took held; do sleep 0.05; done; cat held"
    return _taken((await run(handle, f"python3 -c {program} > held 2>&1 & {wait}")).stdout)


async def take_one(handle: Handle, thing: str) -> int:
    """Try for one, and return whether there was one."""
    return _taken((await run(handle, f"python3 -c {shlex.quote(_GREEDY % (thing, 1, 0))}")).stdout)


def _taken(said: str) -> int:
    return int(said.removeprefix("took "))


async def test_pending_signals_are_charged_to_the_sandbox_alone(oci: DriverBench) -> None:
    async with oci.session() as greedy, oci.session() as other:
        before = _signals_of_the_hosts_root()
        taken = await hold(greedy, SIGNAL)
        assert 1000 < taken <= RLIMITS["sigpending"]
        assert _signals_of_the_hosts_root() - before < taken / 2
        assert await take_one(other, SIGNAL) == 1


async def test_message_queues_are_charged_to_the_sandbox_alone(oci: DriverBench) -> None:
    async with oci.session() as greedy, oci.session() as other:
        assert await hold(greedy, QUEUE) > 1
        assert await take_one(other, QUEUE) == 1


async def test_inotify_instances_are_charged_to_the_sandbox_alone(oci: DriverBench) -> None:
    each = USER_LIMITS["max_inotify_instances"]
    enough_for_roots = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text()) // each
    async with AsyncExitStack() as stack:
        for _ in range(min(enough_for_roots, 4)):
            handle = await stack.enter_async_context(oci.session())
            assert await hold(handle, WATCHER) == each
        other = await stack.enter_async_context(oci.session())
        assert await take_one(other, WATCHER) == 1
        mine = ctypes.CDLL(None).inotify_init1(0)
        assert mine >= 0
        os.close(mine)


async def test_pipe_buffers_are_charged_to_the_sandbox_alone(oci: DriverBench) -> None:
    async with oci.session() as greedy, oci.session() as other:
        assert 100 < await hold(greedy, PIPE) < 10_000
        assert await take_one(other, PIPE) == 1


async def test_sandboxes_with_the_same_ids_would_share_them(oci: DriverBench) -> None:
    root, run_dir, ids = oci.kept
    unaware = ids.with_suffix(".other")
    twin = OciDriver(root=root, run_dir=run_dir, ids_dir=unaware)
    try:
        async with (
            opening(twin),
            oci.session() as greedy,
            DriverBench(twin, oci.workspaces, oci.kept, oci.instance, 1000).session() as other,
        ):
            await hold(greedy, PIPE)
            assert await take_one(other, PIPE) == 0
    finally:
        shutil.rmtree(unaware)


async def test_terminals_of_a_sandbox_are_bounded(oci: DriverBench) -> None:
    """The kernel has some thousands for the whole host."""
    async with oci.session() as greedy, oci.session() as other:
        assert 1 < await hold(greedy, TERMINAL) <= TERMINALS
        assert await take_one(other, TERMINAL) == 1


def _signals_of_the_hosts_root() -> int:
    found = re.search(r"^SigQ:\s+(\d+)/", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])
