"""The routes of whole trees: search, watches and archives."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, nullcontext, suppress
from typing import cast

from ship.errors import Conflict, InvalidArgument, ShipError
from ship.files.actors import Actors
from ship.files.routes import number
from ship.files.sandbox_paths import Everywhere
from ship.files.tool_runs import Output, Place, Tool, ToolRuns
from ship.files.watching import Watchers, WatchOrder
from ship.files.workspace_paths import translate
from ship.http.conversation import Answer, Handler, Request, TruncatedAnswer, WebSocketUpgrade, json_answer
from tree_tar.beneath import closing

_SEARCHES = 3
_SEARCH_S = 30.0
_SOFT_SEARCH_S = 28.0
_FOUND_BYTES = 16 << 20
_MAX_FOUND = 10_000
_ARCHIVES = 8
_COPY_S = 3600.0
_MAX_UNPACKED = 64 << 30
_QUERY_CHARS = 4096
_MOST_MB = 999_999_999


class TreeRoutes:
    """Serves `/fs/search`, `/fs/watch`, `/fs/archive` and `/fs/checkpoint` to the host."""

    def __init__(self, space: Everywhere, actors: Actors, tools: ToolRuns, *, local: bool) -> None:
        self._space = space
        threads = actors.of(None).threads
        self._actors = actors
        self._threads = threads
        self._tools = tools
        self._floor = space.path if local else "/"
        self._watchers = Watchers(space)
        self._searching = asyncio.Semaphore(_SEARCHES)
        self._archives = 0
        self.handlers: dict[tuple[str, tuple[str, ...]], Handler] = {
            ("GET", ("search",)): self._search,
            ("GET", ("watch",)): self._watch,
            ("GET", ("archive",)): self._pack,
            ("PUT", ("archive",)): self._unpack,
            ("GET", ("checkpoint",)): self._checkpoint,
            ("PUT", ("checkpoint",)): self._restore,
        }

    async def _watch(self, request: Request) -> WebSocketUpgrade:
        path, actor = request.query.get("path", "."), self._actors.of(request.query.get("user"))
        wanted = WatchOrder(
            path=self._space.check(actor.from_home(path) if request.flag("home") else path),
            threads=actor.threads,
            recursive=request.flag("recursive", default=True),
            sizes=request.flag("sizes"),
        )
        if request.websocket_key is None:
            raise InvalidArgument("watching needs a WebSocket upgrade (RFC 6455)")
        await self._watchers.check(wanted)
        return WebSocketUpgrade(lambda socket: self._watchers.serve(socket, wanted))

    async def _search(self, request: Request) -> Answer:
        order = self._search_order(request)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._turn())
            place = await stack.enter_async_context(self._place(request.query.get("path", ".")))
            run = self._tools.run("search", order, place, request.gone, limit_s=_SEARCH_S)
            tool = await stack.enter_async_context(run)
            first = await tool.output.line()
            if first.startswith(b'{"error"'):
                raise _bad_search(first)
            held = stack.pop_all()
            return Answer(200, _found(held, tool, first), "application/x-ndjson", close=held.aclose)
        raise AssertionError("unreachable")

    def _search_order(self, request: Request) -> dict[str, object]:
        query, glob = request.query.get("query", ""), request.query.get("glob", "")
        if len(query) > _QUERY_CHARS or len(glob) > _QUERY_CHARS or "\0" in query + glob:
            raise InvalidArgument(f"query and glob may have at most {_QUERY_CHARS} characters and no NUL")
        if "\n" in query:
            raise InvalidArgument("query may not contain a newline", field="query")
        return {
            "base": self._space.check(request.query.get("path", ".")),
            "floor": self._floor,
            "glob": glob,
            "query": query,
            "regex": request.flag("regex"),
            "ignore_case": request.flag("ignore_case"),
            "hidden": request.flag("hidden"),
            "gitignore": request.flag("gitignore", default=True),
            "limit": number(request, "limit", 1000, _MAX_FOUND),
            "seconds": _SOFT_SEARCH_S,
        }

    async def _pack(self, request: Request) -> Answer:
        path = self._space.check(request.query.get("path", "."))
        order = {"format": _format(request), "name": os.path.basename(path)}
        async with AsyncExitStack() as stack:
            stack.enter_context(self._room_for_archive())
            place = await stack.enter_async_context(self._place(path))
            tool = await stack.enter_async_context(self._tools.run("pack", order, place, request.gone))
            _check_said(await tool.output.line(), path)
            kind = "application/gzip" if order["format"] == "tar.gz" else "application/x-tar"
            held = stack.pop_all()
            return Answer(200, _packed(held, tool), kind, close=held.aclose)
        raise AssertionError("unreachable")

    async def _unpack(self, request: Request) -> Answer:
        path = self._space.check(request.query.get("path", "."))
        order = {"format": _format(request), "most_bytes": _MAX_UNPACKED}
        gone = request.gone
        with self._room_for_archive():
            async with (
                self._place(path, make=True) as place,
                self._tools.run("unpack", order, place, gone, fed=True) as tool,
            ):
                await _feed(request, tool, gone)
                said = _check_said(await _line_unless(gone, tool.output), path)
        return json_answer(200, {"files": _count(said, "files"), "bytes": _count(said, "bytes")})

    async def _checkpoint(self, request: Request) -> Answer:
        return await self._whole(request, self._space.check(request.query.get("path", ".")), {})

    async def copy(self, request: Request) -> Answer:
        """The workspace as a checkpoint has it, in a standstill; the sandbox's own archives do not count."""
        return await self._whole(request, self._space.path, {"is_workspace": True}, still=True)

    async def _whole(
        self, request: Request, path: str, order: dict[str, object], *, still: bool = False
    ) -> Answer:
        async with AsyncExitStack() as stack:
            stack.enter_context(nullcontext() if still else self._room_for_archive())
            place = await stack.enter_async_context(self._place(path))
            run = self._tools.run(
                "checkpoint", order, place, request.gone, limit_s=_COPY_S, tidies=True, still=still
            )
            tool = await stack.enter_async_context(run)
            _check_said(await tool.output.line(), path)
            held = stack.pop_all()
            return Answer(200, _packed(held, tool), "application/x-tar", close=held.aclose)
        raise AssertionError("unreachable")

    async def _restore(self, request: Request) -> Answer:
        path = self._space.check(request.query.get("path", "."))
        order = {
            "most_bytes": number(request, "most_mb", _MOST_MB, _MOST_MB) << 20,
            "room_bytes": number(request, "room_mb", 1, _MOST_MB) << 20,
        }
        gone = request.gone
        with self._room_for_archive():
            async with (
                self._place(path) as place,
                self._tools.run("restore", order, place, gone, fed=True) as tool,
            ):
                await _feed(request, tool, gone)
                said = _check_said(await _line_unless(gone, tool.output), path)
        return json_answer(200, {"entries": _count(said, "entries")})

    @asynccontextmanager
    async def _place(self, path: str, *, make: bool = False) -> AsyncGenerator[Place]:
        path = self._space.check(path)
        run = self._threads.change if make else self._threads.run
        place = await run(_open_place, self._space, path, make=make)
        try:
            yield place
        finally:
            place.close()

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None]:
        try:
            async with asyncio.timeout(_SEARCH_S):
                await self._searching.acquire()
        except TimeoutError as error:
            raise Conflict(f"{_SEARCHES} searches are in progress, the limit; try again later") from error
        try:
            yield
        finally:
            self._searching.release()

    @contextmanager
    def _room_for_archive(self) -> Generator[None]:
        if self._archives == _ARCHIVES:
            problem = f"{_ARCHIVES} archives are in progress, the limit; try again later"
            raise Conflict(problem, limit=_ARCHIVES)
        self._archives += 1
        try:
            yield
        finally:
            self._archives -= 1


