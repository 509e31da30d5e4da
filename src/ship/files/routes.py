"""The routes of all files of the sandbox: parse, one call in a file thread, answer."""

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from functools import partial

from ship.errors import InvalidArgument, NotFound
from ship.files import edits, info, moving
from ship.files.actors import Actors
from ship.files.attributes import read_attributes
from ship.files.byte_ranges import Reading, Wanted
from ship.files.globs import Glob
from ship.files.listing import Listing
from ship.files.owners import change_owners, read_owners
from ship.files.sandbox_paths import Everywhere
from ship.files.workspace import FileThreads, Upload
from ship.files.workspace_paths import Workspace
from ship.http.conversation import Answer, Handler, Reply, Request, json_answer
from ship.wire import line
from ship_protocol import FILE_HEADER, LISTED_DEPTH, LISTED_ENTRIES

_EDIT_BODY_BYTES = 2 * edits.MAX_EDITED_BYTES + (1 << 20)
_BLOCK_BYTES = 1 << 20
_LIST_BYTES = 64 << 10
_LIST_S = 0.05
_BEAT_S = 5.0
_TIME_LIMIT = 1 << 33  # seconds since the epoch; file systems can express little more


class FileRoutes:
    """Serves `/fs/…` to the host: any path, opened as the sandbox's user, or the one that the query names;
    `beneath`: the workspace's; `home`: relative paths begin at the user's home.
    """

    def __init__(
        self,
        space: Everywhere,
        workspace: Workspace,
        actors: Actors,
        trees: Mapping[tuple[str, tuple[str, ...]], Handler] | None = None,
    ) -> None:
        self._space = space
        self._workspace = workspace
        self._actors = actors
        self._fixed: dict[tuple[str, tuple[str, ...]], Handler] = {
            ("GET", ("content",)): self._read,
            ("PUT", ("content",)): self._write,
            ("GET", ("stat",)): self._stat,
            ("GET", ("list",)): self._list,
            ("POST", ("move",)): partial(self._carry, moving.move),
            ("POST", ("copy",)): partial(self._carry, moving.copy),
            ("POST", ("mkdir",)): self._make_directory,
            ("POST", ("chmod",)): self._change_mode,
            ("POST", ("chown",)): self._change_owners,
            ("POST", ("edit",)): self._edit,
            ("DELETE", ()): self._delete,
            **(trees or {}),
        }

    async def answer(self, request: Request) -> Reply:
        """Raises ShipError."""
        handler = self._fixed.get((request.method, request.segments[1:]))
        if handler is None:
            raise NotFound("there is no such route")
        if request.method == "POST" and "beneath" in request.query:  # else its paths would not be confined
            problem = "this call takes any path of the sandbox; it has no beneath"
            raise InvalidArgument(problem, field="beneath")
        return await handler(request)

    async def _read(self, request: Request) -> Answer:
        threads, path = self._place(request, request.query.get("path", ""))
        reading = Reading(self._space_of(request), path, _wanted(request))
        try:
            part, data = await threads.run(reading.open)
        except BaseException:
            reading.close()
            raise
        headers = ((FILE_HEADER, json.dumps(part.to_wire())),)
        if len(data) == part.length:
            reading.close()
            return Answer(200, data, "application/octet-stream", headers=headers)
        blocks = _blocks(threads, reading, data)
        return Answer(200, blocks, "application/octet-stream", part.length, headers, closed(reading))

    async def _write(self, request: Request) -> Answer:
        space = self._space_of(request)
        threads, path = self._place(request, request.query.get("path", ""))
        upload = Upload(
            space,
            path,
            mode=_mode(request.query["mode"]) if "mode" in request.query else None,
            mtime=_moment(request.query["mtime"]) if "mtime" in request.query else None,
            make=request.flag("mkdir", default=True),
            attributes=read_attributes(request.query.get("attributes", "{}")),
        )
        try:
            await threads.change(upload.open)
            async for block in _collected(request):
                await threads.change(upload.write, block)
            written = await threads.change(upload.commit)
        finally:
            await threads.change(upload.close)
        return json_answer(200, written)

    async def _stat(self, request: Request) -> Answer:
        follow, space = request.flag("follow", default=True), self._space_of(request)
        threads, given = self._place(request, request.query.get("path", ""))
        path, closely = space.check(given), request.flag("closely")

        def look() -> dict[str, object]:
            with space.translated(path):
                if closely:
                    return info.look_closely(space, path, self._actors.accounts)
                return info.look(space, path, follow=follow)

        return json_answer(200, await threads.run(look))

    async def _list(self, request: Request) -> Answer:
        glob = request.query.get("glob")
        threads, path = self._place(request, request.query.get("path", "."))
        listing = Listing(
            self._space_of(request),
            path,
            depth=number(request, "depth", 1, LISTED_DEPTH),
            glob=Glob(glob) if glob is not None else None,
            limit=number(request, "limit", 10_000, LISTED_ENTRIES),
            follow=request.flag("follow"),
            directories_first=request.flag("directories_first"),
            closely=self._actors.accounts if request.flag("closely") else None,
        )
        try:
            await threads.run(listing.open)
        except BaseException:
            listing.close()
            raise
        return Answer(200, _lines(threads, listing), "application/x-ndjson", close=closed(listing))

    async def _carry(self, how: Callable[..., moving.Steps], request: Request) -> Answer:
        given = await request.read_object()
        threads, source = self._place(request, text(given, "source"))
        _, destination = self._place(request, text(given, "destination"))
        steps = how(self._space, source, destination, overwrite=boolean(given, "overwrite", default=False))
        return json_answer(200, await threads.run_steps(steps, request.gone))

    async def _make_directory(self, request: Request) -> Answer:
        given = await request.read_object()
        mode, parents = _mode(text(given, "mode", "0755")), boolean(given, "parents", default=True)
        threads, path = self._place(request, text(given, "path"))
        made = await threads.change(edits.make_directory, self._space, path, mode=mode, parents=parents)
        return json_answer(200, made)

    async def _change_mode(self, request: Request) -> Answer:
        given = await request.read_object()
        recursive = boolean(given, "recursive", default=False)
        threads, path = self._place(request, text(given, "path"))
        steps = edits.change_mode(self._space, path, _mode(text(given, "mode")), recursive=recursive)
        return json_answer(200, await threads.run_steps(steps, request.gone))

    async def _change_owners(self, request: Request) -> Answer:
        given = await request.read_object()
        recursive = boolean(given, "recursive", default=False)
        threads, path = self._place(request, text(given, "path"))
        wanted = read_owners(given.get("user"), given.get("group"), self._actors.accounts)
        steps = change_owners(self._space, path, wanted, recursive=recursive)
        return json_answer(200, await threads.run_steps(steps, request.gone))

    async def _delete(self, request: Request) -> Answer:
        space, gone = self._space_of(request), request.gone
        recursive = request.flag("recursive", default=True)
        threads, path = self._place(request, request.query.get("path", ""))
        await threads.change(edits.delete, space, path, gone.done, recursive=recursive)
        return json_answer(200, {"status": "ok"})

    async def _edit(self, request: Request) -> Answer:
        given = await request.read_object(_EDIT_BODY_BYTES)
        old = text(given, "old")
        if not old:
            raise InvalidArgument("old is empty; say what to replace", field="old")
        threads, path = self._place(request, text(given, "path"))
        replaced = await threads.change(
            edits.edit, self._space, path, old, text(given, "new"),
            everywhere=boolean(given, "all", default=False),
        )  # fmt: skip
        return json_answer(200, {"replaced": replaced})

    def _place(self, request: Request, path: str) -> tuple[FileThreads, str]:
        """The threads of the user whom the query names, and `path` as that user means it. ShipError."""
        actor = self._actors.of(request.query.get("user"))
        return actor.threads, actor.from_home(path) if path and request.flag("home") else path

    def _space_of(self, request: Request) -> Workspace:
        return self._workspace if request.flag("beneath") else self._space


