"""`WS …/attach`: output as it comes, input as it is typed, and every way in which that can end."""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from attaching import END, STDIN, attached, refused
from server_harness import Json, Served, clear, create, eventually, served, ships, until, within

pytestmark = pytest.mark.anyio

_FRAME = (1 << 20) - 1
"""Bytes beside the mark in the largest message there may be."""


@pytest.fixture
async def client(live: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client:
        yield client


@pytest.fixture
async def box(client: httpx.AsyncClient) -> str:
    return (await create(client, wait=15))["id"]


async def start(client: httpx.AsyncClient, box: str, command: str, **body: Any) -> str:
    answer = await client.post(f"/v1/sandboxes/{box}/execs", json={"command": command, **body})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def look(client: httpx.AsyncClient, box: str, exec_id: str) -> Json:
    return (await client.get(f"/v1/sandboxes/{box}/execs/{exec_id}")).json()


async def test_output_comes_with_its_stream_and_then_how_it_ended(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    made = await start(client, box, "read x; echo out; echo err >&2; exit 3", stdin_open=True)
    async with attached(live, f"{box}/execs/{made}/attach") as one:
        assert one.first["exec"] == await look(client, box, made)
        assert one.first["next_offset"] == 0
        await one.write(b"go\n")
        pieces: dict[bytes, bytes] = {b"\1": b"", b"\2": b""}
        while (piece := await one.read()) is not None:
            pieces[piece[:1]] += piece[1:]
    assert pieces == {b"\1": b"out\n", b"\2": b"err\n"}
    assert one.exit == {"type": "exit", "exit_code": 3, "signal": None, "state": "exited", "timed_out": False}
    assert one.closed == (1000, "")


async def test_bytes_pass_unharmed_in_both_directions_however_many(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    sent = os.urandom(8 << 20)
    made = await start(client, box, "cat", stdin_open=True)
    async with attached(live, f"{box}/execs/{made}/attach") as one:

        async def write() -> None:
            for at in range(0, len(sent), _FRAME):
                await one.write(sent[at : at + _FRAME])
            await one.socket.send(END)

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            seen = await within(one.rest())
    assert (one.closed, len(seen)) == ((1000, ""), len(sent))
    assert seen == sent
    assert one.exit is not None
    assert one.exit["exit_code"] == 0


async def test_all_who_are_attached_see_the_same_bytes_and_one_may_come_back_at_an_offset(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    made = await start(client, box, "seq 1000; read x; seq 1001 2000", stdin_open=True)
    path = f"{box}/execs/{made}/attach"
    whole = b"".join(b"%d\n" % number for number in range(1, 2001))
    async with attached(live, path) as first, attached(live, path) as second:
        async with attached(live, path) as leaver:
            await leaver.until(b"\n1000\n")
        begun = await first.until(b"\n1000\n")
        await second.write(b"go\n")
        assert begun + await first.rest() == await second.rest() == whole
    async with attached(live, f"{path}?since=1234") as late:
        assert late.first["next_offset"] == 1234
        assert await late.rest() == whole[1234:]


@pytest.mark.host
async def test_who_reads_nothing_holds_up_nobody_and_comes_back_by_offset(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    made = await start(
        client, box, "read x; head -c 60000000 /dev/zero | tr '\\0' x; echo end", stdin_open=True
    )
    path = f"{box}/execs/{made}/attach"
    async with attached(live, path, max_queue=1) as slow:
        async with attached(live, path) as quick:
            await quick.write(b"go\n")
            with pytest.raises(AssertionError):  # it may be dropped too, but not held up
                await quick.until(b"never")
        ended = (await client.get(f"/v1/sandboxes/{box}/execs/{made}", params={"wait": 15})).json()
        assert ended["exit_code"] == 0
        await slow.rest()
    code, reason = slow.closed
    assert code == 4410
    assert reason is not None
    offset = int(reason.removeprefix("first_offset="))
    assert offset > 1 << 20
    async with attached(live, path) as back:
        assert (await back.rest()).endswith(b"xend\n")


async def test_an_attachment_that_cannot_be_is_refused_in_plain_http(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    made = await start(client, box, "head -c 3000000 /dev/zero; sleep 1000")
    path = f"{box}/execs/{made}/attach"

    async def has_printed() -> bool:
        return (await look(client, box, made))["output_bytes"] == 3_000_000

    await eventually(has_printed)
    status, error = await refused(live, f"{path}?since=0")
    assert (status, error["code"]) == (410, "output_gone")
    assert 0 < error["details"]["first_offset"] <= 3_000_000 - (1 << 20)
    for query, wanted in (
        ("since=3000001", 400),
        ("since=-1", 422),
        ("since=x", 422),
        ("repaint=perhaps", 422),
    ):
        assert (await refused(live, f"{path}?{query}"))[0] == wanted, query
    assert (await refused(live, f"{path}?repaint=true"))[0] == 400  # it has no terminal
    unknown = "exec-" + "0" * 24
    assert (await refused(live, f"{box}/execs/{unknown}/attach"))[0] == 404
    assert (await refused(live, f"sandbox-{'0' * 24}/execs/{made}/attach"))[0] == 404
    assert (await refused(live, f"{box}/execs/{made}/nothing"))[0] == 404
    assert (await refused(live, f"{box}/execs"))[0] == 404


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("hello", 4400), ("[]", 4400), ("{}", 4400), ('{"type": "resize", "rows": 0, "cols": 80}', 4400),
        ('{"type": "resize", "rows": 1e999, "cols": 80}', 4400), ('{"type": "signal", "signal": "NONE"}', 4400),
        ("[" * 1000, 4400), ("x" * 100_000, 4400), (b"", 4400), (b"\x09x", 4400), (b"\4x", 4400),
        (STDIN + b"x" * (1 << 20), 1009),
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
async def test_a_bad_frame_closes_with_a_code_and_a_reason_and_the_process_lives(
    bad: tuple[Served, httpx.AsyncClient, str, str], message: str | bytes, code: int
) -> None:
    live, client, box, made = bad
    async with attached(live, f"{box}/execs/{made}/attach") as one:
        await one.socket.send(message)
        await one.rest()
    assert one.closed[0] == code
    assert one.closed[1]
    assert (await look(client, box, made))["state"] == "running"


@pytest.fixture
async def bad(
    live: Served, client: httpx.AsyncClient, box: str
) -> tuple[Served, httpx.AsyncClient, str, str]:
    return live, client, box, await start(client, box, "sleep 1000", stdin_open=True)


async def test_a_flood_of_resizes_closes_and_the_process_lives(
    bad: tuple[Served, httpx.AsyncClient, str, str],
) -> None:
    live, client, box, _ = bad
    made = await start(client, box, "sleep 1000", tty=True)
    async with attached(live, f"{box}/execs/{made}/attach") as one:
        for number in range(100):
            await one.tell(type="resize", rows=1 + number, cols=80)
        await one.rest()
    assert one.closed[0] == 4429
    assert (await look(client, box, made))["state"] == "running"


async def test_stdin_that_is_not_open_is_4409(live: Served, client: httpx.AsyncClient, box: str) -> None:
    made = await start(client, box, "sleep 1000")
    async with attached(live, f"{box}/execs/{made}/attach") as one:
        await one.write(b"x")
        await one.rest()
    assert one.closed[0] == 4409
    assert (await look(client, box, made))["state"] == "running"


async def test_a_signal_comes_through(live: Served, client: httpx.AsyncClient, box: str) -> None:
    made = await start(
        client, box, "trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.05; done"
    )
    async with attached(live, f"{box}/execs/{made}/attach") as one:
        await one.until(b"ready\n")
        await one.tell(type="signal", signal="INT")
        assert b"caught\n" in await one.rest()
    assert one.exit is not None
    assert one.exit["exit_code"] == 7


async def follow(client: httpx.AsyncClient, box: str, made: str, begun: asyncio.Event) -> list[Json]:
    lines: list[Json] = []
    path = f"/v1/sandboxes/{box}/execs/{made}/output"
    async with client.stream("GET", path, params={"follow": "true"}) as following:
        async for line in following.aiter_lines():
            lines.append(json.loads(line))
            begun.set()
    return lines


async def test_when_ship_dies_everybody_is_told_at_once_that_the_exec_is_lost(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    made = await start(client, box, "echo one; sleep 1000")
    pid: int = (await look(client, box, made))["pid"]
    output = f"/v1/sandboxes/{box}/execs/{made}/output"
    async with (
        attached(live, f"{box}/execs/{made}/attach") as one,
        client.stream("GET", output, params={"follow": "true"}) as following,
    ):
        lines = following.aiter_lines()
        await within(anext(lines))
        await one.until(b"one\n")
        began = time.monotonic()
        for ship in ships(live.root):
            os.kill(ship, signal.SIGKILL)
        os.killpg(pid, signal.SIGKILL)  # without a container nothing else ends what a killed Ship ran
        assert await one.rest() == b""
        told = [json.loads(line) async for line in lines]
    assert time.monotonic() - began < 5
    assert one.exit == {
        "type": "exit",
        "exit_code": None,
        "signal": None,
        "state": "lost",
        "timed_out": False,
    }
    assert one.closed == (1000, "")
    assert told == [{"exit_code": None, "signal": None, "state": "lost", "timed_out": False}]


@pytest.mark.parametrize("how", ["stop", "delete"])
async def test_who_is_attached_is_told_when_the_sandbox_ends(
    live: Served, client: httpx.AsyncClient, box: str, how: str
) -> None:
    made = await start(client, box, "echo one; sleep 1000")
    async with attached(live, f"{box}/execs/{made}/attach") as one:
        await one.until(b"one\n")
        if how == "stop":
            await client.post(f"/v1/sandboxes/{box}/stop")
        else:
            await client.delete(f"/v1/sandboxes/{box}")
        await one.rest()
    assert one.closed[0] == 1000
    assert one.exit is not None
    assert one.exit["state"] in ("killed", "lost")
    assert (await refused(live, f"{box}/execs/{made}/attach"))[0] == (410 if how == "stop" else 404)


async def test_a_paused_sandbox_stays_attached_and_silent_and_input_wakes_it(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    made = await start(client, box, "while read x; do echo $x; done", stdin_open=True)
    async with attached(live, f"{box}/execs/{made}/attach") as one:
        await one.write(b"one\n")
        await one.until(b"one\n")
        assert (await client.post(f"/v1/sandboxes/{box}/pause")).status_code == 200
        assert (await client.get(f"/v1/sandboxes/{box}")).json()["compute"] == "warm"
        await one.write(b"two\n")
        await one.until(b"two\n")
        assert (await client.get(f"/v1/sandboxes/{box}")).json()["compute"] == "running"


async def test_nobody_stays_attached_with_a_key_that_was_revoked(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    live.bay.connections._look_s = 0.05
    made = await start(client, box, "echo one; sleep 1000")
    async with attached(live, f"{box}/execs/{made}/attach") as one, asyncio.TaskGroup() as group:
        await one.until(b"one\n")
        begun = asyncio.Event()
        following = group.create_task(follow(client, box, made, begun))
        await within(begun.wait())
        assert live.bay.connections._places["alice"] == 2
        live.bay.keys._by_hash.clear()
        await one.rest()
        lines = await within(following)
    assert one.closed[0] == 4403
    assert [line["data"] for line in lines] == ["b25lCg=="]
    assert live.bay.connections._places == {}


async def test_stdin_is_fed_no_longer_than_its_key_is_good_and_counts_as_a_connection(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    live.bay.connections._look_s = 0.05
    made = await start(client, box, "cat", stdin_open=True)

    async def endless() -> AsyncGenerator[bytes]:
        yield b"x"
        await until(lambda: live.bay.connections._places["alice"] == 1)
        live.bay.keys._by_hash.clear()
        await until(lambda: not live.bay.connections._places)

    answer = await within(client.post(f"/v1/sandboxes/{box}/execs/{made}/stdin", content=endless()))
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")


async def test_when_bay_goes_down_all_are_told_to_come_back_and_nobody_is_waited_for(root: Path) -> None:
    async with AsyncExitStack() as stack:
        stack.push_async_callback(clear, root)
        async with served(root) as live:
            client = httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20)
            await stack.enter_async_context(client)
            box = (await create(client, wait=15))["id"]
            made = await start(client, box, "echo one; sleep 1000")
            one = await stack.enter_async_context(attached(live, f"{box}/execs/{made}/attach"))
            await one.until(b"one\n")
            begun = asyncio.Event()
            following = asyncio.create_task(follow(client, box, made, begun))
            await within(begun.wait())
            began = time.monotonic()
        assert time.monotonic() - began < 4
        await one.rest()
        assert one.closed[0] == 1012
        assert [line["data"] for line in await within(following)] == ["b25lCg=="]


async def test_each_owner_has_so_many_connections(
    live: Served, client: httpx.AsyncClient, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bay.server.web.open_connections.LIMIT", 1)
    path = f"{box}/execs/{await start(client, box, 'sleep 1000')}/attach"
    async with attached(live, path):
        status, error = await refused(live, path)
        assert (status, error["code"]) == (429, "quota_exceeded")
    await until(lambda: not live.bay.connections._places)
    async with attached(live, path):
        pass


async def test_an_exec_that_nobody_watches_any_more_is_ended_in_time(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    made = await start(client, box, "echo one; sleep 1000", max_run_after_disconnect_s=0.5)
    async with attached(live, f"{box}/execs/{made}/attach") as one:
        await one.until(b"one\n")

    async def has_ended() -> bool:
        return (await look(client, box, made))["state"] == "killed"

    await eventually(has_ended)
