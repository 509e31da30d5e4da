"""Attachments and input between Bay and a Ship: an honest one, and ones that lie."""

import asyncio
import hashlib
import json
import re
import struct
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

import pytest
from lying_ship import (
    DEADLINE_S,
    EXEC,
    EXEC_ID,
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
from server_harness import Json, held_up, pass_time, turns, until, within

from bay.errors import (
    BadRequest,
    BayError,
    Conflict,
    Forbidden,
    NotFound,
    OutputGone,
    PayloadTooLarge,
    QuotaExceeded,
    ShipError,
    Timeout,
)
from bay.server.ship.answers import AttachReply, parse
from bay.server.ship.client import OutputEnd, ShipClient
from bay.server.ship.websocket import Attachment, Closed, ShipWebSocket
from ship_protocol import LEAVE

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

Wire = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
EXIT: Json = {"type": "exit", "exit_code": 0, "signal": None, "state": "exited", "timed_out": False}
ATTACHED: Json = {"type": "attached", "exec": {**EXEC, "state": "running"}, "next_offset": 7}


def frame(payload: bytes | str | Json, opcode: int | None = None, final: bool = True) -> bytes:
    """A frame as a server sends it."""
    if isinstance(payload, dict):
        payload = json.dumps(payload)
    kind = opcode if opcode is not None else (1 if isinstance(payload, str) else 2)
    data = payload.encode() if isinstance(payload, str) else payload
    first = bytes((kind | (0x80 if final else 0),))
    if len(data) < 126:
        return first + bytes((len(data),)) + data
    if len(data) < 1 << 16:
        return first + b"\x7e" + struct.pack("!H", len(data)) + data
    return first + b"\x7f" + struct.pack("!Q", len(data)) + data


def close(code: int, reason: str = "") -> bytes:
    return frame(struct.pack("!H", code) + reason.encode(), 8)


def switch(asked: bytes, *extra: str, proof: str | None = None) -> bytes:
    """A well-formed yes to an upgrade."""
    key = re.search(rb"sec-websocket-key: (\S+)", asked, re.IGNORECASE)
    assert key
    accept = b64encode(
        hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
    )
    lines = ("Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Accept: {accept.decode()}", *extra)
    return head("101 Switching Protocols", None, *lines, proof=proof)


def sending(*pieces: bytes, end: bool = False) -> Script:
    """Agrees to the upgrade, and sends that; with `end` it goes away then."""

    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(switch(await request(reader)) + b"".join(pieces))
        await writer.drain()
        if end:
            writer.close()

    return script


def repeating(first: bytes, piece: bytes) -> Script:
    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(switch(await request(reader)) + first)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()

    return script


async def read_all(attachment: Attachment) -> tuple[bytes, OutputEnd | None]:
    output, end = b"", None
    async for message in attachment.frames():
        if isinstance(message, OutputEnd):
            end = message
        else:
            output += message
    return output, end


async def attach_and_read(link: ShipClient, liar: Liar) -> tuple[bytes, OutputEnd | None]:
    async with link.attach(liar.peer(), EXEC_ID, None) as attachment:
        return await read_all(attachment)


async def unmasked(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The opcode and the payload of a client's frame."""
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    key = await reader.readexactly(4)
    data = await reader.readexactly(size)
    return first & 0x0F, bytes(byte ^ key[i % 4] for i, byte in enumerate(data))


# The honest case


async def test_an_attachment_says_what_it_is_of_and_gives_frames_and_the_end(
    lie: Lie, link: ShipClient
) -> None:
    liar = await lie(sending(frame(ATTACHED), frame(b"\1out"), frame(b"\2err"), frame(EXIT), close(1000)))
    async with link.attach(liar.peer(), EXEC_ID, 7) as attachment:
        assert (attachment.exec.id, attachment.exec.state, attachment.next_offset) == (EXEC_ID, "running", 7)
        assert link.busy("sess-1")
        assert [message async for message in attachment.frames()] == [
            b"\1out", b"\2err", OutputEnd(exit_code=0, signal=None),
        ]  # fmt: skip
    assert not link.busy("sess-1")
    await within(liar.closed.wait())


async def test_a_first_byte_that_is_overwritten_meanwhile_is_gone_as_one_before_the_call(
    lie: Lie, link: ShipClient
) -> None:
    liar = await lie(sending(close(4410, "first_offset=9")))
    with pytest.raises(OutputGone) as caught:
        await within(attach_and_read(link, liar))
    assert caught.value.details == {"first_offset": 9}


async def test_bay_asks_as_the_rfc_says_and_offers_no_extension(lie: Lie, link: ShipClient) -> None:
    heads: list[bytes] = []

    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await request(reader)).lower())
        writer.write(switch(heads[0]) + frame(ATTACHED))

    with pytest.raises(ShipError):  # the accept of a lower-cased key is another one
        await within(attach_and_read(link, await lie(script)))
    assert heads[0].startswith(b"get /execs/" + EXEC_ID.encode() + b"/attach http/1.1\r\n")
    assert b"authorization: bearer " + TOKEN.encode() in heads[0]
    assert b"upgrade: websocket" in heads[0]
    assert b"extensions" not in heads[0]


