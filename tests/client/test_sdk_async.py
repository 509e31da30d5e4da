"""The async client: the same words, awaited; and what only it can do, being cancelled."""

from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
import anyio.lowlevel
import canned
import fault_proxy
import httpx
import pytest
from real_bay import KEY

import bay

pytestmark = pytest.mark.anyio


@pytest.fixture
async def aclient(url: str) -> AsyncIterator[bay.AsyncClient]:
    async with bay.AsyncClient(url, KEY, timeout_s=20) as made:
        yield made


async def test_a_sandbox_runs_keeps_files_and_goes(aclient: bay.AsyncClient) -> None:
    async with aclient.sandbox(name="async") as box:
        assert (await box.run("echo hi")).stdout == "hi\n"
        await box.files.write("a/b", b"data")
        assert await box.files.read("a/b") == b"data"
        assert [entry.name for entry in await box.files.list("a")] == ["b"]
    with pytest.raises(bay.NotFound):
        await aclient.sandboxes.get("async")


async def test_two_waits_at_once_each_have_all_of_the_output_once(aclient: bay.AsyncClient) -> None:
    results: list[bay.RunResult] = []

    async def wait(proc: bay.AsyncProc) -> None:
        results.append(await proc.wait(60))

    async with aclient.sandbox() as box:
        proc = await box.spawn("seq 20000")
        async with anyio.create_task_group() as group:
            group.start_soon(wait, proc)
            group.start_soon(wait, proc)
    whole = "".join(f"{number}\n" for number in range(1, 20001))
    assert [(result.stdout, result.ok) for result in results] == [(whole, True)] * 2


async def test_a_wait_that_is_cancelled_leaves_the_rest_to_the_other(aclient: bay.AsyncClient) -> None:
    async with aclient.sandbox() as box:
        proc = await box.spawn("echo one; read line; echo $line", stdin_open=True)
        results: list[bay.RunResult] = []

        async def wait() -> None:
            results.append(await proc.wait(60))

        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as first:
                    first.start_soon(wait)
                    await proc.refresh()
                    group.start_soon(wait)
                    with pytest.raises(bay.Timeout, match="still runs"):
                        await proc.wait(0.1)
                    scope.cancel()
            await proc.write("two\n")
        assert [result.stdout for result in results] == ["one\ntwo\n"]


async def test_output_is_followed(aclient: bay.AsyncClient) -> None:
    async with aclient.sandbox() as box:
        proc = await box.spawn("echo one; sleep 0.05; echo two; exit 3")
        assert b"".join([chunk.data async for chunk in proc.output()]) == b"one\ntwo\n"
        assert proc.info.exit_code == 3


async def test_a_broken_connection_is_taken_up_where_it_broke(
    proxy: fault_proxy.Proxy, aclient: bay.AsyncClient
) -> None:
    async with aclient.sandbox() as box, bay.AsyncClient(f"{proxy.url}/cut", KEY) as cut:
        proc = await box.spawn("for i in 1 2 3; do echo $i; sleep 0.05; done")
        again = await (await cut.sandboxes.get(box.id)).execs.get(proc.id)
        assert b"".join([chunk.data async for chunk in again.output()]) == b"1\n2\n3\n"


async def test_files_stream_both_ways(aclient: bay.AsyncClient, tmp_path: anyio.Path) -> None:
    local = anyio.Path(tmp_path)
    await (local / "up").write_bytes(b"z" * 700_000)
    async with aclient.sandbox() as box:
        assert await box.files.upload(str(local / "up"), "remote") == 700_000
        assert await box.files.download("remote", str(local / "down")) == 700_000
    assert await (local / "down").read_bytes() == b"z" * 700_000


async def test_open_files_are_awaited(aclient: bay.AsyncClient) -> None:
    async with aclient.sandbox() as box:
        async with box.files.open("f", "wb") as out:
            for _ in range(10):
                await out.write(b"line\n" * 20_000)
        async with box.files.open("f") as file:
            assert await file.seek(-5, 2) == 999_995
            assert [line async for line in file] == [b"line\n"]
        async for info in box.files.walk():
            assert (info.name, info.size) == ("f", 1_000_000)


@pytest.mark.parametrize("how", ["exception", "cancelled"])
async def test_what_is_written_before_the_block_is_left_is_forgotten(
    aclient: bay.AsyncClient, how: str
) -> None:
    async with aclient.sandbox() as box:
        await box.files.write("f", b"old")
        with anyio.CancelScope() as scope, suppress(ZeroDivisionError):
            async with box.files.open("f", "wb") as out:
                await out.write(b"x" * 1_000_000)
                if how == "cancelled":
                    scope.cancel()
                    await anyio.lowlevel.checkpoint()
                raise ZeroDivisionError
        assert await box.files.read("f") == b"old"


async def test_a_refusal_comes_out_of_the_block_as_it_is(aclient: bay.AsyncClient) -> None:
    async with aclient.sandbox() as box:
        await box.files.mkdir("d")
        with pytest.raises(bay.BayError) as caught:
            async with box.files.open("d\0", "wb") as out:
                await out.write(b"x")
        assert caught.value.code == "invalid_path"


async def test_directories_go_up_and_down(aclient: bay.AsyncClient, tmp_path: anyio.Path) -> None:
    local = anyio.Path(tmp_path)
    await (local / "src").mkdir()
    await (local / "src" / "f").write_bytes(b"z" * 600_000)
    async with aclient.sandbox() as box:
        assert await box.files.upload_dir(str(local / "src"), "tree") == 600_000
        assert await box.files.download_dir("tree", str(local / "back")) == 600_000
    assert await (local / "back" / "f").read_bytes() == b"z" * 600_000


async def test_list_goes_through_all_pages(aclient: bay.AsyncClient) -> None:
    made = [(await aclient.sandboxes.create(labels={"async": "yes"})).id for _ in range(3)]
    assert [box.id async for box in aclient.sandboxes.list(label="async:yes", limit=2)] == made


async def test_many_commands_run_at_once(aclient: bay.AsyncClient) -> None:
    seen: set[str] = set()

    async def one(box: bay.AsyncBox, number: int) -> None:
        seen.add((await box.run(f"echo {number}")).stdout)

    with anyio.fail_after(20):
        async with aclient.sandbox() as box, anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(one, box, number)
    assert len(seen) == 10


async def test_cancellation_still_deletes_the_sandbox(aclient: bay.AsyncClient) -> None:
    with anyio.move_on_after(0.3) as scope:
        async with aclient.sandbox(name="cancelled") as box:
            await box.run("sleep 30", timeout_s=1)
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    with pytest.raises(bay.NotFound):
        await aclient.sandboxes.get("cancelled")


async def test_cancellation_of_a_create_takes_it_back() -> None:
    seen: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        seen.append(f"{request.method} {request.url.params.get('wait')}")
        if request.url.params.get("wait"):
            await anyio.sleep_forever()
        return httpx.Response(204) if request.method == "DELETE" else httpx.Response(201, json=canned.SANDBOX)

    transport = httpx.MockTransport(answer)
    with anyio.move_on_after(0.05):
        async with bay.AsyncClient("http://bay.test", transport=transport) as client, client.sandbox():
            pytest.fail("the block must not be entered")
    assert seen == ["POST 60.0", "POST None", "DELETE None"]


async def test_a_server_that_does_not_answer_is_a_timeout(proxy: fault_proxy.Proxy) -> None:
    async with bay.AsyncClient(f"{proxy.url}/mute", timeout_s=0.1) as client:
        with pytest.raises(bay.Timeout):
            await client.health()
