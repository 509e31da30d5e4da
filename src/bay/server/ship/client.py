"""The client of a session's Ship: requests, their deadlines, and bounds on the answers."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import Any
from urllib.parse import urlencode

from bay.drivers.ship_socket import open_connection
from bay.errors import CapabilityNotSupported, NotFound, ShipError, Timeout
from bay.meters import Meters
from bay.models import Exec, OutputChunk, Process
from bay.server.ship.answers import (
    MAX_PIECES,
    AttachReply,
    Chunk,
    FeedLine,
    M,
    OutputEnd,
    ShipExec,
    ShipExecs,
    ShipMeta,
    ShipProcesses,
    ShipTasks,
    TakenInput,
    collect,
    parse,
    refusal,
)
from bay.server.ship.connection import Head, Peer, Wire
from bay.server.ship.websocket import Attachment, ShipWebSocket, read_attached
from bay.token_bucket import TokenBucket
from bay.tracing import Tracing
from ship_protocol import RING_BYTES, Feature

_IDLE_PER_SESSION = 8
_IDLE_S = 60.0  # well below the 10 minutes after which Ship closes, so that no call meets a closing door
_SMALL = 1 << 20
_EXEC_FACTS = 13 << 20  # an argv of 2 MiB, each byte of it escaped
_CHUNK_FACTS = 16 << 20  # as much as a report on 140,000 chunks
_MANY = 300_000
"""Values in a list of 10,000 files or processes, or of 1,000 execs."""
_EXEC_PIECES = 3_000_000
"""Values in an exec whose output comes in 140,000 chunks."""
_FEED_PER_S = 100
_LINE = 1 << 20
_TURN = 256  # lines that are handed out before others get a turn
_DEADLINE_S = 15.0
_META_S = 2.0
_PROBE_BYTES = 1024
_TRANSFER_DEADLINE_S = 3600.0


class BrokenConnection(ShipError):
    """The connection ended in the middle of a call."""


class SaveCount:
    """The saves of a session's memory, each of which may end the connections to it once."""

    def __init__(self, counts: Mapping[str, int], session_id: str) -> None:
        self._counts = counts
        self._session_id = session_id
        self._seen = counts.get(session_id)

    def is_new(self) -> bool:
        """Whether one has begun since this was made or asked."""
        before, self._seen = self._seen, self._counts.get(self._session_id)
        return self._seen != before