async def test_input_and_control_messages_arrive_masked_and_whole(lie: Lie, link: ShipClient) -> None:
    seen: list[tuple[int, bytes]] = []

    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(switch(await request(reader)) + frame(ATTACHED))
        seen.extend([await unmasked(reader) for _ in range(3)])
        writer.write(frame(EXIT))

    liar = await lie(script)
    async with link.attach(liar.peer(), EXEC_ID) as attachment:
        await attachment.send(b"\0" + b"x" * 100_000)
        await attachment.send_json({"type": "resize", "rows": 3, "cols": 4})
        await attachment.send(b"\4")
        await within(read_all(attachment))
    assert seen == [(2, b"\0" + b"x" * 100_000), (1, b'{"type": "resize", "rows": 3, "cols": 4}'), (2, b"\4")]


async def test_a_message_in_parts_with_a_ping_between_is_one_message(lie: Lie, link: ShipClient) -> None:
    parts = frame(b"\1a", 2, False) + frame(b"hello", 9) + frame(b"b", 0, False) + frame(b"c", 0)
    answered: list[tuple[int, bytes]] = []

    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(switch(await request(reader)) + frame(ATTACHED) + parts)
        answered.append(await unmasked(reader))
        writer.write(frame(EXIT))

    assert (await within(attach_and_read(link, await lie(script))))[0] == b"\1abc"
    assert answered == [(10, b"hello")]


