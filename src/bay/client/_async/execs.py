"""Commands in a sandbox. An exec outlives the connection that started it: a reader can leave and return."""

import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Literal, Unpack

from bay.client._async.attach import AsyncAttachment
from bay.client._async.http import AsyncHttp, AsyncSandboxNoun, Body
from bay.client._calls import Call, Json, Params, wait_slice
from bay.client._follow import Cursor, Limit
from bay.client._frames import FRAME_BYTES, Door, Progress
from bay.client._options import STDIN_BYTES, SpawnOptions, exec_body, spawn_body
from bay.client._results import Collected, RunResult, chunks_of
from bay.client._seam import async_beside, async_cleanup, async_lock, async_sleep, async_turn
from bay.client._waits import BETWEEN_S, ENDING_S, GRACE_S, TAKING_S, still_running
from bay.errors import BayError, Conflict, ConnectionFailed, NotFound
from bay.ids import new_id
from bay.models import Exec, OutputChunk, Screen


class AsyncProc(AsyncSandboxNoun):
    """A command that was started in a sandbox. `info` is what was last heard of it.

    Unless it was started with `wait_for_reader=False` it waits for what reads its output: its first `output`,
    `attach` or `wait` gets every byte.
    """

    def __init__(
        self, http: AsyncHttp, sandbox_id: str, info: Exec, collected: Collected | None = None
    ) -> None:
        super().__init__(http, sandbox_id)
        self.info = info
        self._collected = collected if info.wait_for_reader else None
        """The output that `wait` has read so far; None where another reader has it."""
        self._collecting = async_lock()
        """Guards `_collected` while a `wait` reads: two at once would read everything twice."""
        self._was_read = False

    @property
    def id(self) -> str:
        """Its id, ``exec-…``."""
        return self.info.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.info.state}>"

    async def refresh(self) -> Exec:
        """Ask the server how it is; sets and returns `info`."""
        return await self._get(wait_s=None)

    async def kill(self) -> Exec:
        """End it and all it started: terminate, then kill. Answers after its end; again is no error."""
        return await self._ask(Call("DELETE", self._path(), safe=True, wait_s=GRACE_S))

    async def wait(self, timeout_s: float | None = None) -> RunResult:
        """Wait until it has ended, for ever without a `timeout_s` (seconds), and give what it printed.

        Of a command that was started here, and whose output is not read otherwise, that is all up to 16 MiB,
        else what the server still keeps. Raises Timeout when it still runs then; it is left running.
        """
        if self._collected is not None:
            return await self._collect(self._collected, timeout_s)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            info = await self._get(wait_s=wait_slice(left))
            if info.state != "running":
                return self._result(Collected(), info)
            if left is not None and left <= 0:
                raise still_running(self.id, timeout_s)
            await async_sleep(BETWEEN_S)

    async def output(
        self,
        since: int | None = None,
        *,
        follow: bool = True,
        timeout_s: float | None = None,
        wait_for_reader: bool | None = None,
    ) -> AsyncGenerator[OutputChunk, None]:
        """Its output, stdout and stderr in the order in which they came, until it ends.

        `since` is a byte offset from the start of its output; None is its start when this is the first to
        read a command that was started here, else the oldest byte still kept, in which case a gap shows as a
        jump of `offset` and is no error. Raises OutputGone when output from there on is no longer kept, and
        Timeout when nothing comes for `timeout_s` seconds. A dropped connection is taken up again where it
        broke, for as long as the client's `retry_s`. With `follow=False` it ends with what there is now. With
        `wait_for_reader` the command waits for this reader, also when it was not started for one; a key that
        may only read cannot have it wait. After the end `info` says how the command ended.
        """
        limit = Limit(timeout_s, f"{self.id} has printed nothing for {timeout_s} s", renewed=True)
        claims = self.info.wait_for_reader if wait_for_reader is None else wait_for_reader
        cursor = self._cursor(self._begin(since), limit, follow=follow, claims=claims)
        async with aclosing(self._http.followed(cursor)) as chunks:
            async for chunk in chunks:
                yield chunk
        self.info = cursor.info

    def attach(self, since: int | None = None, *, repaint: bool = False) -> AsyncAttachment:
        """Attach to it: live output, input, size and signals over one connection; use it with `with`.

        `since` is as for `output`. With `repaint`, for a command on a terminal, its last screen is drawn, by
        a chunk that has no place in the count of bytes: at the beginning, unless there is a `since`; and
        where output was dropped.
        """
        begin = self._begin(since)
        since = since if repaint else begin
        progress = Progress(self.info, since, self._http.config.retry_s, repaint=repaint)
        door = Door(self._sandbox_id, self.id, repaint=repaint, claims=self.info.wait_for_reader)
        return AsyncAttachment(self._http, door, progress)

    async def write(self, data: str | bytes) -> None:
        """Give it input; returns when it, or the pipe to it, has taken all.

        Raises Conflict when it has ended or its stdin is not open. When the connection breaks meanwhile it is
        ConnectionFailed, and some of it may have arrived.
        """
        whole = data.encode() if isinstance(data, str) else data
        if whole:
            await self._http.json(self._stdin_call(eof=False), _pieces(whole))

    async def feed(self, pieces: AsyncIterable[bytes]) -> None:
        """Give it all that `pieces` yields, by one request and as fast as it takes them; returns when it has.

        Raises as `write` does. The request ends with the pieces, and its stdin stays open.
        """
        call = replace(self._stdin_call(eof=False), repeatable=False)
        await self._http.json(call, pieces.__aiter__)

    async def close_stdin(self) -> None:
        """Close its input, after what was written before. Raises Conflict when it has ended."""
        call = self._stdin_call(eof=True)
        try:
            await self._http.json(call)
        except ConnectionFailed:  # it may be closed, and the command has ended of that by now
            with suppress(Conflict):
                await self._http.json(replace(call, safe=True))

    async def signal(self, signal: str | int) -> Exec:
        """Send its process group, or its terminal's, a signal: ``"INT"`` or a number. Conflict once over."""
        return await self._post("signal", signal=signal)

    async def resize(self, rows: int, cols: int) -> Exec:
        """Say how large its terminal is now. Raises Conflict when it has none."""
        return await self._post("resize", rows=rows, cols=cols)

    async def screen(self, scrollback: int = 0) -> Screen:
        """Its terminal's screen, and up to `scrollback` lines above. InvalidArgument without a terminal."""
        return await self._http.one(Screen, Call.get(self._path("screen"), {"scrollback": scrollback}))

    def _begin(self, since: int | None) -> int | None:
        """Where a reader begins that asks for `since`."""
        is_first = self._collected is not None and not self._collected.next_offset
        self._collected, self._was_read = None, True
        return 0 if since is None and is_first else since

    async def _collect(self, collected: Collected, timeout_s: float | None) -> RunResult:
        """Read its output into `collected` until it ends."""
        limit = Limit(timeout_s, str(still_running(self.id, timeout_s)))
        async with async_turn(self._collecting, timeout_s) as is_held:
            if not is_held:
                raise still_running(self.id, timeout_s)
            cursor = self._cursor(None, limit, follow=True, claims=True)
            cursor.next = collected.next_offset
            async with aclosing(self._http.followed(cursor)) as chunks:
                async for chunk in chunks:
                    collected.add((chunk,))
            self.info = cursor.info
            with suppress(NotFound):  # it has ended long ago
                await self.refresh()
            return collected.result(self.info)

    def _result(self, collected: Collected, info: Exec) -> RunResult:
        """The result of a command that has ended, with what `info` brings of its output."""
        collected.add(chunks_of(info))
        return collected.result(info, was_read=self._was_read)

    async def _post(self, what: Literal["signal", "resize"], **body: object) -> Exec:
        # A size sent twice is the same size; a signal sent twice is two signals.
        return await self._ask(Call("POST", self._path(what), body=body, safe=what == "resize"))

    def _stdin_call(self, *, eof: bool) -> Call:
        params = {"eof": "true"} if eof else {}
        headers = {"Content-Type": "application/octet-stream"}
        return Call("POST", self._path("stdin"), params=params, headers=headers, wait_s=TAKING_S)

    def _cursor(self, since: int | None, limit: Limit, *, follow: bool, claims: bool) -> Cursor:
        call_from = partial(self._output_call, follow, claims)
        return Cursor(self.info, since, self._http.config.retry_s, call_from, follow=follow, limit=limit)

    def _output_call(self, follow: bool, claims: bool, since: int) -> Call:
        params = {"since": since, "follow": follow, "wait_for_reader": claims}
        return Call.get(self._path("output"), params)

    async def _get(self, wait_s: float | None) -> Exec:
        params: Params = {} if wait_s is None else {"wait": wait_s, "chunks": True}
        return await self._ask(Call.get(self._path(), params, wait_s or 0.0))

    async def _ask(self, call: Call) -> Exec:
        self.info = await self._http.one(Exec, call)
        return self.info

    def _path(self, *rest: str) -> str:
        return super()._path("execs", self.id, *rest)


