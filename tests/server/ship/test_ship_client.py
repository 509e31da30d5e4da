"""A Ship that lies: whatever it sends, the call ends in time, small, with the right error, on a connection
never used again.
"""

import asyncio
import gzip
import json
import os
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lying_ship import (
    DEADLINE_S,
    EXEC,
    EXEC_ID,
    META,
    TOKEN,
    Liar,
    Lie,
    Script,
    for_ever,
    head,
    peak_kib,
    request,
    saying,
    whole,
)
from pydantic import BaseModel, ValidationError
from server_harness import Json, turns, until, within

from bay.drivers.base import Endpoint
from bay.errors import (
    BayError,
    CapabilityNotSupported,
    FileMissing,
    InvalidArgument,
    OutputGone,
    ShipError,
    Timeout,
)
from bay.models import OutputChunk
from bay.server.files.ship_client import OWN, ROOT, Acting, FileClient, Owners, Wanted
from bay.server.kernels.ship_client import KernelClient
from bay.server.ship.answers import ShipExec, ShipExecs, ShipMeta, ShipProcesses, parse
from bay.server.ship.client import OutputEnd, ShipClient, lines, paced
from bay.server.ship.connection import Peer
from ship_protocol import Feature

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

# The honest case, so that the lies below are seen to be the reason


async def test_an_honest_answer_is_taken_and_its_connection_used_again(lie: Lie, link: ShipClient) -> None:
    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            asked = await request(reader)
            assert b"authorization: bearer " + TOKEN.encode() in asked.lower()
            assert b"accept-encoding: identity" in asked.lower()
            writer.write(whole(META))

    liar = await lie(script)
    for _ in range(3):
        assert (await within(link.meta(liar.peer()))).version == "1"
    assert liar.connections == 1
    assert not link.busy("sess-1")
    link.forget("sess-1")
    await within(liar.closed.wait())


async def test_calls_at_once_have_connections_of_their_own_and_few_are_kept(
    lie: Lie, link: ShipClient
) -> None:
    go = asyncio.Event()

    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        await go.wait()
        writer.write(whole(META))

    liar = await lie(script)
    calls = [asyncio.create_task(link.meta(liar.peer())) for _ in range(20)]
    await until(lambda: liar.connections == 20)
    assert link.busy("sess-1")
    go.set()
    await within(asyncio.gather(*calls))
    assert len(link._idle["sess-1"]) == 8
    link.close()
    assert link._idle == {}


# What an older Ship would ignore


async def test_a_ship_is_asked_once_which_features_it_has(lie: Lie, link: ShipClient) -> None:
    liar = await lie(saying(whole({**META, "features": ["acting"]})))
    for _ in range(2):
        await within(link.require(liar.peer(), Feature.ACTING))
    with pytest.raises(CapabilityNotSupported, match="restart the sandbox") as refused:
        await within(link.require(liar.peer(), Feature.ACTING, Feature.CELL_ENV))
    assert refused.value.details == {"capability": "cell_env", "available": ["acting"]}


@pytest.mark.parametrize(
    ("attached", "body"),
    [(True, {}), (False, {"own_env": {"A": "1"}}), (False, {"cwd": "/"}), (False, {"describe": True})],
    ids=["attached", "own_env", "cwd", "describe"],
)
async def test_a_cell_is_not_run_by_a_ship_that_would_ignore_a_part_of_it(
    lie: Lie, link: ShipClient, attached: bool, body: Json
) -> None:
    liar = await lie(saying(whole(META)))
    with pytest.raises(CapabilityNotSupported):
        async with KernelClient(link).run(liar.peer(), "kern-1", {"code": "1", **body}, attached=attached):
            pass


async def test_files_are_not_touched_by_a_ship_that_would_do_it_as_another_user(
    lie: Lie, link: ShipClient
) -> None:
    liar, files = await lie(saying(whole(META))), FileClient(link)
    await within(files.require(liar.peer(), OWN))
    assert liar.connections == 0
    for acting in (ROOT, Acting(from_home=True)):
        with pytest.raises(CapabilityNotSupported):
            await within(files.require(liar.peer(), acting))
    with pytest.raises(CapabilityNotSupported):
        await within(files.upload(liar.peer(), "/f", b"", attributes={"a": "b"}))
    with pytest.raises(CapabilityNotSupported):
        await within(files.change_owners(liar.peer(), "/f", Owners("root"), recursive=False))