def closed(what: Reading | Listing) -> Callable[[], Awaitable[None]]:
    """A callback that closes it, for an answer."""

    async def close() -> None:
        what.close()

    return close


def number(request: Request, name: str, default: int, most: int) -> int:
    """A whole number of the query, from 1 to `most`. Raises InvalidArgument."""
    given = request.query.get(name, str(default))
    if not given.isascii() or not given.isdigit() or len(given) > 9 or not 1 <= int(given) <= most:
        raise InvalidArgument(f"{name} must be a number from 1 to {most}", field=name)
    return int(given)


def text(given: Mapping[str, object], name: str, default: str | None = None) -> str:
    """A field that is a text. Raises InvalidArgument."""
    value = given.get(name, default)
    if not isinstance(value, str):
        raise InvalidArgument(f"{name} must be text", field=name)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{name} has an unpaired surrogate", field=name) from error
    return value


def boolean(given: Mapping[str, object], name: str, *, default: bool) -> bool:
    """A field that is true or false. Raises InvalidArgument."""
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise InvalidArgument(f"{name} must be true or false", field=name)
    return value


def _wanted(request: Request) -> Wanted:
    """The requested range: `first` and `last`, or the last `suffix` bytes; `if_range` is the file's state."""
    return Wanted(
        first=request.offset("first", "a number of bytes"),
        last=request.offset("last", "a number of bytes"),
        suffix=request.offset("suffix", "a number of bytes"),
        if_range=request.query.get("if_range"),
    )


