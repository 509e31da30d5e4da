"""What an upload may cost Bay before it is known where it goes."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import httpx
import pytest
from server_harness import World, assert_error, clear, create, eventually, ships, short_dir, within, world

pytestmark = [pytest.mark.host, pytest.mark.anyio]

MIB = 1 << 20
HEADERS = {"Content-Type": "multipart/form-data; boundary=limit"}
PATH = b'--limit\r\nContent-Disposition: form-data; name="path"\r\n\r\nx\r\n'
FILE = b'--limit\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
END = b"--limit--\r\n"


@pytest.fixture
def root() -> Generator[Path]:
    with short_dir() as path:
        yield path
        assert ships(path) == []


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    """Room for eight mebibytes, of which one owner may have two."""
    try:
        async with world(root, upload_spool_mb=8) as running:
            yield running
    finally:
        await clear(root)


async def upload(client: httpx.AsyncClient, sandbox: str, *pieces: bytes) -> httpx.Response:
    async def body() -> AsyncGenerator[bytes]:
        for piece in pieces:
            yield piece

    return await client.post(f"/v1/sandboxes/{sandbox}/filesystem/upload", content=body(), headers=HEADERS)


async def test_a_sandbox_that_is_not_there_is_404_before_a_byte_of_the_body(bay: World) -> None:
    async def unread() -> AsyncGenerator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    path = "/v1/sandboxes/none/filesystem/upload"
    answer = await (await bay.client()).post(path, content=unread(), headers=HEADERS)
    assert_error(answer, 404, "not_found")


async def test_a_file_whose_path_is_known_is_not_kept(bay: World) -> None:
    alice = await bay.client()
    made = await create(alice, wait=15)
    answer = await upload(alice, made["id"], PATH, FILE, *[b"x" * MIB] * 20, b"\r\n", END)
    assert (answer.status_code, answer.json()["size"]) == (200, 20 * MIB), answer.text
    assert not (bay.root / "data" / "spool").exists()


async def test_a_file_whose_path_comes_last_is_kept_within_a_budget(bay: World) -> None:
    alice = await bay.client()
    made = await create(alice, wait=15)
    fits = await upload(alice, made["id"], FILE, b"x" * MIB, b"\r\n", PATH, END)
    assert (fits.status_code, fits.json()["size"]) == (200, MIB), fits.text
    assert bay.workspace(made).joinpath("x").read_bytes() == b"x" * MIB
    too_large = await upload(alice, made["id"], FILE, *[b"x" * MIB] * 3, b"\r\n", PATH, END)
    assert "`path` first" in assert_error(too_large, 413, "payload_too_large")["message"]
    assert bay.bay.spool.used == 0


@pytest.mark.parametrize(("owners", "each"), [(1, 2), (5, 1)], ids=["of-one-owner", "of-all"])
async def test_many_such_uploads_share_the_budget(bay: World, owners: int, each: int) -> None:
    """Two mebibytes for one owner, eight for all: each upload here has nearly two and never ends."""
    over = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes]:
        yield FILE + b"x" * (2 * MIB - 1000)
        await over.wait()

    async with asyncio.TaskGroup() as group:
        tasks: list[asyncio.Task[httpx.Response]] = []
        for number in range(owners):
            client = await bay.client(f"owner{number}")
            path = f"/v1/sandboxes/{(await create(client))['id']}/filesystem/upload"
            for _ in range(each):
                tasks.append(group.create_task(client.post(path, content=endless(), headers=HEADERS)))
        refused, _ = await asyncio.wait(tasks, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        assert len(refused) == 1
        assert_error(refused.pop().result(), 429, "quota_exceeded")
        over.set()
    for task in tasks:
        assert task.result().status_code in (400, 429)
    await within(eventually(_is_free(bay)))


def _is_free(bay: World):
    async def is_free() -> bool:
        return bay.bay.spool.used == 0

    return is_free


@pytest.mark.parametrize(
    ("pieces", "status"),
    [((PATH, FILE, b"cut"), 400), ((FILE, b"cut"), 400), ((PATH * 2, FILE, b"x\r\n", END), 422), ((PATH, FILE, b"x\r\n", END), 200),
     ((PATH.replace(b'"path"', b'"other"') * 65, FILE, b"x\r\n", END), 400), ((b"--other\r\n\r\n",), 400),
     ((b"",), 400), ((PATH, END), 422), ((FILE, b"x\r\n", END), 422),
     ((PATH.replace(b"\r\nx\r\n", b"\r\n" + b"x" * 40_000 + b"\r\n"), FILE, b"x\r\n", END), 400)],
    ids=range(10),
)  # fmt: skip
async def test_a_form_that_is_none_writes_nothing(bay: World, pieces: tuple[bytes, ...], status: int) -> None:
    alice = await bay.client()
    made = await create(alice, wait=15)
    answer = await upload(alice, made["id"], *pieces)
    assert answer.status_code == status, answer.text
    assert bay.workspace(made).joinpath("x").exists() == (status == 200)
