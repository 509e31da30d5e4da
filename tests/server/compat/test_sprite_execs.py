"""Sessions of Sprites over WebSocket and HTTP, as the frames of their protocol."""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
from server_harness import (
    PROFILES,
    Json,
    Served,
    clear,
    create,
    eventually,
    pass_time,
    served,
    short_dir,
)
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bay.server.compat.sprites.exec_relay import SILENCE_S
from bay.server.settings import ProfileSettings
from bay.server.web.open_connections import LIMIT

pytestmark = [pytest.mark.anyio, pytest.mark.long]

STDIN, STDOUT, STDERR, EXIT, END = b"\0", b"\1", b"\2", b"\3", b"\4"
SPRITE = ProfileSettings.model_validate({"start": "lazy", "idle_timeout": None})


@pytest.fixture
async def live() -> AsyncGenerator[Served]:
    with short_dir() as root:
        async with served(root, profiles={**PROFILES, "sprite": SPRITE}) as live:
            yield live
        await clear(root)


@pytest.fixture
async def client(live: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client:
        answer = await client.post("/v1/sprites", json={"name": "box"})
        assert answer.status_code == 201, answer.text
        yield client


@dataclass
class Session:
    """A client's end of a session, and all that it was told."""

    socket: ClientConnection
    info: Json = field(default_factory=dict[str, Any])
    out: bytes = b""
    err: bytes = b""
    code: int | None = None
    ports: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    largest: int = 0
    beats: int = 0

    @property
    def tty(self) -> bool:
        return bool(self.info.get("tty"))

    def take(self, message: str | bytes) -> None:
        if isinstance(message, str):
            told = json.loads(message)
            if told["type"] == "session_info":
                assert (self.info, self.out, self.err) == ({}, b"", b"")
                self.info = told
            elif told["type"] == "exit":
                self.code = told["exit_code"]
            else:
                self.ports.append((told["type"], told["port"]))
            return
        assert self.code is None, "output came after the end"
        self.largest = max(self.largest, len(message))
        self.beats += not message
        if self.tty:
            self.out += message
        elif message[:1] == STDOUT:
            self.out += message[1:]
        elif message[:1] == STDERR:
            self.err += message[1:]
        elif message:
            assert message[:1] == EXIT
            assert len(message) == 2
            self.code = message[1]

    async def until(self, wanted: bytes) -> None:
        async with asyncio.timeout(20):
            while wanted not in self.out:
                self.take(await self.socket.recv())

    async def told_of(self, kind: str, port: int) -> None:
        async with asyncio.timeout(20):
            while (kind, port) not in self.ports:
                self.take(await self.socket.recv())

    async def begun(self) -> str:
        """The session's id."""
        async with asyncio.timeout(20):
            while not self.info:
                self.take(await self.socket.recv())
        return self.info["session_id"]

    async def ended(self) -> int | None:
        """The exit code, once Bay has closed the connection."""
        try:
            async with asyncio.timeout(20):
                while True:
                    self.take(await self.socket.recv())
        except ConnectionClosed:
            return self.code


@asynccontextmanager
async def session(
    live: Served, where: str = "box/exec", headers: Mapping[str, str] | None = None, **query: Any
) -> AsyncGenerator[Session]:
    url = f"{live.url.replace('http', 'ws', 1)}/v1/sprites/{where}"
    url += f"?{urlencode(query, doseq=True)}" if query else ""
    given = live.headers if headers is None else headers
    async with connect(
        url, additional_headers=given, compression=None, max_size=None, ping_interval=None
    ) as socket:
        yield Session(socket)


async def refused(live: Served, where: str, **query: Any) -> tuple[int, Json, Mapping[str, str]]:
    with pytest.raises(InvalidStatus) as caught:
        async with session(live, where, **query):
            pass
    answer = caught.value.response
    return answer.status_code, json.loads(answer.body or b"null"), answer.headers


async def sessions(client: httpx.AsyncClient) -> list[Json]:
    answer = (await client.get("/v1/sprites/box/exec")).json()
    assert answer["count"] == len(answer["sessions"])
    return answer["sessions"]


async def test_a_command_of_a_cold_sprite_tells_who_it_is_its_output_and_its_end(
    live: Served, client: httpx.AsyncClient
) -> None:
    words = ["sh", "-c", 'echo "$A $1"; echo err >&2; exit 3', "x", "a b/c"]
    async with session(live, cmd=words, path="sh", env=["A=1=2"], stdin="true") as one:
        await one.socket.send(END)
        assert await one.ended() == 3
    assert (one.out, one.err) == (b"1=2 a b/c\n", b"err\n")
    assert one.socket.close_code == 1000
    assert {key: one.info[key] for key in ("type", "is_owner", "tty")} == {
        "type": "session_info", "is_owner": True, "tty": False,
    }  # fmt: skip
    assert isinstance(one.info["session_id"], str)
    native = (await client.get(f"/v1/sandboxes/box/execs/{one.info['session_id']}")).json()
    assert (native["argv"], native["exit_code"]) == (words, 3)


@pytest.mark.host
async def test_three_hundred_quick_commands_lose_nothing(live: Served, client: httpx.AsyncClient) -> None:
    for number in range(300):
        async with session(live, cmd=["echo", str(number)], stdin="true") as one:
            await one.socket.send(END)
            assert (await one.ended(), one.out) == (0, b"%d\n" % number)


async def test_large_output_comes_whole_in_small_messages(live: Served, client: httpx.AsyncClient) -> None:
    async with session(live, cmd=["sh", "-c", "head -c 3000000 /dev/zero; echo x >&2"]) as one:
        assert await one.ended() == 0
    assert (len(one.out), one.err, one.largest) == (3_000_000, b"x\n", 32 << 10)


async def test_input_comes_through_from_the_first_byte(live: Served, client: httpx.AsyncClient) -> None:
    sent = bytes(range(256)) * 2000
    async with session(live, cmd=["cat"], stdin="true") as one:
        for start in range(0, len(sent), 4096):  # before the sprite has woken
            await one.socket.send(STDIN + sent[start : start + 4096])
        await one.socket.send(END)
        assert await one.ended() == 0
    assert one.out == sent


async def test_a_program_without_stdin_reads_nothing(live: Served, client: httpx.AsyncClient) -> None:
    async with session(live, cmd=["wc", "-c"]) as one:
        assert (await one.ended(), one.out.strip()) == (0, b"0")


async def test_input_that_a_command_does_not_want_costs_no_output(
    live: Served, client: httpx.AsyncClient
) -> None:
    # Ship waits a second for the end of a command that closed its stdin, before it refuses the input.
    command = "exec 0<&-; echo closed; sleep 2; echo out"
    async with session(live, cmd=["sh", "-c", command], stdin="true") as one:
        await one.until(b"closed")
        for _ in range(3):
            await one.socket.send(STDIN + b"x" * 100_000)
        await one.socket.send(END)
        await one.socket.send(STDIN + b"after the end")
        assert await one.ended() == 0
    assert one.out == b"closed\nout\n"


async def test_a_terminal_has_bytes_a_size_and_an_exit_that_is_told(
    live: Served, client: httpx.AsyncClient
) -> None:
    command = ["sh", "-c", "stty size; read x; stty size; exit 7"]
    async with session(live, cmd=command, tty="true", rows=30, cols=100, stdin="true") as one:
        await one.until(b"30 100")
        await one.socket.send(json.dumps({"type": "resize", "cols": 90, "rows": 20}))
        await one.socket.send("no JSON")
        await one.socket.send(b"\r")
        assert await one.ended() == 7
    assert b"20 90" in one.out
    assert (one.info["tty"], one.info["cols"], one.info["rows"]) == (True, 100, 30)
    assert one.socket.close_code == 4007
    async with session(live, cmd=["true"], tty="true") as one:
        assert (await one.ended(), one.socket.close_code) == (0, 1000)


LISTEN = """
import socket
server = socket.create_server(("127.0.0.1", 0))
print("port", server.getsockname()[1], ".", flush=True)
input()
server.close()
print("closed", flush=True)
input()
"""


async def test_a_client_with_a_terminal_hears_of_ports(live: Served, client: httpx.AsyncClient) -> None:
    async with session(live, cmd=["python3", "-c", LISTEN], tty="true") as one:
        await one.until(b".")
        port = int(one.out.split()[1])
        await one.told_of("port_opened", port)
        await one.socket.send(b"\r")
        await one.told_of("port_closed", port)
        await one.socket.send(b"\r")
        assert await one.ended() == 0


@pytest.mark.parametrize("name", ["SIGTERM", "TERM"])
async def test_a_signal_ends_a_command(live: Served, client: httpx.AsyncClient, name: str) -> None:
    async with session(live, cmd=["sh", "-c", "echo up; exec sleep 100"]) as one:
        await one.until(b"up")
        await one.socket.send(json.dumps({"type": "signal", "signal": name}))
        assert await one.ended() == 128 + 15


async def test_silence_is_broken_by_empty_messages(live: Served, client: httpx.AsyncClient) -> None:
    async with session(live, cmd=["sh", "-c", "echo up; read x; echo down"], stdin="true") as one:
        await one.until(b"up")
        assert SILENCE_S < 20
        pass_time(SILENCE_S)
        async with asyncio.timeout(20):
            while not one.beats:
                one.take(await one.socket.recv())
        await one.socket.send(STDIN + b"x\n")
        assert (await one.ended(), one.out) == (0, b"up\ndown\n")


@pytest.mark.parametrize("form", ["path", "query"])
async def test_an_attachment_begins_with_the_session_then_its_past_and_then_lives(
    live: Served, client: httpx.AsyncClient, form: str
) -> None:
    async with session(live, cmd=["sh"], tty="true", detachable="true") as one:
        session_id = await one.begun()
        await one.socket.send(b"echo pa''st\r")
        await one.until(b"past\r\n")
    where = f"box/exec?id={session_id}" if form == "query" else f"box/exec/{session_id}"
    async with session(live, where) as other:
        await other.socket.send(END)  # as the client of Python does before it knows of the terminal
        assert (await other.begun(), other.tty) == (session_id, True)
        await other.until(b"past\r\n")
        await other.socket.send(b"echo li''ve; exit 4\r")
        assert await other.ended() == 4
    assert b"live" in other.out


async def test_sessions_are_listed_while_they_run(live: Served, client: httpx.AsyncClient) -> None:
    assert await sessions(client) == []
    assert (await client.get("/v1/sprites/box")).json()["status"] == "cold"
    async with session(live, cmd=["sh", "-c", "echo up; read 'a b'"], stdin="true") as one:
        await one.until(b"up")
        (found,) = await sessions(client)
        assert found["id"] == one.info["session_id"]
        assert found["command"] == one.info["command"] == """sh -c 'echo up; read '"'"'a b'"'"''"""
        assert (found["tty"], found["is_active"], found["workdir"]) == (False, True, "~")
        same = (await client.get(f"/v1/sprites/box/exec/{found['id']}")).json()
        assert same["id"] == found["id"]
        native = (await client.get("/v1/sandboxes/box/execs")).json()["items"]
        assert [item["id"] for item in native] == [found["id"]]
        await one.socket.send(END)
        await one.ended()
    assert await sessions(client) == []
    gone = await client.get(f"/v1/sprites/box/exec/{found['id']}")
    assert (gone.status_code, "not found" in gone.json()["error"]) == (404, True)
    version = await client.head("/v1/sprites/box/exec")
    assert (version.status_code, bool(version.headers["sprite-version"])) == (200, True)


async def test_a_session_that_is_unknown_or_over_fails_the_handshake(
    live: Served, client: httpx.AsyncClient
) -> None:
    async with session(live, cmd=["true"]) as one:
        await one.ended()
    for session_id in (one.info["session_id"], "exec-0123456789abcdef01234567", "1847"):
        status, body, _ = await refused(live, f"box/exec/{session_id}")
        assert (status, body["error"]) == (404, f"session {session_id} not found")
    status, body, _ = await refused(live, "nobox/exec", cmd="true")
    assert (status, body["error"]) == (404, "sprite not found")
    assert (await refused(live, "box/control"))[0] == 404


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"cmd": "true", "env": "novalue"},
        {"cmd": "true", "env": "1=odd"},
        {"cmd": "true", "tty": "true", "rows": "0"},
        {"cmd": "true", "tty": "true", "rows": "0000000019999"},
        {"cmd": "true", "max_run_after_disconnect": "soon"},
    ],
    ids=["no-command", "no-pair", "odd-name", "no-rows", "many-rows", "no-duration"],
)
async def test_a_command_that_cannot_be_is_refused_before_anything_wakes(
    live: Served, client: httpx.AsyncClient, query: Json
) -> None:
    status, body, _ = await refused(live, "box/exec", **query)
    assert (status, type(body["error"])) == (400, str)
    assert (await client.get("/v1/sprites/box")).json()["status"] == "cold"


