"""Checkpoints with memory of the `oci` driver: a session goes on, and others begin with what it was."""

import asyncio
import base64
import json
import os
import re
import secrets
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from oci_bench import OciBench
from survivor_kept import KEPT
from test_oci_hibernation import is_closed, pages_of

from bay.drivers.base import (
    Handle,
    Hibernated,
    MemoryLost,
    MemoryNotSaved,
    Paused,
    Running,
    SessionSpec,
)
from bay.drivers.health import check_health
from bay.drivers.oci import layers, savers
from bay.drivers.oci.kept_memory import KeptMemory
from bay.drivers.oci.memory_image import ImageDirectory
from bay.drivers.ship_socket import open_connection
from bay.errors import DriverUnavailable, SandboxNotReady, StorageFull
from bay.places import directory_of
from bay.testing.driver_bench import TOKEN, call, cgroups_of, endpoint_of, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]

SURVIVOR = Path(__file__).parents[1] / "support" / "survivor.py"
SAVED = "ckpt-1"
_COUNTER = """
import os
file, count = os.open("count", os.O_RDWR | os.O_CREAT), 0
while not os.path.exists("tell"):
    count += 1
    os.pwrite(file, b"%09d" % count, 0)
with open("told", "w") as told:
    told.write(f"{count:09}")
"""
_TRACING = """
import ctypes, os, time
if (child := os.fork()) == 0:
    time.sleep(600)
assert ctypes.CDLL(None).ptrace(0x4206, child, 0, 0) == 0
open('/workspace/traces', 'w').write('yes')
time.sleep(600)
"""


@pytest.fixture(autouse=True)
async def without_memories(oci_criu: OciBench) -> AsyncGenerator[None]:
    yield
    for name in await oci_criu.driver.list_memories():
        await oci_criu.driver.remove_memory(name)
        shutil.rmtree(oci_criu.workspaces / name, ignore_errors=True)


async def started(bench: OciBench, **changes: Any) -> tuple[SessionSpec, Handle]:
    spec = bench.spec(savable=True, **changes)
    return spec, await bench.start(spec)


async def nothing() -> None:
    return


async def saved(bench: OciBench, spec: SessionSpec, handle: Handle, name: str = SAVED) -> Path:
    """A copy of the workspace as it was at the moment of a checkpoint."""
    copy = bench.workspaces / name

    async def copy_files() -> None:
        await asyncio.to_thread(shutil.copytree, directory_of(spec.workspace), copy, symlinks=True)

    assert await bench.driver.save_memory(handle, spec.token, name, copy_files) > 1 << 20
    return copy


def clone_of(bench: OciBench, files: Path, name: str = SAVED, **changes: Any) -> SessionSpec:
    """A spec of its own identity that begins with that memory, and with those files."""
    made = bench.spec(savable=True, token=secrets.token_hex(32), memory=name, **changes)
    place = directory_of(made.workspace)
    shutil.copytree(files, place, dirs_exist_ok=True, symlinks=True)
    for path in (place, *place.rglob("*")):
        os.chown(path, 1000, 1000)
    return made


async def begun(bench: OciBench, spec: SessionSpec, handle: Handle | None = None) -> Handle:
    bench.started.append(spec.session_id)
    async with asyncio.timeout(60):
        return [one async for one in bench.driver.start(spec, handle)][-1]


async def content_of(handle: Handle, file: str, token: str = TOKEN) -> str:
    """The text of a file that a program in the sandbox is to write."""
    wait = f"until [ -s {file} ]; do sleep 0.02; done; cat {file}"
    return (await run(handle, wait, timeout_s=30, token=token)).stdout


