"""What breaks under a sandbox, or the program that starts it: the status tells, and the next call mends.

Everything is real: runc, Ship, the kernel. What is broken is a thing of the test's own sandbox.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import crash_host
import pytest
from crash_case import WAIT_S, Json, Place, Run, running, until
from crash_points import Points

from bay.drivers.oci import cgroups
from bay.store import sandboxes
from bay.store.records import SessionRecord

pytestmark = [pytest.mark.host, pytest.mark.anyio]

T = TypeVar("T")
TRUTH_S = 5.0
"""How long a status may be wrong once somebody looks."""
RUNC_S = 2.0
LASTING = "sleep 1000"


@pytest.fixture
async def run(place: Place) -> AsyncGenerator[Run]:
    """A Bay whose runc can be told to misbehave by what stands in the file `mode` beside it."""
    (place.root / "runc").write_text(
        f"""#!/bin/sh
case " $* " in *" --version "*) exec runc --version;; esac
case "$(cat {place.root}/mode 2>/dev/null)" in
  fail) echo "told to fail" >&2; exit 1;;
  hang) exec sleep 1000;;
  late) sleep 1;;
esac
exec runc "$@"
"""
    )
    (place.root / "runc").chmod(0o755)
    driver = place.driver(runc=str(place.root / "runc"), runc_timeout_s=RUNC_S)
    async with running(place, Points(), driver=driver) as made:
        yield made


@pytest.fixture
async def sandbox(run: Run) -> str:
    """One that runs, with a file, and with a command that runs on."""
    made = await within(run.ask("POST", "", params={"wait": WAIT_S}, json={}))
    await run.ask("PUT", f"/{made['id']}/filesystem/files", json={"path": "kept", "content": "kept\n"})
    await run.ask("POST", f"/{made['id']}/execs", json={"argv": LASTING.split()})
    return made["id"]


async def test_a_killed_ship_shows_as_failed_and_the_next_call_starts_it_again(
    run: Run, sandbox: str
) -> None:
    os.kill((await init_of(run, sandbox)), signal.SIGKILL)
    await failed(run, sandbox, "session_exited")
    await works(run, sandbox)


async def test_a_call_that_meets_a_dying_ship_says_so_or_is_served_and_the_next_one_is(
    run: Run, sandbox: str
) -> None:
    os.kill((await init_of(run, sandbox)), signal.SIGKILL)
    await served_or_told(run, sandbox)
    await works(run, sandbox)


async def test_a_killed_container_shows_as_failed_and_the_next_call_starts_it_again(
    run: Run, sandbox: str
) -> None:
    group = await group_of(run, sandbox)
    assert await asyncio.to_thread(cgroups.kill, group)
    await failed(run, sandbox, "session_exited")
    await works(run, sandbox)


async def test_execs_of_a_session_that_died_are_lost_and_say_so(run: Run, sandbox: str) -> None:
    os.kill((await init_of(run, sandbox)), signal.SIGKILL)
    await failed(run, sandbox, "session_exited")
    await seen_as(run, f"{sandbox}/execs", lambda seen: [one["state"] for one in seen["items"]] == ["lost"])


async def test_one_that_is_frozen_from_outside_is_thawed_by_the_next_call_and_goes_on(
    run: Run, sandbox: str
) -> None:
    before = await session_of(run, sandbox)
    await freeze(run, sandbox)
    await works(run, sandbox)
    assert (await session_of(run, sandbox)).id == before.id
    assert crash_host.runs(run.place, before.id, LASTING)


async def test_one_that_is_frozen_from_outside_is_not_shown_as_running_for_long(
    run: Run, sandbox: str
) -> None:
    session = await session_of(run, sandbox)
    await freeze(run, sandbox)

    def is_true(seen: Json) -> bool:
        return (seen["compute"] == "running") != crash_host.is_frozen(run.place, session.id)

    await seen_as(run, sandbox, is_true)
    await works(run, sandbox)


async def test_a_ship_whose_socket_is_gone_is_ended_and_the_next_call_starts_a_new_one(
    run: Run, sandbox: str
) -> None:
    session = await session_of(run, sandbox)
    socket_of(run, session).unlink()
    run.bay.ship.forget(session.id)  # else an open connection goes on working, and nothing is wrong
    await failed(run, sandbox, "session_unreachable")
    await works(run, sandbox)
    assert (await session_of(run, sandbox)).id != session.id


async def test_a_call_that_meets_a_missing_socket_says_so_or_is_served_and_the_next_one_is(
    run: Run, sandbox: str
) -> None:
    session = await session_of(run, sandbox)
    socket_of(run, session).unlink()
    run.bay.ship.forget(session.id)
    await served_or_told(run, sandbox)
    await works(run, sandbox)


async def test_a_full_disk_is_named_and_keeps_nothing_from_running(place: Place) -> None:
    with small_disk(place.data_dir / "cargo", 8):
        async with running(place, Points()) as run:
            made = await run.ask("POST", "", params={"wait": WAIT_S}, json={})
            sandbox = made["id"]
            await run.ask("PUT", f"/{sandbox}/filesystem/files", json={"path": "kept", "content": "kept\n"})
            await shell(run, sandbox, "cat /dev/zero > big")
            refused = await run.call(
                "PUT", f"/{sandbox}/filesystem/files", json={"path": "new", "content": "x" * 1_000_000}
            )
            assert refused.json()["error"]["code"] == "storage_full", refused.text
            await works(run, sandbox)
            await run.ask("POST", f"/{sandbox}/stop")
            await works(run, sandbox)  # it also starts with a full disk
            await shell(run, sandbox, "rm big")
            await run.ask(
                "PUT", f"/{sandbox}/filesystem/files", json={"path": "new", "content": "x" * 1_000_000}
            )
            await run.ask("DELETE", f"/{sandbox}")


async def test_a_runc_that_fails_is_told_of_and_the_next_call_starts_the_sandbox(run: Run) -> None:
    mode(run, "fail")
    sandbox = await created(run)
    await failed(run, sandbox, "driver_unavailable")
    mode(run, "")
    await works(run, sandbox, file="")


async def test_a_runc_that_hangs_is_told_of_in_time_and_the_next_call_starts_the_sandbox(run: Run) -> None:
    mode(run, "hang")
    sandbox = await created(run)
    await failed(run, sandbox, "driver_unavailable")
    mode(run, "")
    await works(run, sandbox, file="")


async def test_a_runc_that_answers_late_is_waited_for(run: Run) -> None:
    mode(run, "late")
    sandbox = await created(run)
    await works(run, sandbox, file="")
    assert (await run.ask("GET", f"/{sandbox}"))["error"] is None


@pytest.mark.parametrize("what", ["fail", "hang"])
async def test_a_broken_runc_hinders_no_stop_and_no_delete(run: Run, sandbox: str, what: str) -> None:
    mode(run, what)
    await within(run.ask("POST", f"/{sandbox}/stop"))
    seen = await run.ask("GET", f"/{sandbox}")
    assert (seen["status"], seen["compute"]) == ("idle", "cold")
    await within(run.ask("DELETE", f"/{sandbox}"))
    assert (await run.call("GET", f"/{sandbox}")).status_code == 404


async def within(what: Awaitable[T], seconds: float = WAIT_S) -> T:
    """`what`, or a failure when it takes longer."""
    async with asyncio.timeout(seconds):
        return await what


async def created(run: Run) -> str:
    """A sandbox whose start has been asked for."""
    return (await run.ask("POST", "", json={}))["id"]


async def shell(run: Run, sandbox: str, command: str) -> Json:
    """The answer of a command."""
    answer = await within(run.call("POST", f"/{sandbox}/shell/exec", json={"command": command}))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def served_or_told(run: Run, sandbox: str) -> None:
    """A call is answered in time, with what it asked for or with why not."""
    command = {"command": "echo first"}
    answer = await within(run.call("POST", f"/{sandbox}/shell/exec", json=command), TRUTH_S)
    assert answer.status_code in (200, 502, 503), answer.text
    assert answer.status_code == 200 or answer.json()["error"]["retryable"]


async def works(run: Run, sandbox: str, *, file: str = "kept\n") -> None:
    """A call is served, the sandbox shows as ready, and its file is there."""
    done = await shell(run, sandbox, "echo works; cat kept 2>/dev/null")
    assert done["output"] == f"works\n{file}"
    seen = await run.ask("GET", f"/{sandbox}")
    assert (seen["status"], seen["compute"], seen["error"]) == ("ready", "running", None)


async def failed(run: Run, sandbox: str, code: str) -> None:
    """It shows as failed for that reason, soon enough."""

    def is_failed(seen: Json) -> bool:
        return seen["status"] == "failed" and seen["error"]["code"] == code and seen["compute"] == "cold"

    await seen_as(run, sandbox, is_failed)


async def seen_as(run: Run, path: str, is_right: Callable[[Json], bool]) -> None:
    """Look until what is shown is right."""
    seen: Json = {}
    try:
        async with asyncio.timeout(TRUTH_S):
            while not is_right(seen := await run.ask("GET", f"/{path}")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(f"it still shows {seen.get('status')} {seen.get('error')} {seen}")


async def session_of(run: Run, sandbox: str) -> SessionRecord:
    """The row of the live session."""
    async with run.bay.store.read() as db:
        found = await sandboxes.get(db, sandbox)
    assert found is not None
    assert found.session is not None
    return found.session


async def init_of(run: Run, sandbox: str) -> int:
    """The pid of Ship, as this host sees it."""
    handle = (await session_of(run, sandbox)).handle
    assert handle is not None
    return int(handle["data"]["pid"])


async def group_of(run: Run, sandbox: str) -> str:
    """The control group of the live session."""
    return f"/bay/{run.place.instance}/{(await session_of(run, sandbox)).id}"


async def freeze(run: Run, sandbox: str) -> None:
    """Freeze the live session as somebody would who does not ask Bay."""
    group = await group_of(run, sandbox)
    for directory in cgroups.directories(group):
        for name, value in (("freezer.state", "FROZEN"), ("cgroup.freeze", "1")):
            if (directory / name).exists():
                (directory / name).write_text(value)
    session = (await session_of(run, sandbox)).id
    assert await until(lambda: crash_host.is_frozen(run.place, session), WAIT_S)


def socket_of(run: Run, session: SessionRecord) -> Path:
    """Where Ship listens."""
    assert session.handle is not None
    return Path(session.handle["endpoint"]["socket_path"])


def mode(run: Run, what: str) -> None:
    """How runc behaves from now on."""
    (run.place.root / "mode").write_text(what)


@contextmanager
def small_disk(at: Path, mib: int) -> Generator[None]:
    """A file system of its own at `at`."""
    at.mkdir(parents=True)
    image = at.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(mib << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True, timeout=30)
    made = subprocess.run(["mount", "-o", "loop", str(image), str(at)], capture_output=True, timeout=30)
    if made.returncode:
        pytest.skip(f"no loop device here: {made.stderr.decode()}")
    try:
        (at / "lost+found").rmdir()
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True, timeout=30)