async def test_a_program_that_is_not_there_ends_with_a_reason(
    live: Served, client: httpx.AsyncClient
) -> None:
    async with session(live, cmd=["no-such-program"]) as one:
        assert await one.ended() in (127, 255)
    assert b"no-such-program" in one.err


async def test_a_client_too_many_gets_429_with_its_handshake(live: Served, client: httpx.AsyncClient) -> None:
    with ExitStack() as held:
        for _ in range(LIMIT):
            held.enter_context(live.bay.connections.place("alice"))
        status, body, headers = await refused(live, "box/exec", cmd="true")
    assert (status, body["retry_after_seconds"]) == (429, int(headers["retry-after"]))
    assert headers["x-ratelimit-remaining"] == "0"


async def test_a_command_outlives_a_client_that_vanished_as_long_as_it_was_told_to(
    live: Served, client: httpx.AsyncClient
) -> None:
    ids: dict[str, str] = {}
    for limit in ("0", "10ms"):
        command = ["sh", "-c", "echo up; exec sleep 100"]
        async with session(live, cmd=command, max_run_after_disconnect=limit) as one:
            await one.until(b"up")
            ids[limit] = one.info["session_id"]
            one.socket.transport.abort()

    async def is_over() -> bool:
        return [item["id"] for item in await sessions(client)] == [ids["0"]]

    await eventually(is_over)
    assert (await client.post(f"/v1/sprites/box/exec/{ids['0']}/kill")).status_code == 200