class _Feeding:
    """Sends a command its input while another task reads its output. `failure` is the error that ended it."""

    def __init__(self, proc: AsyncProc, stdin: str | bytes) -> None:
        self._proc = proc
        self._stdin = stdin
        self.failure: BayError | None = None

    async def run(self) -> None:
        """Give all of it, and the end."""
        try:
            await self._proc.write(self._stdin)
            await self._proc.close_stdin()
        except (Conflict, NotFound):
            return  # it has ended, or has closed its input
        except BayError as error:
            self.failure = error
            with suppress(BayError):
                await self._proc.kill()  # it would wait for the rest for ever


def _pieces(data: bytes) -> Body:
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), FRAME_BYTES):
            yield data[start : start + FRAME_BYTES]

    return pieces


class AsyncExecs(AsyncSandboxNoun):
    """The commands of one sandbox."""

    _noun = ("execs",)

    async def get(self, exec_id: str) -> AsyncProc:
        """The command with that id. Raises NotFound 10 minutes after its end."""
        return self._proc(await self._http.one(Exec, Call.get(self._path(exec_id))))

    async def list(self) -> AsyncIterator[AsyncProc]:
        """All of them, page by page as they are taken."""
        async for info in self._http.paged(Exec, self._path(), {}):
            yield self._proc(info)

    async def spawn(self, command: str | Sequence[str], **options: Unpack[SpawnOptions]) -> AsyncProc:
        """Start a command and return at once; see `SpawnOptions`, and `AsyncBox.run` for the rest.

        When the call is cancelled the command is ended, since it has no other owner.
        """
        exec_id = new_id("exec")
        async with self._ended_when_given_up(exec_id):
            info = await self._start(spawn_body(command, options), exec_id, None)
        return self._proc(info, Collected())

    async def run(
        self,
        command: str | Sequence[str],
        stdin: str | bytes | None,
        collected: Collected,
        exec_id: str | None = None,
        **options: object,
    ) -> RunResult:
        """Start a command and wait for its end.

        It takes one request when it ends within a wait slice, with little output. When the caller gives up,
        the command is ended.
        """
        limit = options.get("timeout_s")
        limit_s = limit + GRACE_S if isinstance(limit, int | float) else None
        exec_id = exec_id or new_id("exec")
        if stdin is not None and len(stdin) > STDIN_BYTES:
            return await self._run_fed(command, stdin, collected, limit_s, exec_id, options)
        body = exec_body(command, stdin, wait_for_reader=True, **options)
        async with self._ended_when_given_up(exec_id):
            info = await self._start(body, exec_id, wait_slice(limit_s))
            if info.state != "running":
                collected.add(chunks_of(info))
                return collected.result(info)
            return await self._proc(info, collected).wait(limit_s)

    async def _run_fed(
        self,
        command: str | Sequence[str],
        stdin: str | bytes,
        collected: Collected,
        limit_s: float | None,
        exec_id: str,
        options: Mapping[str, object],
    ) -> RunResult:
        """The same with more input than a start carries: it is fed while the output is read."""
        body = exec_body(command, None, wait_for_reader=True, stdin_open=True, **options)
        async with self._ended_when_given_up(exec_id):
            info = await self._start(body, exec_id, None)
            feeding = _Feeding(self._proc(info), stdin)
            async with async_beside(feeding.run):
                result = await self._proc(info, collected).wait(limit_s)
        if feeding.failure is not None:
            raise feeding.failure
        return result

    @asynccontextmanager
    async def _ended_when_given_up(self, exec_id: str) -> AsyncGenerator[None, None]:
        """End the command of a caller who is cancelled or interrupted within."""
        try:
            yield
        except Exception:
            raise
        except BaseException:
            with async_cleanup(), suppress(BayError):
                await self.end(exec_id)
            raise

    async def end(self, exec_id: str) -> None:
        """End a command by its id, and all it started; also one that is starting just now. Again is no error.

        Raises NotFound when it does not start within some seconds.
        """
        call = Call("DELETE", self._path(exec_id), safe=True, wait_s=GRACE_S)
        until = time.monotonic() + ENDING_S
        while True:
            try:
                await self._http.json(call)
                return
            except NotFound:
                if time.monotonic() > until:
                    raise
                await async_sleep(ENDING_S / 20)

    async def _start(self, body: Json, exec_id: str, wait_s: float | None) -> Exec:
        # The id is ours and is the idempotency key too, so sending the start twice cannot run the command
        # twice.
        params = {} if wait_s is None else {"wait": wait_s, "chunks": True}
        body = {**body, "id": exec_id}
        call = Call.once(self._path(), body, exec_id, params=params, wait_s=wait_s or 0.0)
        try:
            return await self._http.one(Exec, call)
        except Conflict as conflict:
            return await self._already_started(exec_id, conflict)

    async def _already_started(self, exec_id: str, conflict: Conflict) -> Exec:
        """The exec whose first answer was lost; raises `conflict` when that is not what it meant."""
        try:
            return (await self.get(exec_id)).info
        except NotFound:
            raise conflict from None

    def _proc(self, info: Exec, collected: Collected | None = None) -> AsyncProc:
        return AsyncProc(self._http, self._sandbox_id, info, collected)