async def test_all_that_a_program_holds_goes_on_in_the_original_and_in_each_clone(
    oci_criu: OciBench,
) -> None:
    spec, handle = await started(oci_criu)
    await run(handle, "cat > survivor.py", stdin=base64.b64encode(SURVIVOR.read_bytes()).decode())
    order = {"id": "exec-1", "command": "exec python3 /workspace/survivor.py > /workspace/said 2>&1"}
    await call(endpoint_of(handle), "POST", "/execs", order)
    before = json.loads(await content_of(handle, "/workspace/ready"))
    files = await saved(oci_criu, spec, handle)
    clones = [clone_of(oci_criu, files) for _ in range(2)]
    handles = await asyncio.gather(*(begun(oci_criu, clone) for clone in clones))
    for its, where in ((spec, handle), *zip(clones, handles, strict=True)):
        await oci_criu.touch(its, "go")
        found = json.loads(await content_of(where, "/workspace/found", its.token))
        said = await oci_criu.read(its, "said")
        connection = found.pop("connection")
        assert connection == "open" if its is spec else connection != "open"
        assert found == {"value": before["value"], **KEPT}, said
        ended = await call(endpoint_of(where), "GET", "/execs/exec-1?wait=20", token=its.token)
        assert ended["exit_code"] == 0