async def test_a_stop_of_the_sprite_is_an_end_that_is_told(live: Served, client: httpx.AsyncClient) -> None:
    async with session(live, cmd=["sh", "-c", "trap '' TERM; echo up; sleep 100"]) as one:
        await one.until(b"up")
        assert (await client.post("/v1/sprites/box/restart")).status_code == 200
        assert await one.ended() in (128 + 9, 255)


async def test_a_server_that_ends_says_so_and_not_that_the_command_ended() -> None:
    with short_dir() as root:
        async with served(root, profiles={**PROFILES, "sprite": SPRITE}) as live:
            async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client:
                await create(client, name="box", profile="sprite")
            command = ["sh", "-c", "echo up; read x; echo $x"]
            opened = session(live, cmd=command, stdin="true", max_run_after_disconnect="1h")
            one = await opened.__aenter__()
            await one.until(b"up")
        assert (await one.ended(), one.socket.close_code) == (None, 1012)
        await opened.__aexit__(None, None, None)
        async with served(root, profiles={**PROFILES, "sprite": SPRITE}) as again:
            key = {"Authorization": f"Bearer {await again.bay.keys.add('alice', 'second', 'write')}"}
            async with session(again, f"box/exec/{one.info['session_id']}", headers=key) as other:
                await other.socket.send(STDIN + b"on\n")
                assert (await other.ended(), other.out) == (0, b"up\non\n")
        await clear(root)