def leaves(*second: bytes, last: bytes = b"") -> tuple[Script, list[bytes], list[tuple[int, bytes]]]:
    """A Ship that asks to leave, and closes once Bay does, or does `last`; the next connection gets `second`.
    With the requests and the input that it saw.
    """
    asked: list[bytes] = []
    seen: list[tuple[int, bytes]] = []

    async def script(liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun = await request(reader)
        asked.append(begun.split()[1])
        if liar.connections > 1:
            writer.write(switch(begun) + second[0])
            seen.append(await unmasked(reader))
            writer.write(b"".join(second[1:]))
            return
        writer.write(switch(begun) + frame(ATTACHED) + frame(b"\1one") + frame(LEAVE))
        while (got := await unmasked(reader))[0] != 8:
            seen.append(got)
        writer.write(last or close(1012))
        if last == b"-":
            writer.transport.abort()

    return script, asked, seen


async def test_a_ship_that_is_saved_is_attached_to_again_without_a_byte_lost_or_doubled(
    lie: Lie, link: ShipClient
) -> None:
    again: Json = {**ATTACHED, "next_offset": 10}
    script, asked, seen = leaves(frame(again) + frame(b"\1two"), frame(EXIT), close(1000))
    liar = await lie(script)
    async with link.attach(liar.peer(), EXEC_ID, 7, claims=True) as attachment:
        frames = attachment.frames()
        await attachment.send(b"\0early")
        async with link.without_new("sess-1"):
            assert await within(anext(frames)) == b"\1one"
            following = asyncio.create_task(within(anext(frames)))
            await until(lambda: len(seen) == 1)
            await turns()
            sending = asyncio.create_task(within(attachment.send(b"\0late")))
            await turns()
            assert (len(asked), sending.done()) == (1, False)
        assert await following == b"\1two"
        await sending
        assert [message async for message in frames] == [OutputEnd(exit_code=0, signal=None)]
        assert link.busy("sess-1")
    assert not link.busy("sess-1")
    path = f"/execs/{EXEC_ID}/attach".encode()
    assert asked == [path + b"?since=7&wait_for_reader=true", path + b"?since=10&wait_for_reader=true"]
    assert seen == [(2, b"\0early"), (2, b"\0late")]


class Told(ShipWebSocket):
    """A connection on which this is all that comes, at once."""

    def __init__(self, *messages: str | Closed) -> None:
        self.messages = [*messages]
        self.sent: list[bytes | str] = []

    async def receive(self) -> bytes | str | Closed:
        return self.messages.pop(0)

    async def send(self, message: bytes | str) -> None:
        self.sent.append(message)

    async def send_close(self) -> None:
        await turns()


async def test_input_waits_over_a_second_save_that_follows_at_once() -> None:
    saved = (LEAVE, Closed(1012))
    sockets = [Told(*saved), Told(json.dumps(EXIT))]
    connecting = asyncio.Event()

    async def connect(offset: int) -> ShipWebSocket:
        await connecting.wait()
        return sockets.pop(0)

    attachment = Attachment(Told(*saved), parse(AttachReply, json.dumps(ATTACHED).encode()), connect)
    last = sockets[-1]
    reading = asyncio.create_task(within(read_all(attachment)))
    await turns()
    sending = asyncio.create_task(within(attachment.send(b"\0late")))
    await turns()
    connecting.set()
    await sending
    await reading
    assert last.sent == [b"\0late"]


@pytest.mark.parametrize(
    ("is_saved", "offset", "last", "error"),
    [
        (False, 10, b"", ShipError),
        (True, 9, b"", ShipError),
        (True, 10, b"-", ShipError),
        (True, 10, frame(b"\1more"), ShipError),
        (True, 10, close(4409, "stdin is closed"), Conflict),
    ],
)
async def test_one_that_asks_to_leave_without_reason_or_does_not_take_all_input_is_left(
    lie: Lie, link: ShipClient, is_saved: bool, offset: int, last: bytes, error: type[BayError]
) -> None:
    again: Json = {**ATTACHED, "next_offset": offset}
    script, _, _ = leaves(frame(again) + frame(b"\1two"), frame(EXIT), last=last)
    liar = await lie(script)
    async with link.attach(liar.peer(), EXEC_ID, 7) as attachment:
        if is_saved:
            async with link.without_new("sess-1"):
                pass
        with pytest.raises(error):
            await within(read_all(attachment))
        with pytest.raises(ShipError):
            await within(attachment.send(b"\0lost"))


async def test_silence_is_no_error_for_an_attachment(lie: Lie, link: ShipClient, deadline_s: float) -> None:
    speak = asyncio.Event()

    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(switch(await request(reader)) + frame(ATTACHED))
        await speak.wait()
        writer.write(frame(EXIT))

    liar = await lie(script)
    async with link.attach(liar.peer(), EXEC_ID) as attachment:
        reading = asyncio.create_task(read_all(attachment))
        pass_time(2 * deadline_s)  # twice what any other call may take here
        await turns()
        assert not reading.done()
        assert (link.long_busy(0), link.long_busy(60)) == (["sess-1"], [])
        speak.set()
        assert (await within(reading))[1] is not None


async def test_a_ship_that_reads_nothing_holds_up_who_sends_and_bay_stays_small(
    lie: Lie, link: ShipClient
) -> None:
    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(switch(await request(reader)) + frame(ATTACHED))
        await writer.drain()
        await asyncio.Event().wait()

    liar = await lie(script)
    before = peak_kib()
    async with link.attach(liar.peer(), EXEC_ID) as attachment:
        sent: list[int] = []
        sending_task = asyncio.create_task(send_for_ever(attachment, sent))
        assert await held_up(lambda: sum(sent), turns) < 16 << 20
        assert not sending_task.done()
        sending_task.cancel()
    assert peak_kib() - before < 32 * 1024


async def send_for_ever(attachment: Attachment, sent: list[int]) -> None:
    while True:
        await attachment.send(bytes(65536))
        sent.append(65536)


# Lies

REFUSED: dict[str, tuple[Script, type[BayError]]] = {
    "a plain answer": (saying(whole({"a": 1})), ShipError),
    "the wrong proof": (
        lambda _liar, reader, writer: answer_with(reader, writer, lambda asked: switch(asked, proof="0" * 32)), ShipError,
    ),
    "an extension nobody asked for": (
        lambda _liar, reader, writer: answer_with(
            reader, writer, lambda asked: switch(asked, "Sec-WebSocket-Extensions: permessage-deflate")
        ), ShipError,
    ),
    "a subprotocol nobody asked for": (
        lambda _liar, reader, writer: answer_with(reader, writer, lambda asked: switch(asked, "Sec-WebSocket-Protocol: x")), ShipError,
    ),
    "another accept": (
        saying(head("101 Switching Protocols", None, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Accept: x")), ShipError,
    ),
    "another protocol": (
        saying(head("101 Switching Protocols", None, "Connection: Upgrade", "Upgrade: h2c")), ShipError,
    ),
    "continue for ever": (for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), ShipError),
    "silence": (saying(), Timeout),
    "silence after the yes": (sending(), Timeout),
    "the end after the yes": (sending(end=True), ShipError),
    "output first": (sending(frame(b"\1x")), ShipError),
    "nonsense first": (sending(frame("hello")), ShipError),
    "another exec": (sending(frame({**ATTACHED, "exec": {**EXEC, "id": "exec-" + "1" * 24}})), ShipError),
    "an offset that is none": (sending(frame({**ATTACHED, "next_offset": -1})), ShipError),
    "a frame of no kind": (sending(frame(ATTACHED), frame(b"\7x")), ShipError),
    "an empty frame": (sending(frame(ATTACHED), frame(b"")), ShipError),
    "text that is no end": (sending(frame(ATTACHED), frame("[]")), ShipError),
    "an end in no language": (sending(frame(ATTACHED), frame({**EXIT, "state": "running"})), ShipError),
    "a masked frame": (sending(frame(ATTACHED), b"\x82\x81\x00\x00\x00\x00\x00"), ShipError),
    "a reserved bit": (sending(frame(ATTACHED), b"\xc2\x02\x01x"), ShipError),
    "no UTF-8": (sending(frame(ATTACHED), frame(b"\xff\xff", 1)), ShipError),
    "a length of 2**63": (sending(frame(ATTACHED), b"\x82\x7f" + b"\xff" * 8), ShipError),
    "a frame that is too large": (sending(frame(ATTACHED), frame(b"\1" + bytes(1 << 20))), ShipError),
    "a message without end": (repeating(frame(ATTACHED) + frame(b"\1", 2, False), frame(bytes(60_000), 0, False)), ShipError),
    "empty parts without end": (repeating(frame(ATTACHED) + frame(b"\1", 2, False), frame(b"", 0, False) * 1000), ShipError),
    "a pong that nobody asked for": (sending(frame(ATTACHED), frame(b"", 10)), ShipError),
    "a flood of pings": (repeating(frame(ATTACHED), frame(b"", 9)), ShipError),
    "a drip of a frame, then the end": (sending(frame(ATTACHED), b"\x82\x7e", end=True), ShipError),
    "the end in the middle": (sending(frame(ATTACHED), frame(b"\1x"), end=True), ShipError),
    "a close without a reason": (sending(frame(ATTACHED), close(1000)), ShipError),
    "a close of its own": (sending(frame(ATTACHED), close(4999, "surprise")), ShipError),
    "a gone offset that is none": (sending(frame(ATTACHED), close(4410, "first_offset=x")), ShipError),
    "fell behind": (sending(frame(ATTACHED), close(4410, "first_offset=12")), OutputGone),
    "a bad frame of ours": (sending(frame(ATTACHED), close(4400, "no")), BadRequest),
    "no stdin": (sending(frame(ATTACHED), close(4409, "no")), Conflict),
    "too large a frame of ours": (sending(frame(ATTACHED), close(1009, "no")), PayloadTooLarge),
    "a flood of ours": (sending(frame(ATTACHED), close(4429, "no")), QuotaExceeded),
    "no such exec": (saying(whole({"error": {"code": "not_found", "message": "x"}}, "404 X")), NotFound),
    "a stale offset": (
        saying(whole({"error": {"code": "output_gone", "message": "x", "details": {"first_offset": 3}}}, "410 X")), OutputGone,
    ),
    "an offset beyond": (saying(whole({"error": {"code": "validation_error", "message": "x"}}, "400 X")), BayError),
}  # fmt: skip


async def answer_with(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Callable[[bytes], bytes]
) -> None:
    writer.write(answer(await request(reader)) + frame(ATTACHED) + frame(EXIT))
    await writer.drain()


@pytest.mark.parametrize("what", [
    pytest.param(what, marks=[pytest.mark.silent_ship] if expected is Timeout else [])
    for what, (_, expected) in REFUSED.items()
])  # fmt: skip
async def test_a_lie_ends_the_attachment_in_time_and_its_connection(
    lie: Lie, link: ShipClient, what: str
) -> None:
    script, expected = REFUSED[what]
    liar = await lie(script)
    before = peak_kib()
    with pytest.raises(expected) as error:
        await within(attach_and_read(link, liar))
    assert type(error.value) is expected or expected is BayError
    assert peak_kib() - before < 32 * 1024
    assert not link.busy("sess-1")
    await within(liar.closed.wait())


async def test_how_far_a_reader_fell_behind_is_told(lie: Lie, link: ShipClient) -> None:
    liar = await lie(sending(frame(ATTACHED), close(4410, "first_offset=123456789012")))
    with pytest.raises(OutputGone) as error:
        await within(attach_and_read(link, liar))
    assert error.value.details == {"first_offset": 123456789012}


async def test_a_flood_of_tiny_frames_leaves_others_their_turn(lie: Lie, link: ShipClient) -> None:
    liar = await lie(sending(frame(ATTACHED), frame(b"\1x") * 20_000, frame(EXIT)))
    async with link.attach(liar.peer(), EXEC_ID) as attachment:
        reading = asyncio.create_task(read_all(attachment))
        turns = 0
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1
    assert turns > 100


async def test_what_the_caller_does_wrong_is_not_taken_for_ships_fault(lie: Lie, link: ShipClient) -> None:
    liar = await lie(sending(frame(ATTACHED)))
    with pytest.raises(ConnectionResetError, match="mine"):
        async with link.attach(liar.peer(), EXEC_ID):
            raise ConnectionResetError("mine")
    await within(liar.closed.wait())


# Input by POST


async def parts_of(data: bytes, size: int) -> AsyncGenerator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def test_input_is_streamed_and_counted(lie: Lie, link: ShipClient) -> None:
    asked: list[bytes] = []

    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await request(reader))
        await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.write(whole({"written": 10}))

    liar = await lie(script)
    assert await within(link.write_stdin(liar.peer(), EXEC_ID, parts_of(b"0123456789", 3), eof=True)) == 10
    assert asked[0].startswith(f"POST /execs/{EXEC_ID}/stdin?eof=true ".encode())


@pytest.mark.silent_ship
async def test_input_that_moves_has_no_deadline_and_one_that_does_not_has(lie: Lie, link: ShipClient) -> None:
    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.write(whole({"written": 1}))

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(8):
            pass_time(0.9 * DEADLINE_S)
            await turns()
            yield b"x"

    liar = await lie(script)
    assert await within(link.write_stdin(liar.peer(), EXEC_ID, slowly(), eof=False)) == 1
    liar.script = saying()
    link.close()
    with pytest.raises(Timeout):
        await within(link.write_stdin(liar.peer(), EXEC_ID, parts_of(b"x", 1), eof=False))
    with pytest.raises(Timeout):
        await within(link.write_stdin(liar.peer(), EXEC_ID, parts_of(bytes(8 << 20), 65536), eof=False))


async def test_a_refusal_in_the_middle_of_the_input_is_heard(lie: Lie, link: ShipClient) -> None:
    refusal: Json = {"error": {"code": "conflict", "message": "stdin is not open"}}

    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(whole(refusal, "409 X"))

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65536)

    liar = await lie(script)
    with pytest.raises(Conflict, match="not open"):
        await within(link.write_stdin(liar.peer(), EXEC_ID, endless(), eof=False))
    assert link._idle.get("sess-1", []) == []
    await within(liar.closed.wait())