def _mode(given: str) -> int:
    if not 1 <= len(given) <= 4 or not set(given) <= set("01234567"):
        raise InvalidArgument("mode must be up to four octal digits, such as 0644", field="mode")
    return int(given, 8)


def _moment(given: str) -> float:
    try:
        value = float(given)
    except ValueError:
        value = math.nan
    if not -_TIME_LIMIT < value < _TIME_LIMIT:  # NaN is not either
        raise InvalidArgument("mtime must be seconds since 1970", field="mtime")
    return value


async def _collected(request: Request) -> AsyncGenerator[bytes]:
    # A thread is asked for each block, so blocks are larger than what one read of the socket gives.
    parts: list[bytes] = []
    size = 0
    async for data in request.talk.body():
        parts.append(data)
        size += len(data)
        if size >= _BLOCK_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


async def _blocks(threads: FileThreads, reading: Reading, data: bytes) -> AsyncGenerator[bytes]:
    try:
        while data:
            # Read on while this block is on its way.
            following = asyncio.ensure_future(threads.run(reading.read))
            try:
                yield data
            finally:
                await asyncio.wait({following})
            data = following.result()
    finally:
        reading.close()


async def _lines(threads: FileThreads, listing: Listing) -> AsyncGenerator[bytes]:
    entries = listing.entries()
    said = time.monotonic()
    try:
        while (data := await threads.run(_next_lines, entries)) is not None:
            if data or time.monotonic() > said + _BEAT_S:
                said = time.monotonic()
                yield data or b"\n"  # a sign of life: the host waits for no silent peer
        yield line({"truncated": listing.truncated})
    finally:
        await threads.run(entries.close)
        listing.close()


def _next_lines(entries: Generator[dict[str, object] | None]) -> bytes | None:
    """Lines that are there soon; None at the end."""
    until = time.monotonic() + _LIST_S
    lines: list[bytes] = []
    size = 0
    while size < _LIST_BYTES and time.monotonic() < until:
        try:
            entry = next(entries)
        except StopIteration:
            return b"".join(lines) or None
        if entry is not None:
            lines.append(line(entry))
            size += len(lines[-1])
    return b"".join(lines)