class ShipClient:
    """Connections to the Ships of all sessions, kept open between calls. `deadline_s` bounds a call beyond
    the time it is asked to wait, `transfer_s` the silence of an exec that is given stdin. `ring_bytes` is the
    most output that a Ship keeps of an exec.
    """

    def __init__(
        self,
        *,
        deadline_s: float = _DEADLINE_S,
        transfer_s: float = _TRANSFER_DEADLINE_S,
        ring_bytes: int = RING_BYTES,
        meters: Meters | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.meters = meters or Meters()
        self._tracing = tracing or Tracing()
        self._exec_answer = _EXEC_FACTS + 3 * ring_bytes  # base64 of what is kept of both streams
        self._deadline_s = deadline_s
        self._transfer_s = transfer_s
        self._idle: dict[str, list[tuple[float, Wire]]] = {}
        """Of each session, and since when; those that were used last come last."""
        self._looked_at = time.monotonic()
        self._busy: dict[str, list[float]] = {}
        """When each call that is under way began (monotonic), by session."""
        self._metas: dict[str, ShipMeta] = {}
        self._held: dict[str, asyncio.Event] = {}
        """Sessions that no call is sent to now; the event says that one may be."""
        self._holds: dict[str, int] = {}
        """How often that was so, by session."""

    def busy(self, session_id: str, for_s: float = 0.0) -> bool:
        """Whether a call to that session is under way, for `for_s` seconds or longer."""
        began = self._busy.get(session_id)
        return bool(began) and time.monotonic() - began[0] >= for_s

    def long_busy(self, for_s: float) -> list[str]:
        """The sessions a call to which has been under way for `for_s` seconds or longer."""
        return [session_id for session_id in self._busy if self.busy(session_id, for_s)]

    @asynccontextmanager
    async def without_new(self, session_id: str) -> AsyncGenerator[None]:
        """Send no call to the session in the block: who wants to waits. Those under way go on, as far
        as their connections do.
        """
        opened = self._held[session_id] = asyncio.Event()
        self._holds[session_id] = self._holds.get(session_id, 0) + 1
        try:
            yield
        finally:
            del self._held[session_id]
            opened.set()

    def close_stale(self) -> None:
        """Close the connections that were idle for longer than any call would use them; called now and then.
        Thousands of them take descriptors and memory for the ten minutes after which Ships close them.
        """
        now = time.monotonic()
        if now - self._looked_at < _IDLE_S / 4:
            return
        self._looked_at = now
        for session_id, idle in list(self._idle.items()):
            while idle and now - idle[0][0] >= _IDLE_S:
                idle.pop(0)[1].close()
            if not idle:
                del self._idle[session_id]

    def forget(self, session_id: str) -> None:
        """Drop the idle connections to a session that is over, and what is known of it."""
        self._metas.pop(session_id, None)
        self._holds.pop(session_id, None)
        for _since, wire in self._idle.pop(session_id, []):
            wire.close()

    def close(self) -> None:
        """Drop every idle connection."""
        for session_id in list(self._idle):
            self.forget(session_id)

    async def meta(self, peer: Peer) -> ShipMeta:
        """Ship's description of itself. A short deadline: a view of the sandbox waits for it, and for no save
        of its memory, in which the last one is given.
        """
        if peer.session_id in self._held and (known := self._metas.get(peer.session_id)):
            return known
        return await self._describe(peer, min(_META_S, self._deadline_s))

    async def require(self, peer: Peer, *features: Feature) -> None:
        """Raises CapabilityNotSupported unless the session's Ship has these. A session outlives an upgrade of
        Bay with the Ship that it has, and that ignores what it does not know.
        """
        if not features:
            return
        found = self._metas.get(peer.session_id) or await self._describe(peer, self._deadline_s)
        lacking = [one for one in features if one not in found.features]
        if lacking:
            raise CapabilityNotSupported(
                f"the runtime of this sandbox is that of an earlier Bay, without {lacking[0]}; restart the "
                "sandbox to get the new runtime",
                details={"capability": lacking[0], "available": found.features},
            )

    def last_meta(self, session_id: str) -> ShipMeta | None:
        """The last description that the session's Ship gave, or None. A frozen one cannot answer."""
        return self._metas.get(session_id)

    async def can_connect(self, peer: Peer) -> bool:
        """Whether the right process listens where the Ship should. Sends no request."""
        try:
            _reader, writer = await open_connection(peer.endpoint, _PROBE_BYTES)
        except (ConnectionRefusedError, FileNotFoundError, ShipError):
            return False
        except OSError:
            # More callers wait than it can take, Bay has no descriptor left, or the network is at fault: none
            # of that is the Ship's end.
            return True
        writer.transport.abort()
        return True

    async def run(
        self, peer: Peer, exec_id: str, body: Mapping[str, Any], wait_s: float | None, *, chunks: bool = False
    ) -> Exec:
        """Start an exec; with `wait_s` return when it ended or the seconds are over, with its output. One
        that waits for a reader is returned, too, once it stands still for want of that.
        """
        saves, ends = self._saves(peer), time.monotonic() + (wait_s or 0)
        try:
            return await self._call_exec(peer, exec_id, "POST", "/execs", body, wait_s, chunks=chunks)
        except BrokenConnection as broken:
            if wait_s is None or not saves.is_new():
                raise
            try:
                return await self.get_exec(peer, exec_id, max(0.0, ends - time.monotonic()), chunks=chunks)
            except NotFound:
                raise broken from None

    async def get_exec(self, peer: Peer, exec_id: str, wait_s: float | None, *, chunks: bool = False) -> Exec:
        """The exec as it stands; with `wait_s` when it ended or the seconds are over, with its output."""
        saves, ends = self._saves(peer), time.monotonic() + (wait_s or 0)
        while True:
            left_s = None if wait_s is None else max(0.0, ends - time.monotonic())
            try:
                path = f"/execs/{exec_id}"
                return await self._call_exec(peer, exec_id, "GET", path, None, left_s, chunks=chunks)
            except BrokenConnection:
                # A save in gVisor ends the connections of whoever waits.
                if not saves.is_new():
                    raise

    async def list_execs(self, peer: Peer) -> list[Exec]:
        """Every exec that Ship still knows of."""
        found = await self.call(peer, ShipExecs, "GET", "/execs", cap=32 << 20, pieces=_MANY)
        return [item.to_exec() for item in found.items]

    async def kill_exec(self, peer: Peer, exec_id: str) -> Exec:
        """End an exec's whole tree and return it."""
        return await self._call_exec(peer, exec_id, "DELETE", f"/execs/{exec_id}", None, None)

    def output(
        self, peer: Peer, exec_id: str, since: int, follow: bool, *, claims: bool = False
    ) -> AbstractAsyncContextManager[AsyncIterator[OutputChunk | OutputEnd]]:
        """An exec's output from byte `since` on; the last item is an OutputEnd once the exec has ended. With
        `claims` this is the reader that the exec waits for.
        """
        return self.output_at(peer, f"/execs/{exec_id}/output", since, follow, claims=claims)

    @asynccontextmanager
    async def output_at(
        self, peer: Peer, path: str, since: int, follow: bool, *, claims: bool = False
    ) -> AsyncGenerator[AsyncIterator[OutputChunk | OutputEnd]]:
        """The same of whatever Ship keeps the output of, by the path of that."""
        async with AsyncExitStack() as line:
            saves = self._saves(peer)

            async def ask(since: int) -> AsyncGenerator[OutputChunk | OutputEnd, None]:
                await line.aclose()
                query = {"since": since, "follow": _flag(follow), "wait_for_reader": _flag(claims)}
                wire, _ = await line.enter_async_context(self.open(peer, "GET", path, query))
                if follow:
                    wire.set_deadline(None)  # a command may be silent for days
                return _parse_output(wire.body(), since)

            yield _asked_again(await ask(since), since, ask, saves)

    @asynccontextmanager
    async def attach(
        self, peer: Peer, exec_id: str, since: int | None = None, *, claims: bool = False
    ) -> AsyncGenerator[Attachment, None]:
        """An exec's live output from byte `since` on (None: the oldest that is kept), and its input. With
        `claims` this is the reader that the exec waits for. Raises OutputGone or BadRequest for an offset
        that is not there, NotFound for an unknown exec.
        """
        async with AsyncExitStack() as line:
            saves = self._saves(peer)

            async def connect(since: int | None) -> tuple[ShipWebSocket, AttachReply]:
                opened = self._attached_socket(peer, exec_id, since, claims=claims)
                return await line.enter_async_context(opened)

            async def connect_again(offset: int) -> ShipWebSocket:
                if not saves.is_new():
                    raise ShipError("the sandbox's runtime ended its connections, as a hibernation does")
                await line.aclose()
                socket, attached = await connect(offset)
                if attached.next_offset != offset:
                    raise ShipError("the sandbox's runtime attached at another offset")
                return socket

            yield Attachment(*await connect(since), connect_again)

    @asynccontextmanager
    async def _attached_socket(
        self, peer: Peer, exec_id: str, since: int | None, *, claims: bool
    ) -> AsyncGenerator[tuple[ShipWebSocket, AttachReply]]:
        query = ({} if since is None else {"since": since}) | ({"wait_for_reader": "true"} if claims else {})
        path = f"/execs/{exec_id}/attach" + (f"?{urlencode(query)}" if query else "")
        async with self.open_socket(peer, path) as (wire, socket):
            with _translated(f"GET {path}", self._deadline_s):
                attached = await read_attached(socket, exec_id)
            wire.set_deadline(None)  # a command may be silent for days
            yield socket, attached

    @asynccontextmanager
    async def open_socket(self, peer: Peer, target: str) -> AsyncGenerator[tuple[Wire, ShipWebSocket], None]:
        """A WebSocket to Ship. Its first message is due within the deadline, which its caller ends.
        Raises what Ship refuses it with, ShipError and Timeout.
        """
        async with self.upgrade(peer, target, "websocket") as wire:
            yield wire, ShipWebSocket(wire, wire.take_rest())

    @asynccontextmanager
    async def upgrade(self, peer: Peer, target: str, protocol: str) -> AsyncGenerator[Wire]:
        """A connection to Ship that speaks `protocol` from now on, its reads due within the deadline.
        Leaving the block drops it, after what is unsent. Raises Ship's refusal, ShipError and Timeout.
        """
        with self._counted(peer.session_id):
            wire = await self._connect(peer)
            try:
                with _translated(f"GET {target.partition('?')[0]}", self._deadline_s):
                    wire.set_deadline(self._deadline_s)
                    head = await wire.upgrade(target, protocol)
                    if head is not None:
                        raise refusal(head.status, await collect(wire.body(), _SMALL))
                yield wire
            finally:
                wire.finish()

    async def feed(
        self, peer: Peer, turn: AbstractAsyncContextManager[None] | None = None
    ) -> AsyncGenerator[tuple[str, bytes]]:
        """The session feed: the kind of each line, and the line, until Ship ends or the connection breaks. It
        is connected within the block of `turn`, if there is one.
        """
        async with AsyncExitStack() as stack:
            async with turn or nullcontext():
                wire, _ = await stack.enter_async_context(self.open(peer, "GET", "/feed", awaited=False))
            wire.set_deadline(None)  # nothing may change for days
            async for line in paced(wire.body()):
                yield parse(FeedLine, line).type, line

    async def write_stdin(
        self, peer: Peer, exec_id: str, body: bytes | AsyncIterator[bytes], *, eof: bool
    ) -> int:
        """Give an exec input, with `eof` the last; returns how many bytes, once it has taken all of them.
        Takes as long as the exec takes, unless nothing moves for `transfer_s`. Raises Conflict when stdin is
        closed or has no reader.
        """
        async with self.open(
            peer, "POST", f"/execs/{exec_id}/stdin", {"eof": "true" if eof else "false"}, body,
            "application/octet-stream", deadline_s=self._transfer_s, while_moving=True,
        ) as (wire, _):  # fmt: skip
            return parse(TakenInput, await collect(wire.body(), _SMALL)).written

    async def signal_exec(self, peer: Peer, exec_id: str, signal: str) -> Exec:
        """Send a signal to an exec's process group, in a terminal to the one in the foreground."""
        return await self._call_exec(
            peer, exec_id, "POST", f"/execs/{exec_id}/signal", {"signal": signal}, None
        )

    async def resize_exec(self, peer: Peer, exec_id: str, rows: int, cols: int) -> Exec:
        """Change the size of an exec's terminal."""
        body = {"rows": rows, "cols": cols}
        return await self._call_exec(peer, exec_id, "POST", f"/execs/{exec_id}/resize", body, None)

    async def has_tasks(self, peer: Peer) -> bool:
        """Whether programs of the sandbox hold it awake. A Ship of an earlier Bay knows no tasks."""
        try:
            return bool((await self.call(peer, ShipTasks, "GET", "/tasks")).tasks)
        except NotFound:
            return False

    async def processes(self, peer: Peer) -> list[Process]:
        """Every process of the sandbox."""
        found = await self.call(peer, ShipProcesses, "GET", "/shell/processes", cap=16 << 20, pieces=_MANY)
        return [Process(**item.model_dump()) for item in found.processes]

    async def signal_process(self, peer: Peer, pid: int, signal: str) -> None:
        """Send a signal to one process. Raises NotFound, and Forbidden for Ship itself."""
        body = json.dumps({"signal": signal}).encode()
        path = f"/shell/processes/{pid}/signal"
        async with self.open(peer, "POST", path, None, body) as (wire, _):
            await collect(wire.body(), _SMALL)

    async def call(
        self,
        peer: Peer,
        model: type[M],
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        cap: int = _SMALL,
        pieces: int = MAX_PIECES,
    ) -> M:
        """One call whose answer is a `model` of at most `cap` bytes and `pieces` values."""
        data = None if body is None else json.dumps(body).encode()
        async with self.open(peer, method, path, query, data, deadline_s=deadline_s) as (wire, _):
            return parse(model, await collect(wire.body(), cap), pieces)

    async def _describe(self, peer: Peer, deadline_s: float) -> ShipMeta:
        found = await self.call(peer, ShipMeta, "GET", "/meta", deadline_s=deadline_s)
        self._metas[peer.session_id] = found
        return found

    async def _call_exec(
        self,
        peer: Peer,
        exec_id: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        wait_s: float | None,
        *,
        chunks: bool = False,
    ) -> Exec:
        query = {} if wait_s is None else {"wait": wait_s, "chunks": _flag(chunks)}
        deadline = self._deadline_s + (wait_s or 0)
        cap = self._exec_answer + (_CHUNK_FACTS if chunks else 0)
        found = await self.call(peer, ShipExec, method, path, query, body, deadline, cap, _EXEC_PIECES)
        if found.id != exec_id:
            raise ShipError("the sandbox's runtime answered for another exec")
        return found.to_exec()

    @asynccontextmanager
    async def open(
        self,
        peer: Peer,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: bytes | AsyncIterator[bytes] | None = None,
        content_type: str = "application/json",
        *,
        deadline_s: float | None = None,
        while_moving: bool = False,
        awaited: bool = True,
    ) -> AsyncGenerator[tuple[Wire, Head], None]:
        """One call: send, check the status, hand out the body, and keep or drop the connection.

        Without `deadline_s` the client's own holds; `while_moving` lets it begin anew whenever a part of
        `body` has gone out. Raises what Ship refuses the call with, ShipError when the connection breaks or
        nonsense comes, and Timeout. A call that is not `awaited` by anybody does not count as one that is
        under way: it may be silent for as long as it likes.

        The deadline is the connection's own and not an `asyncio.timeout` around this block, since a
        streaming answer is read in another task than the one that opened it.
        """
        target = f"{path}?{urlencode(query)}" if query else path
        deadline_s = self._deadline_s if deadline_s is None else deadline_s
        counted = self._counted(peer.session_id) if awaited else nullcontext()
        traced = self._traced(method, path) if awaited else nullcontext()
        with traced, counted, _translated(f"{method} {path}", deadline_s):
            wire = await self._connect(peer)
            try:
                wire.set_deadline(deadline_s, while_moving=while_moving)
                head = await wire.send(method, target, body, content_type)
                if head.status not in (200, 201):
                    raise refusal(head.status, await collect(wire.body(), _SMALL))
                yield wire, head
            finally:
                self._keep_or_close(peer.session_id, wire)

    def _saves(self, peer: Peer) -> SaveCount:
        return SaveCount(self._holds, peer.session_id)

    def _traced(self, method: str, path: str) -> AbstractContextManager[None]:
        kind = path.split("/", 2)[1]
        return self._tracing.call(f"ship {kind}", {"http.request.method": method, "url.path": path})

    @contextmanager
    def _counted(self, session_id: str) -> Generator[None]:
        began = time.monotonic()
        self._busy.setdefault(session_id, []).append(began)
        try:
            yield
        finally:
            self._busy[session_id].remove(began)
            if not self._busy[session_id]:
                del self._busy[session_id]

    async def _connect(self, peer: Peer) -> Wire:
        while (held := self._held.get(peer.session_id)) is not None:
            await held.wait()
        return self._take_idle(peer.session_id) or await Wire.open(peer)

    def _take_idle(self, session_id: str) -> Wire | None:
        idle = self._idle.get(session_id, [])
        while idle:
            since, wire = idle.pop()
            if time.monotonic() - since < _IDLE_S and wire.is_open():
                return wire
            wire.close()
        return None

    def _keep_or_close(self, session_id: str, wire: Wire) -> None:
        idle = self._idle.setdefault(session_id, [])
        if wire.recycle() and len(idle) < _IDLE_PER_SESSION:
            idle.append((time.monotonic(), wire))
        else:
            wire.close()


def _flag(value: bool) -> str:
    return "true" if value else "false"


@contextmanager
def _translated(call: str, deadline_s: float) -> Generator[None]:
    try:
        yield
    except TimeoutError as error:
        raise Timeout(f"the sandbox's runtime did not finish {call} in {deadline_s:g} s") from error
    except OSError as error:
        raise BrokenConnection("the connection to the sandbox's runtime broke") from error


async def _asked_again(
    items: AsyncIterator[OutputChunk | OutputEnd],
    since: int,
    ask: Callable[[int], Awaitable[AsyncIterator[OutputChunk | OutputEnd]]],
    saves: SaveCount,
) -> AsyncGenerator[OutputChunk | OutputEnd, None]:
    """The output from byte `since` on, asked for again at the next byte when a save in gVisor cut it off."""
    while True:
        try:
            async for item in items:
                if isinstance(item, OutputChunk):
                    since = item.offset + len(item.data)
                yield item
            return
        except BrokenConnection:
            if not saves.is_new():
                raise
        items = await ask(since)


async def _parse_output(
    chunks: AsyncGenerator[bytes, None], since: int
) -> AsyncGenerator[OutputChunk | OutputEnd, None]:
    """The entries up to the one that reports the end. Each begins where the one before it ended."""
    ended = False
    async for line in lines(chunks):
        item = _parse_line(line)
        if ended:
            raise ShipError("the sandbox's runtime sent data after the end of the output")
        if isinstance(item, OutputEnd):
            ended = True
        elif item.offset != since:
            raise ShipError(f"the sandbox's runtime sent output at offset {item.offset} instead of {since}")
        else:
            since += len(item.data)
        yield item


def _parse_line(line: bytes) -> OutputChunk | OutputEnd:
    if b'"error"' in line[:16]:
        raise refusal(410, line)
    if b'"offset"' not in line[:16]:
        return parse(OutputEnd, line)
    return parse(Chunk, line).to_chunk()


async def _unbroken(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same, with Bay's own error when the connection breaks, so that the reader can find out why."""
    try:
        async for chunk in chunks:
            yield chunk
    except ConnectionError as error:
        raise BrokenConnection("the connection to the sandbox's runtime broke") from error


async def paced(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The lines of a feed at a bounded rate. A Ship that sends single bytes costs as much as an idle one."""
    bucket = TokenBucket(_FEED_PER_S, _FEED_PER_S, asyncio.get_running_loop().time)

    async def slowly() -> AsyncGenerator[bytes, None]:
        async for chunk in chunks:
            await asyncio.sleep(bucket.pay())
            yield chunk

    async for line in lines(slowly()):
        await asyncio.sleep(bucket.pay())
        yield line


async def lines(chunks: AsyncGenerator[bytes, None], cap: int = _LINE) -> AsyncGenerator[bytes, None]:
    """A body line by line. Raises ShipError at a line of more than `cap` bytes."""
    rest = bytearray()
    count = 0
    async for chunk in _unbroken(chunks):
        # Only what is new is searched, and once: a long line in tiny pieces, or many lines in one, would cost
        # its square.
        head, *others = chunk.split(b"\n")
        rest += head
        for other in others:
            yield bytes(_within(rest, cap))
            rest = bytearray(other)
            count += 1
            if count % _TURN == 0:  # lines that are all here would keep others out
                await asyncio.sleep(0)
        _within(rest, cap)


def _within(line: bytearray, cap: int) -> bytearray:
    if len(line) > cap:
        raise ShipError(f"the sandbox's runtime sent a line of more than {cap} bytes")
    return line


def encode_stdin(stdin: str | None, stdin_base64: str | None) -> str | None:
    """The `stdin` field of Ship's exec call, from the two spellings of the API."""
    return stdin_base64 if stdin is None else base64.b64encode(stdin.encode()).decode("ascii")