async def test_what_goes_wrong_in_the_callers_body_stays_that(lie: Lie, link: ShipClient) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x"
        raise ValueError("the client went away")

    liar = await lie(saying())
    with pytest.raises(ValueError, match="went away"):
        await within(link.write_stdin(liar.peer(), EXEC_ID, broken(), eof=True))
    await within(liar.closed.wait())


@pytest.mark.parametrize("answer", [{"written": -1}, {"written": "x"}, {}, {"written": 2**63}])
async def test_a_count_that_is_none_is_a_lie(lie: Lie, link: ShipClient, answer: Json) -> None:
    liar = await lie(saying(whole(answer)))
    with pytest.raises(ShipError):
        await within(link.write_stdin(liar.peer(), EXEC_ID, b"x", eof=True))


# Processes, signals, sizes

PROCESS: Json = {
    "pid": 7, "ppid": 1, "uid": 1000, "state": "S", "command": "sleep 1", "rss_bytes": 4096, "cpu_s": 0.25,
    "started_at": "2030-01-01T00:00:00Z", "exec_id": EXEC_ID,
}  # fmt: skip


async def test_processes_are_told_with_the_exec_they_belong_to(lie: Lie, link: ShipClient) -> None:
    liar = await lie(
        saying(whole({"processes": [PROCESS, {**PROCESS, "pid": 1, "uid": None, "exec_id": None}]}))
    )
    found = await within(link.processes(liar.peer()))
    assert [(item.pid, item.uid, item.exec_id) for item in found] == [(7, 1000, EXEC_ID), (1, None, None)]