def _open_place(space: Everywhere, path: str, *, make: bool) -> Place:
    with space.translated(path):
        if make:
            os.close(space.open_parent(path + "/.", make=True))
        with closing(space.open(path, os.O_PATH)) as found:
            mode = os.fstat(found).st_mode
        if stat.S_ISDIR(mode):
            # The dot makes the kernel ask for the right to search the directory itself.
            return Place(space.open(path + "/.", os.O_PATH | os.O_DIRECTORY))
        if make or not stat.S_ISREG(mode):
            raise InvalidArgument("the path must be a directory or a regular file", field="path")
        return _open_file_place(space, path)


def _open_file_place(space: Everywhere, path: str) -> Place:
    file = space.open(path, os.O_RDONLY)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        problem = "the file was replaced and is not a regular file any more; try again"
        raise InvalidArgument(problem, field="path", reason="not_regular_file")
    return Place(os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), file)


async def _found(stack: AsyncExitStack, tool: Tool, first: bytes) -> AsyncGenerator[bytes]:
    """The matches a line each, and at last what was looked at."""
    counts = b""
    room = _FOUND_BYTES
    async with stack:
        async for lines in _whole_lines(tool.output, first):
            counts = next((line for line in reversed(lines) if line.startswith(b'{"files_')), counts)
            matches = b"".join(line + b"\n" for line in lines if line.startswith(b'{"path"'))
            room -= len(matches)
            if room < 0:
                break
            if matches:
                yield matches
        finished = room >= 0 and await tool.succeeded()
        yield _counts(counts, finished=finished) + b"\n"