async def kill(client: httpx.AsyncClient, session_id: str, **given: Any) -> list[Json]:
    answer = await client.post(f"/v1/sprites/box/exec/{quote(session_id)}/kill", **given)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_a_kill_tells_of_each_step_and_may_come_once(live: Served, client: httpx.AsyncClient) -> None:
    async with session(live, cmd=["sh", "-c", "echo up; exec sleep 100"]) as one:
        await one.until(b"up")
        steps = await kill(client, one.info["session_id"], params={"signal": "SIGINT", "timeout": "10s"})
        assert [step["type"] for step in steps] == ["signal", "exited", "complete"]
        assert (steps[0]["signal"], steps[2]["exit_code"]) == ("INT", 130)
        assert await one.ended() == 130
    again = await client.post(f"/v1/sprites/box/exec/{one.info['session_id']}/kill")
    assert (again.status_code, type(again.json()["error"])) == (410, str)
    assert (await client.post("/v1/sprites/box/exec/1847/kill")).status_code == 404


async def test_a_kill_ends_what_does_not_listen(live: Served, client: httpx.AsyncClient) -> None:
    command = "trap '' TERM; echo up; while :; do sleep 0.05; done"
    async with session(live, cmd=["sh", "-c", command]) as one:
        await one.until(b"up")
        given = {"signal": "SIGTERM", "timeout": 0.1}
        steps = await kill(client, one.info["session_id"], json=given)
        assert [step["type"] for step in steps] == ["signal", "timeout", "killed", "complete"]
        assert await one.ended() == 128 + 9