# Who is there


async def test_nobody_is_there(link: ShipClient) -> None:
    peer = Peer(session_id="s", endpoint=Endpoint(socket_path="/nowhere/ship.sock"), token=TOKEN)
    with pytest.raises(ShipError, match="not reachable"):
        await within(link.meta(peer))
    assert not link.busy("s")


async def test_a_link_at_the_path_is_not_followed(lie: Lie, link: ShipClient) -> None:
    liar = await lie(saying(whole(META)))
    trap = liar.path.with_name("trap.sock")
    trap.symlink_to(liar.path)
    with pytest.raises(ShipError):
        await within(link.meta(at(trap)))
    assert liar.connections == 0


def at(path: Path) -> Peer:
    return Peer(session_id="sess-1", endpoint=Endpoint(socket_path=str(path)), token=TOKEN)


@pytest.mark.parametrize("kind", ["file", "directory", "fifo", "dead socket"])
async def test_what_is_no_live_socket_is_not_talked_to(lie: Lie, link: ShipClient, kind: str) -> None:
    liar = await lie(saying())
    path = liar.path.with_name("other")
    match kind:
        case "file":
            path.touch()
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case _:
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(path))
    with pytest.raises(ShipError):
        await within(link.meta(at(path)))


@pytest.mark.parametrize("wrong", [{"peer_uid": 4242}, {"peer_pid": 1}])
async def test_another_process_than_ship_is_not_talked_to(
    lie: Lie, link: ShipClient, wrong: dict[str, int]
) -> None:
    async def script(_liar: Liar, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b""  # the token was not shown

    liar = await lie(script)
    with pytest.raises(ShipError, match="is not its Ship"):
        await within(link.meta(liar.peer(**wrong)))
    await within(liar.closed.wait())


# What it says to any call

PROOF_OF_ANOTHER = "0" * 32
LIES: dict[str, tuple[Script, type[BayError]]] = {
    "wrong proof": (saying(head(length=2, proof=PROOF_OF_ANOTHER) + b"{}"), ShipError),
    "no proof": (saying(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"), ShipError),
    "error with the wrong proof": (saying(head("404 Not Found", 2, proof=PROOF_OF_ANOTHER) + b"{}"), ShipError),
    "garbage": (saying(b"\x00\xff garbage\r\n\r\n"), ShipError),
    "another protocol": (saying(b"SSH-2.0-OpenSSH_9.2\r\n"), Timeout),
    "nothing, then closed": (saying(close=True), ShipError),
    "half a head, then closed": (saying(b"HTTP/1.1 200 OK\r\nX-Sh", close=True), ShipError),
    "half a body, then closed": (saying(head(length=100) + b'{"a":', close=True), ShipError),
    "half a chunk, then closed": (
        saying(head("200 OK", None, "Transfer-Encoding: chunked") + b"ff\r\nabc", close=True),
        ShipError,
    ),
    "silence": (saying(), Timeout),
    "drip of a head": (for_ever(b"HTTP/1.1 200 OK\r\n", b"X", pause=0.01), Timeout),
    "drip of a body": (for_ever(head(length=10**6), b" ", pause=0.01), Timeout),
    "endless body": (for_ever(head("200 OK", None, "Transfer-Encoding: chunked"), b"1000\r\n" + b" " * 4096 + b"\r\n"), ShipError),
    "endless head": (for_ever(b"HTTP/1.1 200 OK\r\nX-A: ", b"x" * 4096), ShipError),
    "endless header lines": (for_ever(b"HTTP/1.1 200 OK\r\n", b"X-A: x\r\n" * 512), ShipError),
    "10,000 headers": (saying(b"HTTP/1.1 200 OK\r\n" + b"X-Ship: x\r\n" * 10_000 + b"\r\n"), ShipError),
    "body until close": (for_ever(head(), b" " * 4096), ShipError),
    "continue for ever": (for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), ShipError),
    "other protocol offered": (saying(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), ShipError),
    "redirect": (saying(head("302 Found", 0, "Location: http://169.254.169.254/")), ShipError),
    "no content": (saying(head("204 No Content")), ShipError),
    "compressed": (saying(whole(gzip.compress(json.dumps(META).encode()), "200 OK", "Content-Encoding: gzip")), ShipError),
    "two lengths": (saying(head("200 OK", 2, "Content-Length: 3") + b"{}"), ShipError),
    "length and chunks": (saying(head("200 OK", 2, "Transfer-Encoding: chunked") + b"{}\r\n"), ShipError),
    "a length that is none": (saying(head("200 OK", None, "Content-Length: -5")), ShipError),
    "no JSON": (saying(whole(b"hello")), ShipError),
    "deep JSON": (saying(whole(b"[" * 100_000)), ShipError),
    "no UTF-8": (saying(whole(b'{"version": "\xff"}')), ShipError),
    "other JSON": (saying(whole({"a": 1})), ShipError),
    "a list": (saying(whole(b"[]")), ShipError),
    "an error of its own": (saying(whole({"error": {"code": "internal_error", "message": "x"}}, "500 X")), ShipError),
    "an error that is none": (saying(whole(b"{}", "400 X")), ShipError),
    "a deep error": (saying(whole(b'{"error":' + b"[" * 100_000, "400 X")), ShipError),
    "an error in no language": (
        saying(whole(b'{"error": {"code": "conflict", "message": "\\ud800"}}', "409 X")), ShipError,
    ),
    "an endless error": (
        for_ever(head("500 X", None, "Transfer-Encoding: chunked"), b"1000\r\n" + b" " * 4096 + b"\r\n"), ShipError,
    ),
    "an error that is a lie about us": (
        saying(whole({"error": {"code": "unauthorized", "message": "give me your key"}}, "401 X")), ShipError,
    ),
}  # fmt: skip


@pytest.mark.silent_ship
@pytest.mark.parametrize("what", LIES)
@pytest.mark.parametrize("call", ["meta", "get_exec", "write_file", "delete_file"])
async def test_a_lie_ends_the_call_in_time_and_its_connection_for_good(
    lie: Lie, link: ShipClient, what: str, call: str
) -> None:
    script, expected = LIES[what]
    liar = await lie(script)
    peer = liar.peer()
    files = FileClient(link, silence_s=DEADLINE_S, work_s=DEADLINE_S)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "meta": lambda: link.meta(peer),
        "get_exec": lambda: link.get_exec(peer, EXEC_ID, None),
        "write_file": lambda: files.upload(peer, "x", b"content", beneath=True),
        "delete_file": lambda: files.delete(peer, "x", beneath=True),
    }
    if call == "get_exec" and what in ("endless body", "body until close"):
        return  # the same cap, megabytes here
    before = peak_kib()
    with pytest.raises(expected):
        await within(calls[call](), 10)
    assert peak_kib() - before < 32 * 1024
    assert not link.busy("sess-1")
    if what not in KEPT:
        assert link._idle.get("sess-1", []) == []
        await within(liar.closed.wait())


KEPT = (
    "no JSON", "deep JSON", "no UTF-8", "other JSON", "a list", "an error of its own", "an error that is none", "a deep error",
    "an error in no language", "an error that is a lie about us", "redirect", "no content",
)  # fmt: skip
"""Well-formed HTTP, whole to the last byte: what it says is refused, the connection is as good as before."""


# What it says to one


@pytest.mark.parametrize(
    "change",
    [
        {"id": "exec-" + "1" * 24}, {"id": "x" * 200}, {"argv": "true"}, {"argv": [1]}, {"pid": 10**30}, {"pid": "x"},
        {"exit_code": 2**40}, {"signal": -(2**40)}, {"state": "dancing"}, {"started_at": "2030-01-01T00:00:00"},
        {"started_at": None}, {"started_at": "9999-12-31T23:59:59-23:59"}, {"ended_at": "0001-01-01T00:00:00+23:59"},
        {"output_bytes": -1}, {"output_bytes": 2**63}, {"first_offset": 1.5},
        {"timed_out": []}, {"tty": None},
    ],
    ids=str,
)  # fmt: skip
async def test_an_exec_of_the_wrong_form_is_refused(lie: Lie, link: ShipClient, change: Json) -> None:
    liar = await lie(saying(whole({**EXEC, **change})))
    with pytest.raises(ShipError):
        await within(link.get_exec(liar.peer(), EXEC_ID, None))


ENTRY: Json = {
    "name": "a",
    "path": "/a",
    "type": "file",
    "size": 1,
    "mode": "0644",
    "uid": 0,
    "gid": 0,
    "mtime": 1.5,
}
LIST_END = b'\n{"truncated": false}\n'


@pytest.mark.parametrize("call", ["run", "get_exec", "kill_exec"])
async def test_an_answer_about_another_exec_is_refused(lie: Lie, link: ShipClient, call: str) -> None:
    liar = await lie(saying(whole({**EXEC, "id": "exec-" + "1" * 24}, "201 Created")))
    calls = {
        "run": lambda: link.run(liar.peer(), EXEC_ID, {"id": EXEC_ID, "command": "true"}, None),
        "get_exec": lambda: link.get_exec(liar.peer(), EXEC_ID, None),
        "kill_exec": lambda: link.kill_exec(liar.peer(), EXEC_ID),
    }
    with pytest.raises(ShipError, match="another exec"):
        await within(calls[call]())


@pytest.mark.parametrize(
    "entry", [{"mtime": "1e999"}, {"name": "x" * 5000}, {"size": -1}, {"type": None}], ids=str
)
async def test_a_directory_of_the_wrong_form_is_refused(lie: Lie, link: ShipClient, entry: Json) -> None:
    body = json.dumps({**ENTRY, **entry}).replace('"1e999"', "1e999").encode()
    liar = await lie(saying(whole(body + LIST_END)))
    with pytest.raises(ShipError, match="unexpected answer"):
        await within(FileClient(link).list_workspace(liar.peer(), "."))


async def test_a_directory_of_more_entries_than_agreed_is_refused(lie: Lie, link: ShipClient) -> None:
    line = json.dumps(ENTRY).encode() + b"\n"
    liar = await lie(saying(whole(line * 10_001 + LIST_END)))
    with pytest.raises(ShipError, match="listed more"):
        await within(FileClient(link).list_workspace(liar.peer(), "."))


async def test_a_directory_of_long_paths_is_cut_within_bounds(lie: Lie, link: ShipClient) -> None:
    line = json.dumps({**ENTRY, "path": "/" + "a" * 65535}).encode() + b"\n"
    liar = await lie(saying(whole(line * 500 + LIST_END)))
    found = await within(FileClient(link).list_workspace(liar.peer(), "."))
    assert len(found) == (8 << 20) // 65537


async def test_a_refusal_in_the_callers_name_is_passed_on_within_bounds(lie: Lie, link: ShipClient) -> None:
    def refusal(code: str, details: Any) -> Script:
        return saying(whole({"error": {"code": code, "message": "m" * 5000, "details": details}}, "400 X"))

    for code, kind in (
        ("file_not_found", FileMissing),
        ("validation_error", InvalidArgument),
        ("output_gone", OutputGone),
    ):
        liar = await lie(refusal(code, {"first_offset": 7, "path": "x"}))
        with pytest.raises(kind) as caught:
            await within(link.get_exec(liar.peer(), EXEC_ID, None))
        assert caught.value.details == {"first_offset": 7, "path": "x"}
        assert len(caught.value.message) == 1000
        assert type(caught.value) is kind
        link.close()
        liar.path.unlink()
    liar = await lie(refusal("conflict", {"nested": {"a": ["deep"]}}))
    with pytest.raises(ShipError):
        await within(link.get_exec(liar.peer(), EXEC_ID, None))


async def test_bytes_that_nobody_asked_for_spoil_the_connection(lie: Lie, link: ShipClient) -> None:
    liar = await lie(saying(whole(META) + whole({**META, "version": "smuggled"})))
    assert (await within(link.meta(liar.peer()))).version == "1"
    assert link._idle.get("sess-1", []) == []


async def test_a_connection_that_ship_closed_meanwhile_is_not_used(lie: Lie, link: ShipClient) -> None:
    liar = await lie(saying(whole(META), close=True))
    for count in (1, 2):
        assert (await within(link.meta(liar.peer()))).version == "1"
        assert liar.connections == count
        await within(liar.closed.wait())
        await until(lambda: not any(wire.is_open() for _, wire in link._idle.get("sess-1", [])))
        liar.closed.clear()


async def test_a_connection_that_no_call_uses_any_more_is_let_go(
    lie: Lie, link: ShipClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            writer.write(whole(META))

    liar = await lie(script)
    await within(link.meta(liar.peer()))
    link.close_stale()
    assert len(link._idle["sess-1"]) == 1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    link.close_stale()
    assert link._idle == {}
    await within(liar.closed.wait())


async def test_a_call_that_is_cancelled_drops_its_connection(lie: Lie, link: ShipClient) -> None:
    liar = await lie(saying())
    call = asyncio.create_task(link.meta(liar.peer()))
    await until(lambda: liar.connections == 1)
    call.cancel()
    await asyncio.wait([call])
    await within(liar.closed.wait())
    assert not link.busy("sess-1")


# Output and files as they stream


async def collect(link: ShipClient, liar: Liar, *, follow: bool) -> list[OutputChunk | OutputEnd]:
    async with link.output(liar.peer(), EXEC_ID, 0, follow) as items:
        return [item async for item in items]


CHUNKED = head("200 OK", None, "Transfer-Encoding: chunked")
END = b'{"exit_code":0,"signal":null}\n'
LINE = b'{"offset":0,"stream":"stdout","data":"YQ==","t":"2030-01-01T00:00:00Z"}\n'


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize(
    "line",
    [b"hello\n", b"\n", b"{}\n", b"[]\n", b'{"offset":-1,"stream":"stdout","data":"","t":"2030-01-01T00:00:00Z"}\n',
     b'{"offset":0,"stream":"nose","data":"","t":"2030-01-01T00:00:00Z"}\n',
     b'{"offset":0,"stream":"stdout","data":"%","t":"2030-01-01T00:00:00"}\n', b'{"offset":' + b"[" * 9999 + b"\n",
     b'{"exit_code":99999999999,"signal":null}\n', b'{"error":{"code":"internal_error","message":"x"}}\n', b"\xff\n",
     LINE, LINE.replace(b":0,", b":2,"), END + LINE.replace(b":0,", b":1,"), END + END],
    ids=range(15),
)  # fmt: skip
async def test_a_line_of_the_wrong_form_ends_the_stream(lie: Lie, link: ShipClient, line: bytes) -> None:
    liar = await lie(saying(CHUNKED, chunk(LINE), chunk(line)))
    with pytest.raises(ShipError):
        await within(collect(link, liar, follow=True))
    await within(liar.closed.wait())


async def test_a_line_without_end_is_cut(lie: Lie, link: ShipClient) -> None:
    liar = await lie(for_ever(CHUNKED, chunk(b"x" * 65536)))
    before = peak_kib()
    with pytest.raises(ShipError, match="line"):
        await within(collect(link, liar, follow=True))
    assert peak_kib() - before < 32 * 1024
    await within(liar.closed.wait())


async def test_a_line_that_is_too_long_is_cut_also_when_its_end_has_come() -> None:
    async def body() -> AsyncGenerator[bytes]:
        yield b"x" * 1000 + b"\n" + b"x" * 1001 + b"\n"

    found = lines(body(), 1000)
    assert await anext(found) == b"x" * 1000
    with pytest.raises(ShipError, match="more than 1000 bytes"):
        await anext(found)


async def test_many_lines_in_one_piece_are_quick_and_keep_nobody_out() -> None:
    async def body() -> AsyncGenerator[bytes]:
        yield b"\n" * (256 << 10)

    async def count() -> int:
        return len([line async for line in lines(body())])

    turns = 0
    counting = asyncio.create_task(count())
    async with asyncio.timeout(20):
        while not counting.done():
            await asyncio.sleep(0)
            turns += 1
    assert (counting.result(), turns > 500) == (256 << 10, True)


async def test_output_that_breaks_off_is_not_taken_for_whole(lie: Lie, link: ShipClient) -> None:
    liar = await lie(saying(CHUNKED, chunk(LINE), close=True))
    with pytest.raises(ShipError):
        await within(collect(link, liar, follow=True))


@pytest.mark.parametrize("is_saved", [True, False])
async def test_output_that_a_save_cut_off_is_asked_for_again_at_the_next_byte(
    lie: Lie, link: ShipClient, is_saved: bool
) -> None:
    asked: list[bytes] = []
    second = LINE.replace(b'"offset":0', b'"offset":1')

    async def script(liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await request(reader)).split()[1])
        writer.write(head("200 OK", 9999) + (LINE + second[:20] if liar.connections == 1 else second))
        await writer.drain()
        if liar.connections == 1:
            writer.close()

    liar = await lie(script)
    async with link.output(liar.peer(), EXEC_ID, 0, True) as items:
        assert isinstance(first := await within(anext(items)), OutputChunk)
        if not is_saved:
            with pytest.raises(ShipError):
                await within(anext(items))
            return
        async with link.without_new("sess-1"):
            following = asyncio.create_task(within(anext(items)))
            await turns()
            assert len(asked) == 1
        assert await following == replace(first, offset=1)
    assert [path.partition(b"?")[2][:7] for path in asked] == [b"since=0", b"since=1"]


@pytest.mark.silent_ship
@pytest.mark.parametrize("follow", [False, True])
async def test_output_whose_head_never_comes_times_out(lie: Lie, link: ShipClient, follow: bool) -> None:
    liar = await lie(saying())
    with pytest.raises(Timeout):
        await within(collect(link, liar, follow=follow))
    await within(liar.closed.wait())


@pytest.mark.silent_ship
async def test_output_that_is_not_followed_has_a_deadline_and_followed_may_be_silent(
    lie: Lie, link: ShipClient
) -> None:
    go = asyncio.Event()

    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(CHUNKED + chunk(LINE))
        await go.wait()
        writer.write(chunk(b'{"exit_code":0,"signal":null}\n') + b"0\r\n\r\n")

    liar = await lie(script)
    following = asyncio.create_task(collect(link, liar, follow=True))
    with pytest.raises(Timeout):
        await within(collect(link, liar, follow=False))
    go.set()
    items = await within(following)
    assert items[-1] == OutputEnd(exit_code=0, signal=None)


async def test_an_endless_stream_is_read_no_faster_than_its_reader(lie: Lie, link: ShipClient) -> None:
    liar = await lie(for_ever(CHUNKED, chunk(LINE.replace(b"YQ==", b"") * 500)))
    before = peak_kib()
    async with link.output(liar.peer(), EXEC_ID, 0, True) as items:
        for _ in range(2000):
            await within(anext(items))
    assert peak_kib() - before < 32 * 1024
    await within(liar.closed.wait())


async def test_a_compressed_download_is_refused(lie: Lie, link: ShipClient) -> None:
    data = gzip.compress(b"x" * 10**6)
    part = {
        "size": len(data),
        "first": 0,
        "length": len(data),
        "partial": False,
        "etag": "1",
        "mode": "0644",
        "mtime": 1,
    }
    liar = await lie(
        saying(whole(data, "200 OK", f"X-Ship-File: {json.dumps(part)}", "Content-Encoding: gzip"))
    )
    with pytest.raises(ShipError):
        async with FileClient(link).download(liar.peer(), "x", Wanted(), beneath=True):
            raise AssertionError("it was taken")


@pytest.mark.silent_ship
async def test_an_upload_that_ship_does_not_take_times_out(lie: Lie, link: ShipClient) -> None:
    async def script(_liar: Liar, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await request(reader)
        await asyncio.Event().wait()

    liar = await lie(script)

    async def body() -> AsyncGenerator[bytes]:
        while True:
            yield b"x" * 65536

    files = FileClient(link, silence_s=DEADLINE_S)
    before = peak_kib()
    with pytest.raises(Timeout):
        await within(files.upload(liar.peer(), "x", body(), beneath=True))
    assert peak_kib() - before < 32 * 1024


async def test_an_upload_that_ship_refuses_half_way_says_why(lie: Lie, link: ShipClient) -> None:
    """As Ship does on a full disk: the answer comes while the body is still on its way."""

    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        refusal = {"error": {"code": "storage_full", "message": "the disk is full"}}
        writer.write(whole(refusal, "507 X", "Connection: close"))
        await writer.drain()
        writer.close()

    liar = await lie(script)

    async def body() -> AsyncGenerator[bytes]:
        for _ in range(200):
            yield b"x" * 65536
            await asyncio.sleep(0)

    files = FileClient(link, silence_s=DEADLINE_S)
    with pytest.raises(BayError) as caught:
        await within(files.upload(liar.peer(), "x", body(), beneath=True))
    assert caught.value.code in ("storage_full", "ship_error")
    assert not link.busy("sess-1")


ONE_BYTE = b"1\r\n \r\n" * 4096


@pytest.mark.silent_ship
@pytest.mark.parametrize("call", ["processes", "list_execs", "get_exec"])
async def test_a_body_of_single_bytes_without_a_pause_ends_at_the_deadline(
    lie: Lie, link: ShipClient, call: str
) -> None:
    liar = await lie(for_ever(CHUNKED, ONE_BYTE))
    peer = liar.peer()
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "processes": lambda: link.processes(peer),
        "list_execs": lambda: link.list_execs(peer),
        "get_exec": lambda: link.get_exec(peer, EXEC_ID, None),
    }
    with pytest.raises(Timeout):
        await within(calls[call](), 15)
    await within(liar.closed.wait())


async def test_an_exec_answers_with_no_more_than_its_ring_holds(lie: Lie) -> None:
    small = ShipClient(deadline_s=15, ring_bytes=1 << 20)
    liar = await lie(for_ever(head(length=1 << 40), b" " * (1 << 16)))
    before = peak_kib()
    with pytest.raises(ShipError, match="more than"):
        await within(small.get_exec(liar.peer(), EXEC_ID, None))
    assert peak_kib() - before < 160 * 1024
    small.close()


MANY: dict[str, tuple[type[BaseModel], bytes]] = {
    "processes": (ShipProcesses, b'{"processes":[' + b",".join([b"{}"] * 5_000_000) + b"]}"),
    "execs": (ShipExecs, b'{"items":[' + b",".join([b"{}"] * 5_000_000) + b"]}"),
    "argv": (ShipExec, b'{"argv":[' + b",".join([b"1"] * 7_000_000) + b"]}"),
    "fields": (ShipMeta, b"{" + b",".join([b'"a":1'] * 2_500_000) + b"}"),
}


@pytest.mark.parametrize("what", MANY)
def test_an_answer_of_millions_of_values_is_refused_before_it_is_parsed(what: str) -> None:
    model, data = MANY[what]
    with pytest.raises(ShipError, match="values"):  # parsed, it would be an unexpected answer, after seconds
        parse(model, data, 300_000)


def test_a_list_is_read_up_to_its_first_wrong_item() -> None:
    data = b'{"processes":[' + b",".join([b"{}"] * 9_000) + b"]}"
    with pytest.raises(ShipError) as refusal:
        parse(ShipProcesses, data)
    assert isinstance(refusal.value.__cause__, ValidationError)
    assert refusal.value.__cause__.error_count() < 20


async def test_a_feed_that_never_pauses_is_read_at_a_pace() -> None:
    async def chunks() -> AsyncGenerator[bytes]:
        while True:
            yield b"{}\n"

    found = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(1.5):
            async for _line in paced(chunks()):
                found += 1
    assert 0 < found <= 300