async def _whole_lines(output: Output, first: bytes) -> AsyncGenerator[list[bytes]]:
    """Lines as they come. One that is broken off, since the tool was killed, is none."""
    rest = first + b"\n"
    while len(rest) < _FOUND_BYTES:
        whole, newline, rest = rest.rpartition(b"\n")
        if newline:
            yield whole.split(b"\n")
        if not (data := await output.read()):
            return
        rest += data


def _counts(line: bytes, *, finished: bool) -> bytes:
    said = _object(line)
    counts = {
        "files_searched": _count(said, "files_searched"),
        "files_skipped": _count(said, "files_skipped"),
        "truncated": said.get("truncated") is not False or not finished,
    }
    return json.dumps(counts).encode()


async def _packed(stack: AsyncExitStack, tool: Tool) -> AsyncGenerator[bytes]:
    async with stack:
        while data := await tool.output.read():
            yield data
        if not await tool.succeeded():
            raise TruncatedAnswer


async def _feed(request: Request, tool: Tool, gone: asyncio.Future[None]) -> None:
    if tool.given is None:
        return
    with suppress(Conflict):  # it has refused what it got, and says why
        async for data in request.talk.body():
            await tool.given.feed.write(data, gone)
        await tool.given.feed.end(gone)


async def _line_unless(gone: asyncio.Future[None], output: Output) -> bytes:
    line = asyncio.ensure_future(output.line())
    try:
        await asyncio.wait({line, gone}, return_when=asyncio.FIRST_COMPLETED)
        return line.result() if line.done() else b""
    finally:
        line.cancel()


def _check_said(line: bytes, path: str) -> dict[str, object]:
    """The first or last line of an archive's tool. Raises ShipError for its refusal."""
    said = _object(line)
    number, error = said.get("errno"), said.get("error")
    if isinstance(number, int) and isinstance(error, str):
        raise translate(OSError(number, error), error if error.startswith("'") else path)
    if isinstance(error, str):
        raise InvalidArgument(f"the archive is refused: {error[:1000]}")
    if not line:
        raise Conflict("the archiver was killed before it finished")
    return said


def _bad_search(line: bytes) -> ShipError:
    said = _object(line)
    field = "glob" if said.get("field") == "glob" else "query"
    return InvalidArgument(f"{field}: {str(said.get('error'))[:1000]}", field=field)


def _object(line: bytes) -> dict[str, object]:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, object]", said) if isinstance(said, dict) else {}


def _count(said: dict[str, object], name: str) -> int:
    value = said.get(name)
    return value if isinstance(value, int) and 0 <= value < 1 << 63 else 0


def _format(request: Request) -> str:
    found = request.query.get("format", "tar")
    if found not in ("tar", "tar.gz"):
        raise InvalidArgument("format must be tar or tar.gz", field="format")
    return found