async def run(client: httpx.AsyncClient, body: bytes | None = None, **query: Any) -> list[bytes]:
    """The frames of a command over HTTP: each is a chunk of its own."""
    url = f"/v1/sprites/box/exec?{urlencode(query, doseq=True)}"
    async with client.stream("POST", url, content=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        return [chunk async for chunk in answer.aiter_raw()]


async def test_a_command_over_http_comes_in_frames_and_ends_with_its_code(
    live: Served, client: httpx.AsyncClient
) -> None:
    frames = await run(client, b"in", cmd=["sh", "-c", "cat; echo err >&2; exit 5"], stdin="true")
    assert b"".join(frame[1:] for frame in frames if frame[:1] == STDOUT) == b"in"
    assert b"".join(frame[1:] for frame in frames if frame[:1] == STDERR) == b"err\n"
    assert frames[-1] == EXIT + b"\5"
    assert (await run(client, cmd="true"))[-1] == EXIT + b"\0"
    refusal = await client.post("/v1/sprites/box/exec")
    assert (refusal.status_code, type(refusal.json()["error"])) == (400, str)


async def test_all_input_of_a_command_over_http_gets_to_it(live: Served, client: httpx.AsyncClient) -> None:
    pieces = [bytes((65 + number % 26,)) * 50_000 for number in range(60)]

    async def body() -> AsyncGenerator[bytes]:
        for piece in pieces:
            yield piece
            await asyncio.sleep(0)

    url = f"/v1/sprites/box/exec?{urlencode({'cmd': 'sha256sum', 'stdin': 'true'})}"
    async with client.stream("POST", url, content=body()) as answer:
        frames = [chunk async for chunk in answer.aiter_raw()]
    assert frames[-1] == EXIT + b"\0"
    told = b"".join(frame[1:] for frame in frames if frame[:1] == STDOUT).decode()
    assert told.split()[0] == hashlib.sha256(b"".join(pieces)).hexdigest()


async def test_a_command_over_http_takes_one_place_and_without_one_does_not_begin(
    live: Served, client: httpx.AsyncClient
) -> None:
    url = f"/v1/sprites/box/exec?{urlencode({'cmd': 'cat', 'stdin': 'true'})}"
    with ExitStack() as held:
        for _ in range(LIMIT - 1):
            held.enter_context(live.bay.connections.place("alice"))
        assert (await run(client, b"in", cmd="cat", stdin="true"))[-1] == EXIT + b"\0"
        held.enter_context(live.bay.connections.place("alice"))
        refusal = await client.post(url, content=b"in")
    assert (refusal.status_code, type(refusal.json()["error"])) == (429, str)
    assert len((await client.get("/v1/sandboxes/box/execs")).json()["items"]) == 1
