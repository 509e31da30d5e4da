"""Trees in a sandbox of the `oci` driver: its user's rights decide, and neither an archive nor a watch leads
out of it.
"""

import asyncio
import io
import secrets
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bay.drivers.base import Handle
from bay.errors import FileMissing, Forbidden, InvalidArgument
from bay.models import FileEvent
from bay.server.files.ship_client import FileClient
from bay.server.ship.client import ShipClient
from bay.server.ship.connection import Peer
from bay.testing.driver_bench import TOKEN, DriverBench, endpoint_of, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]

_ROOT = "/root"


@asynccontextmanager
async def trees(handle: Handle) -> AsyncGenerator[tuple[FileClient, Peer]]:
    """Bay's way to a session."""
    link = ShipClient()
    try:
        peer = Peer(session_id=secrets.token_hex(4), endpoint=endpoint_of(handle), token=TOKEN)
        yield FileClient(link), peer
    finally:
        link.close()


def archive(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mode = kind, link, 0o6755
        info.size = 1 if kind == tarfile.REGTYPE else 0
        made.addfile(info, io.BytesIO(b"x"))
    return out.getvalue()


async def whole(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_an_archive_is_packed_and_unpacked_as_the_sandboxes_user(oci: DriverBench) -> None:
    async with oci.session() as handle, trees(handle) as (link, peer):
        await link.unpack(peer, "/workspace/new", "tar", whole(archive("file")))
        there = await run(handle, "stat -c '%u %g %a' new/file; ls /tmp/out /etc/out 2>&1 | wc -l")
        assert there.stdout.split("\n")[:2] == ["1000 1000 755", "2"]
        for path in ("/etc", "/root", "/usr/bin"):
            with pytest.raises(Forbidden):
                await link.unpack(peer, path, "tar", whole(archive("out")))
        for hostile in (
            archive("../out"), archive("/tmp/out"), archive("there/out"), archive("null", tarfile.CHRTYPE),
            archive("hard", tarfile.LNKTYPE, "/etc/passwd"),
        ):  # fmt: skip
            await run(handle, "ln -sfn /tmp new/there")
            with pytest.raises(InvalidArgument):
                await link.unpack(peer, "new", "tar", whole(hostile))
        assert (await run(handle, "ls -A /tmp /workspace; ls -A new")).stdout.split() == [
            "/tmp:", "/workspace:", "new", "file", "there",
        ]  # fmt: skip


async def test_an_archive_replaces_no_file_of_another_that_the_user_may_not_write(oci: DriverBench) -> None:
    async with oci.session() as handle, trees(handle) as (link, peer):
        await run(handle, "mkdir d; printf old > d/mine; chmod 444 d/mine")
        await run(handle, "printf old > d/roots", user="root")
        await link.unpack(peer, "d", "tar", whole(archive("mine", tarfile.REGTYPE)))
        with pytest.raises(Forbidden, match="roots"):
            await link.unpack(peer, "d", "tar", whole(archive("roots", tarfile.REGTYPE)))
        assert (await run(handle, "ls -A d; stat -c '%U' d/roots; cat d/*")).stdout.split() == [
            "mine",
            "roots",
            "root",
            "xold",
        ]


async def test_what_the_user_cannot_read_is_left_out_and_what_the_kernel_makes_up_is_refused(
    oci: DriverBench,
) -> None:
    async with oci.session() as handle, trees(handle) as (link, peer):
        await run(
            handle, "mkdir d; echo needle > d/mine; echo needle > d/secret; chmod 0 d/secret; mkfifo d/fifo"
        )
        async with link.pack(peer, "d", "tar.gz") as chunks:
            data = b"".join([chunk async for chunk in chunks])
        with tarfile.open(fileobj=io.BytesIO(data)) as found:
            assert found.getnames() == ["fifo", "mine"]
        searched = await link.search(peer, "d", {"query": "needle"}, 10)
        assert [match.path for match in searched.matches] == ["/workspace/d/mine"]
        assert (searched.files_searched, searched.files_skipped) == (1, 1)
        everything = await link.search(peer, "/", {"glob": "needle-that-is-nowhere"}, 10)
        assert not everything.matches
        for path, error in (("/proc", InvalidArgument), (f"{_ROOT}/.ssh", Forbidden), ("/none", FileMissing)):
            with pytest.raises((error, FileMissing)):
                await link.search(peer, path, {"query": "x"}, 10)


async def test_a_watch_sees_what_programs_of_the_sandbox_do(oci: DriverBench) -> None:
    async with oci.session() as handle, trees(handle) as (link, peer):
        with pytest.raises((Forbidden, FileMissing)):
            await events(link, peer, f"{_ROOT}/secret", "")
        watched = asyncio.create_task(events(link, peer, "/workspace", "/workspace/d/e/end"))
        while not watched.done():  # the first may be before the watch is there
            await run(handle, "rm -rf d; mkdir -p d/e; touch d/e/end")
        assert {event.type for event in await watched} >= {"created"}


async def events(link: FileClient, peer: Peer, path: str, last: str) -> list[FileEvent]:
    found: list[FileEvent] = []
    async with asyncio.timeout(30), link.watch(peer, path, recursive=True) as watching:
        async for event in watching.events():
            found.append(event)
            if (event.type, event.path) == ("created", last):
                break
    return found