async def test_memory_and_files_are_of_one_moment(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    await call(endpoint_of(handle), "POST", "/execs", {"id": "exec-c", "argv": ["python3", "-c", _COUNTER]})
    await content_of(handle, "count")
    files = await saved(oci_criu, spec, handle)
    then = int((files / "count").read_text() or "0")
    assert int(await content_of(handle, "count")) > then  # the original counts on
    clone = clone_of(oci_criu, files)
    await oci_criu.touch(clone, "tell")
    other = await begun(oci_criu, clone)
    assert int(await content_of(other, "told", clone.token)) - then in (0, 1, 2)


async def test_a_clone_has_an_identity_of_its_own(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu, hostname="alpha")
    await run(handle, "echo layer > /var/tmp/file; echo mine > own", user="root")
    files = await saved(oci_criu, spec, handle)
    await run(handle, "echo later > /var/tmp/file; echo later > own", user="root")
    clone = clone_of(oci_criu, files, hostname="beta")
    other = await begun(oci_criu, clone)
    show = "cat /var/tmp/file own; hostname; cat /etc/hostname"
    assert (await run(other, show, token=clone.token)).stdout == "layer\nmine\nbeta\nbeta\n"
    assert (await run(handle, show)).stdout == "later\nlater\nalpha\nalpha\n"
    ranges = [int(one.data["id_base"]) for one in (handle, other)]
    assert abs(ranges[0] - ranges[1]) >= 65536
    assert len(cgroups_of(oci_criu)) == 2 * len({path.parent for path in cgroups_of(oci_criu)})
    for where, wrong, right in ((other, TOKEN, clone.token), (handle, clone.token, TOKEN)):
        with pytest.raises(SandboxNotReady):
            await check_health(endpoint_of(where), wrong)
        await check_health(endpoint_of(where), right)
    assert "Read-only" in (await run(other, "touch /.ship-run/x", user="root", token=clone.token)).stderr
    everything = "find / -xdev -uid 65534 -newermt 2000-01-01 -path '/workspace*' | head"
    assert (await run(other, everything, user="root", token=clone.token)).stdout == ""


async def test_a_clone_is_saved_and_cloned_like_its_original(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    order = {"id": "exec-p", "argv": ["python3", "-uic", "x = 40"], "stdin_open": True}
    await call(endpoint_of(handle), "POST", "/execs", order)
    token, files = spec.token, await saved(oci_criu, spec, handle)
    for generation in (1, 2):
        spec = clone_of(oci_criu, files, "ckpt-1" if generation == 1 else "ckpt-2")
        handle, token = await begun(oci_criu, spec), spec.token
        await typed(handle, token, b"x += 1\nprint('x is', x)\n", f"x is {40 + generation}")
        files = await saved(oci_criu, spec, handle, f"ckpt-{generation + 1}")
    assert await oci_criu.driver.hibernate(handle, token) > 1 << 20
    handle = await begun(oci_criu, spec, handle)  # from its own memory, and not from the checkpoint's again
    await typed(handle, token, b"x += 1\nprint('x is', x)\n", "x is 43")


async def typed(handle: Handle, token: str, text: bytes, answer: str) -> None:
    """Feed the interpreter, and return once it has said that."""
    await stdin(handle, token, text)
    async with asyncio.timeout(30):
        while True:
            found = await call(endpoint_of(handle), "GET", "/execs/exec-p?wait=0", token=token)
            if answer in base64.b64decode(found["stdout"]).decode():
                return


async def stdin(handle: Handle, token: str, data: bytes) -> None:
    reader, writer = await open_connection(endpoint_of(handle), 1 << 20)
    head = f"POST /execs/exec-p/stdin HTTP/1.1\r\nHost: ship\r\nAuthorization: Bearer {token}\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_four_begin_at_once_and_each_goes_its_own_way(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    files = await saved(oci_criu, spec, handle)
    clones = [clone_of(oci_criu, files) for _ in range(4)]
    handles = await asyncio.gather(*(begun(oci_criu, clone) for clone in clones))
    for number, (clone, other) in enumerate(zip(clones, handles, strict=True)):
        await run(other, f"echo {number} > /var/tmp/number", token=clone.token)
    said = [
        (await run(other, "cat /var/tmp/number", token=clone.token)).stdout
        for clone, other in zip(clones, handles, strict=True)
    ]
    assert said == ["0\n", "1\n", "2\n", "3\n"]
    assert (await run(handle, "cat /var/tmp/number")).exit_code == 1


@asynccontextmanager
async def asked(
    handle: Handle, head: str
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A request whose answer has not been read."""
    reader, writer = await open_connection(endpoint_of(handle), 1 << 20)
    try:
        writer.write(f"{head} HTTP/1.1\r\nHost: ship\r\nAuthorization: Bearer {TOKEN}\r\n".encode())
        yield reader, writer
    finally:
        writer.close()


async def test_connections_live_through_a_save_without_a_byte_lost(oci_criu: OciBench) -> None:
    """Output that is followed as it is printed, an upload under way, a long poll and an idle connection."""
    spec, handle = await started(oci_criu)
    count = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); echo $i; done"
    order = {"id": "exec-p", "command": "until [ -e /workspace/stop ]; do sleep 0.02; done; echo woken"}
    await call(endpoint_of(handle), "POST", "/execs", order)
    made = {"id": "exec-o", "command": count, "wait_for_reader": True}
    await call(endpoint_of(handle), "POST", "/execs", made)
    async with (
        asked(handle, "GET /execs/exec-o/output?since=0&follow=true&wait_for_reader=true") as (output, head),
        asked(handle, "PUT /fs/content?path=/workspace/large") as (uploaded, upload),
        asked(handle, "GET /execs/exec-p?wait=50") as (polled, poll),
        asked(handle, "GET /healthz") as (idle, later),
    ):
        for writer in (head, poll):
            writer.write(b"\r\n")
        upload.write(b"Content-Length: 4000000\r\n\r\n" + b"a" * 1_000_000)
        await upload.drain()
        text = await output.readuntil(b"offset")
        reading = asyncio.create_task(output.readuntil(b"exit_code"))
        for number in range(3):
            await oci_criu.driver.save_memory(handle, spec.token, f"ckpt-{number}", nothing)
            upload.write(b"b" * 1_000_000)
            await upload.drain()
        text += await reading
        later.write(b"Connection: close\r\n\r\n")
        await oci_criu.touch(spec, "stop")
        assert (await idle.readline()).startswith(b"HTTP/1.1 200")
        assert (await uploaded.readline()).startswith(b"HTTP/1.1 20")
        assert b"d29rZW4K" in await polled.readuntil(b"d29rZW4K")  # woken
    printed = b"".join(base64.b64decode(data) for data in re.findall(rb'"data":"([^"]*)"', text))
    assert printed == b"".join(b"%d\n" % number for number in range(1, 60001))
    large = (directory_of(spec.workspace) / "large").read_bytes()
    assert large == b"a" * 1_000_000 + b"b" * 3_000_000


async def test_one_at_rest_stays_at_rest(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    await oci_criu.driver.pause(handle)
    files = await saved(oci_criu, spec, handle)
    assert isinstance(await oci_criu.driver.observe(handle), Paused)
    await oci_criu.driver.hibernate(handle, spec.token)
    await saved(oci_criu, spec, handle, "ckpt-2")
    assert isinstance(await oci_criu.driver.observe(handle), Hibernated)
    for name in (SAVED, "ckpt-2"):
        clone = clone_of(oci_criu, files, name)
        other = await begun(oci_criu, clone)
        assert (await run(other, "echo here", token=clone.token)).stdout == "here\n"
    handle = await begun(oci_criu, spec, handle)
    assert (await run(handle, "echo here")).stdout == "here\n"


async def test_one_at_rest_that_cannot_be_saved_stays_at_rest(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    await oci_criu.driver.pause(handle)

    async def fail() -> None:
        raise StorageFull("full")

    with pytest.raises(StorageFull):
        await oci_criu.driver.save_memory(handle, spec.token, SAVED, fail)
    assert isinstance(await oci_criu.driver.observe(handle), Paused)


async def test_a_save_that_breaks_off_before_it_has_written_anything_leaves_no_gap(
    oci_criu: OciBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when Bay is killed there: what holds Ship's socket closed is undone, and nothing is written."""
    spec, handle = await started(oci_criu)
    real = savers.unseal_socket_dir

    def undo_and_end(pidfd: int) -> None:
        real(pidfd)
        raise KilledError

    monkeypatch.setattr(savers, "unseal_socket_dir", undo_and_end)
    monkeypatch.setattr(savers.CriuSaver, "go_on", nothing_done)
    monkeypatch.setattr(ImageDirectory, "remove", nothing_removed)
    with pytest.raises(KilledError):
        await oci_criu.driver.save_memory(handle, spec.token, SAVED, nothing)
    monkeypatch.undo()
    await oci_criu.driver.resume(handle)  # the next Bay's
    await is_as_before(oci_criu, spec, handle)


class KilledError(Exception):
    pass


async def nothing_done(*_: object) -> None:
    return


def nothing_removed(_: ImageDirectory) -> None:
    return


async def test_memory_is_for_sessions_of_the_same_rights(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    files = await saved(oci_criu, spec, handle)
    with pytest.raises(MemoryLost, match="rights"):
        await begun(oci_criu, clone_of(oci_criu, files, allow_root=False))
    await oci_criu.driver.hibernate(handle, spec.token)
    handle = await begun(oci_criu, replace(spec, allow_root=False), handle)  # as it would have run on
    assert (await run(handle, "echo on")).stdout == "on\n"


async def test_the_files_beside_the_workspace_count(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    without = await oci_criu.driver.save_memory(handle, spec.token, SAVED, nothing)
    await run(handle, "head -c 20000000 /dev/urandom > /var/tmp/large; sync")
    with_it = await oci_criu.driver.save_memory(handle, spec.token, "ckpt-2", nothing)
    assert with_it - without > 15_000_000


async def test_a_half_made_copy_goes_with_its_checkpoint(oci_criu: OciBench) -> None:
    kept = KeptMemory.of(oci_criu.driver._layout, SAVED)
    await asyncio.to_thread(lambda: kept.image.half_made.mkdir(parents=True))
    assert await oci_criu.driver.list_memories() == {SAVED}
    await oci_criu.driver.remove_memory(SAVED)
    assert await oci_criu.driver.list_memories() == set()


async def test_one_that_cannot_be_saved_goes_on_and_nothing_is_kept(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    await call(endpoint_of(handle), "POST", "/execs", {"id": "exec-t", "argv": ["python3", "-c", _TRACING]})
    await content_of(handle, "/workspace/traces")
    with pytest.raises(MemoryNotSaved, match="traced"):
        await oci_criu.driver.save_memory(handle, spec.token, SAVED, nothing)
    await is_as_before(oci_criu, spec, handle)


async def is_as_before(bench: OciBench, spec: SessionSpec, handle: Handle) -> None:
    assert isinstance(await bench.driver.observe(handle), Running)
    await is_closed(bench, handle)
    assert not bench.driver._layout.session(spec.session_id).memory.exists()
    assert [path.name for path in bench.driver._layout.memories.iterdir() if path.name[0] != "."] == []
    await bench.driver.remove_memory(SAVED)
    assert await bench.driver.list_memories() == set()


@pytest.mark.parametrize(
    "error", [StorageFull("full"), DriverUnavailable("refused"), asyncio.CancelledError()]
)
async def test_one_whose_files_cannot_be_copied_goes_on(oci_criu: OciBench, error: BaseException) -> None:
    spec, handle = await started(oci_criu)

    async def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        await oci_criu.driver.save_memory(handle, spec.token, SAVED, fail)
    await is_as_before(oci_criu, spec, handle)


async def test_one_whose_layers_cannot_be_copied_goes_on(
    oci_criu: OciBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, handle = await started(oci_criu)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layers, "copy", fail)
    with pytest.raises(StorageFull):
        await oci_criu.driver.save_memory(handle, spec.token, SAVED, nothing)
    await is_as_before(oci_criu, spec, handle)


async def test_memory_that_is_altered_gone_or_of_another_host_begins_nothing(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    files = await saved(oci_criu, spec, handle)
    kept = KeptMemory.of(oci_criu.driver._layout, SAVED)
    await oci_criu.driver.check_memory(SAVED)
    pages = pages_of(kept.image.path)
    whole = pages.read_bytes()
    pages.chmod(0o600)
    pages.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(MemoryLost, match="altered"):
        await begun(oci_criu, clone_of(oci_criu, files))
    pages.write_bytes(whole)
    manifest = kept.image.path / "manifest.json"
    written = manifest.read_text()
    manifest.write_text(written.replace('"kernel": "', '"kernel": "9'))
    with pytest.raises(MemoryLost, match="kernel"):
        await oci_criu.driver.check_memory(SAVED)
    with pytest.raises(MemoryLost, match="kernel"):
        await begun(oci_criu, clone_of(oci_criu, files))
    manifest.write_text(written)
    clone = clone_of(oci_criu, files)
    assert (await run(await begun(oci_criu, clone), "true", token=clone.token)).exit_code == 0
    await oci_criu.driver.remove_memory(SAVED)
    with pytest.raises(MemoryLost, match="not on this host"):
        await begun(oci_criu, clone_of(oci_criu, files))
    with pytest.raises(MemoryLost):
        await oci_criu.driver.check_memory(SAVED)


async def test_a_session_begins_with_a_checkpoints_memory_once(oci_criu: OciBench) -> None:
    """One that has run, and is gone without a trace, may have changed its files since."""
    spec, handle = await started(oci_criu)
    clone = clone_of(oci_criu, await saved(oci_criu, spec, handle))
    bench, seen = oci_criu.driver, list[Handle]()
    bench_handles = bench.start(clone, None)
    oci_criu.started.append(clone.session_id)
    seen.append(await anext(bench_handles))
    await bench_handles.aclose()  # a Bay that was killed: only its id range was claimed
    seen += [one async for one in bench.start(clone, seen[-1])]
    await bench.destroy(oci_criu.handle(clone.session_id))
    for one in seen[-2:]:
        with pytest.raises(MemoryLost):
            await begun(oci_criu, clone, one)


async def test_the_memory_of_a_checkpoint_is_roots_alone_and_goes_with_it(oci_criu: OciBench) -> None:
    before = await oci_criu.traces()
    spec, handle = await started(oci_criu)
    clone = clone_of(oci_criu, await saved(oci_criu, spec, handle))
    await begun(oci_criu, clone)
    kept = KeptMemory.of(oci_criu.driver._layout, SAVED)
    for directory in (kept.image.path.parent, kept.image.path, kept.layers.parent, kept.layers):
        assert (directory.stat().st_uid, directory.stat().st_mode & 0o777) == (0, 0o700)
    for one in (spec, clone):
        await oci_criu.driver.destroy(oci_criu.handle(one.session_id))
        shutil.rmtree(directory_of(one.workspace))
    assert [owned async for owned in oci_criu.driver.list_owned()] == []
    await oci_criu.driver.remove_memory(SAVED)
    shutil.rmtree(oci_criu.workspaces / SAVED)
    assert await oci_criu.traces() == before