@pytest.mark.parametrize(
    "change",
    [{"pid": "x"}, {"uid": -1}, {"state": "x" * 99}, {"command": "x" * 100_000}, {"rss_bytes": -1}, {"cpu_s": 1e400},
     {"started_at": "then"}, {"exec_id": 7}],
)  # fmt: skip
async def test_a_process_that_is_none_is_a_lie(lie: Lie, link: ShipClient, change: Json) -> None:
    liar = await lie(saying(whole(json.dumps({"processes": [{**PROCESS, **change}]}).encode())))
    with pytest.raises(ShipError):
        await within(link.processes(liar.peer()))


async def test_signals_and_sizes_are_asked_for_by_exec_and_by_pid(lie: Lie, link: ShipClient) -> None:
    asked: list[bytes] = []

    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            start = await request(reader)
            size = re.search(rb"content-length: (\d+)", start, re.IGNORECASE)
            assert size
            asked.append(start.split(b" HTTP")[0] + b" " + await reader.readexactly(int(size[1])))
            writer.write(whole({**EXEC, "tty": True, "rows": 3, "cols": 4}))

    liar = await lie(script)
    await within(link.signal_exec(liar.peer(), EXEC_ID, "INT"))
    resized = await within(link.resize_exec(liar.peer(), EXEC_ID, 3, 4))
    await within(link.signal_process(liar.peer(), 77, "KILL"))
    assert (resized.rows, resized.cols) == (3, 4)
    assert asked == [
        f'POST /execs/{EXEC_ID}/signal {{"signal": "INT"}}'.encode(),
        f'POST /execs/{EXEC_ID}/resize {{"rows": 3, "cols": 4}}'.encode(),
        b'POST /shell/processes/77/signal {"signal": "KILL"}',
    ]


@pytest.mark.parametrize(
    ("code", "status", "expected"), [("forbidden", 403, Forbidden), ("not_found", 404, NotFound)]
)
async def test_a_process_that_may_not_be_signalled_is_said_to_be(
    lie: Lie, link: ShipClient, code: str, status: int, expected: type[BayError]
) -> None:
    liar = await lie(saying(whole({"error": {"code": code, "message": "x"}}, f"{status} X")))
    with pytest.raises(expected):
        await within(link.signal_process(liar.peer(), 1, "KILL"))
