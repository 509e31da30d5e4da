"""Watches a directory tree and sends its changes to a peer by WebSocket.

inotify watches single directories. So each new one gets a watch, and is listed once it has it: an entry that
appeared in between is reported as created. Events are taken one after another, and wait in the kernel's queue
while a new directory is listed; so none is of an unknown directory. An entry that was both listed and
reported is sent once.

Nothing here may wait for the peer: it has a queue of bounded length, and when that is full it gets `overflow`
in place of its content. The same is sent when the kernel's queue was full, and when there are more
directories than may be watched.
"""

import asyncio
import errno
import json
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ship.errors import Conflict, ShipError
from ship.files import inotify
from ship.files.info import as_utf8
from ship.files.inotify import Event, Inotify
from ship.files.listing import open_below
from ship.files.sandbox_paths import Everywhere, MadeUp
from ship.files.temporaries import is_temporary, kind_of
from ship.files.workspace import FileThreads
from ship.http.connection import PeerGone
from ship.http.websocket import Closing, WebSocket
from ship.waiting import readable
from ship_protocol import CloseCode
from tree_tar.beneath import closing, open_beneath

_MAX_WATCHERS = 32
_MAX_DIRECTORIES = 32_768
_MAX_FOUND = 10_000
_MAX_QUEUED = 4096
_DEEPEST = 256
_MOVE_S = 0.05
_MAX_MOVES = 1024
_SENT_AT_ONCE = 64
_OPEN_TOP = os.O_RDONLY | os.O_DIRECTORY

Told = dict[str, object]
_OVERFLOW: Told = {"type": "overflow"}
_CONTENT = {"upload": "new", "upload-over": "replaced"}
"""The word for a file that Ship put in place whole, by the kind of its temporary name."""
_CODES = {
    400: CloseCode.BAD_MESSAGE,
    403: CloseCode.FORBIDDEN,
    404: CloseCode.NOT_FOUND,
    409: CloseCode.CONFLICT,
}


@dataclass(slots=True, eq=False)
class _Directory:
    """A directory with a watch. `new` are the names found in it that an event may still tell of."""

    watch: int
    name: str
    above: "_Directory | None"
    below: dict[str, "_Directory"] = field(default_factory=dict[str, "_Directory"])
    new: set[str] = field(default_factory=set[str])

    def parts(self) -> list[str]:
        """The names on the way down to it."""
        parts: list[str] = []
        here = self
        while here.above is not None:
            parts.append(here.name)
            here = here.above
        return parts[::-1]


@dataclass(slots=True)
class _Found:
    """The listing of a new directory: a watch for each directory and the other entries, by path parts."""

    watches: list[tuple[tuple[str, ...], int]] = field(default_factory=list[tuple[tuple[str, ...], int]])
    entries: list[tuple[tuple[str, ...], str, bool]] = field(
        default_factory=list[tuple[tuple[str, ...], str, bool]]
    )
    incomplete: bool = False


@dataclass(frozen=True, slots=True)
class _Leaving:
    """The first half of a move."""

    directory: _Directory
    event: Event
    until: float


class _Outbox:
    """Events that were not sent to the peer yet."""

    def __init__(self) -> None:
        self._waiting: deque[Told] = deque()
        self._changed = asyncio.Event()

    def put(self, told: Told) -> None:
        """Add it; a repetition of the one before is left out."""
        if self._waiting and self._waiting[-1] == told:
            return
        if len(self._waiting) >= _MAX_QUEUED:
            self._waiting.clear()
            self._waiting.append(_OVERFLOW)
        self._waiting.append(told)
        self._changed.set()

    async def wait(self) -> None:
        """Return when there is one."""
        while not self._waiting:
            self._changed.clear()
            await self._changed.wait()

    def take(self, most: int) -> list[Told]:
        """The next few, or all that is left."""
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), most))]

    def put_back(self, taken: list[Told]) -> None:
        """Have them come first again."""
        self._waiting.extendleft(reversed(taken))


class _Gone(Exception):
    """The watched path was removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOrder:
    """The path to watch, as the user whom `threads` are of. With `sizes` events have those of files."""

    path: str
    threads: FileThreads
    recursive: bool
    sizes: bool


class Watchers:
    def __init__(self, space: Everywhere) -> None:
        self._space = space
        self._count = 0

    async def check(self, wanted: WatchOrder) -> None:
        """Whether one more could watch that. Raises ShipError."""
        self._check_room()
        await wanted.threads.run(_Top, self._space, wanted.path)

    async def serve(self, socket: WebSocket, wanted: WatchOrder) -> None:
        """Tell the peer until one of the two has had enough."""
        end = Closing(CloseCode.NORMAL, "")
        try:
            with self._place():
                await self._serve(socket, wanted)
        except Closing as found:
            end = found
        except PeerGone:
            return
        except ShipError as error:
            end = Closing(_CODES.get(error.status, CloseCode.SHIP_FAILED), error.message)
        await socket.close(end.code, end.reason)

    async def _serve(self, socket: WebSocket, wanted: WatchOrder) -> None:
        top = await wanted.threads.run(_Top, self._space, wanted.path)
        try:
            events = Inotify()
        except OSError as error:
            problem = "the sandbox has no inotify instance left (fs.inotify.max_user_instances)"
            raise Conflict(problem) from error
        try:
            await _Watcher(socket, wanted, top, events).run()
        finally:
            asyncio.get_running_loop().remove_reader(events.descriptor)
            events.close()

    @contextmanager
    def _place(self) -> Generator[None]:
        self._check_room()
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    def _check_room(self) -> None:
        if self._count >= _MAX_WATCHERS:
            problem = f"{_MAX_WATCHERS} watches are open, the limit; close one first"
            raise Conflict(problem, limit=_MAX_WATCHERS)


class _Top:
    """The watched path: a directory, or one name (`only`) in it. Blocks; raises ShipError when it does not
    exist.

    It is opened anew each time, since the kernel does not tell of the end of a directory that anybody holds
    open. That it is the same one is known by its number, which no other gets as long as it is watched.
    """

    def __init__(self, space: Everywhere, path: str) -> None:
        self.only: str | None = None
        self._space = space
        self._path = path + "/."
        with space.translated(path):
            try:
                descriptor = space.open(self._path, _OPEN_TOP)
            except NotADirectoryError:
                os.close(space.open(path, os.O_PATH))  # it must be there
                self.only = os.path.basename(path)
                self._path = os.path.dirname(path) + "/."
                descriptor = space.open(self._path, _OPEN_TOP)
        self._identity = _identity(descriptor)
        os.close(descriptor)

    def open(self) -> int:
        """A descriptor of the directory. Raises OSError when it was removed."""
        descriptor = self._space.open(self._path, _OPEN_TOP)
        if _identity(descriptor) != self._identity:
            os.close(descriptor)
            raise FileNotFoundError(self._path)
        return descriptor

    def with_size(self, told: Told) -> Told:
        """The same with the size that a file has now; without for one that is gone, and for all else."""
        path = told.get("to", told.get("path"))
        if not isinstance(path, str) or told.get("is_dir") is not False or told["type"] == "deleted":
            return told
        try:
            descriptor = self._space.open(path, os.O_PATH | os.O_NOFOLLOW)
        except (OSError, ShipError):
            return told
        with closing(descriptor):
            facts = os.fstat(descriptor)
        return told | {"size": facts.st_size} if stat.S_ISREG(facts.st_mode) else told


class _Watcher:
    """One that watches a directory, or one name in it."""

    def __init__(self, socket: WebSocket, wanted: WatchOrder, top: _Top, events: Inotify) -> None:
        self._socket = socket
        path = self._path = wanted.path
        only = self._only = top.only
        self._base = path[: -len(only)] if only else path.rstrip("/") + "/"
        self._top = top
        self._events = events
        self._threads = wanted.threads
        self._sizes = wanted.sizes
        self._recursive = wanted.recursive and only is None
        self._directories: dict[int, _Directory] = {}
        self._root: _Directory | None = None
        self._leaving: dict[int, _Leaving] = {}
        self._fresh: set[_Directory] = set()
        self._put_in_place: tuple[_Directory, str, str] | None = None
        """The name that Ship's last move gave a file, and the one that it had before."""
        self._outbox = _Outbox()

    async def run(self) -> None:
        """Watch until the peer leaves or the path is removed. Raises Closing, PeerGone or ShipError."""
        found = await self._threads.run(
            _look_through, self._events, self._top, (), self._room(), self._recursive
        )
        if not found.watches:
            raise Conflict("the sandbox has no inotify watch left (fs.inotify.max_user_watches)")
        self._take_in(None, "", found, tell=False)
        await self._socket.send_text(json.dumps({"type": "watching", "path": as_utf8(self._path)}))
        if found.incomplete:
            self._outbox.put(_OVERFLOW)
        tasks = [asyncio.ensure_future(part) for part in (self._follow(), self._send(), self._listen())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()
        except _Gone:
            await self._stop(tasks)
            await self._send_some(_MAX_QUEUED + 1)
        finally:
            await self._stop(tasks)

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        async for message in self._socket.messages():
            if isinstance(message, str | bytes):
                raise Closing(CloseCode.BAD_MESSAGE, "a watch accepts no messages")

    async def _send(self) -> None:
        while True:
            await self._outbox.wait()
            await self._send_some()

    async def _send_some(self, most: int = _SENT_AT_ONCE) -> None:
        batch = self._outbox.take(most)
        for told in await self._with_sizes(batch) if self._sizes else batch:
            await self._socket.send_text(json.dumps(told))

    async def _with_sizes(self, batch: list[Told]) -> list[Told]:
        try:
            return await self._threads.run(lambda: [self._top.with_size(told) for told in batch])
        except asyncio.CancelledError:
            self._outbox.put_back(batch)  # the path was removed: all that is left is told still
            raise

    async def _follow(self) -> None:
        """Take events as they come. Raises _Gone."""
        while True:
            events = self._events.read()
            for event in events:
                await self._take(event)
            self._give_up_moves(self._is_over)
            if not events:
                # Nothing is waiting that could tell of them again.
                for directory in self._fresh:
                    directory.new.clear()
                self._fresh.clear()
                until = min((half.until for half in self._leaving.values()), default=None)
                left_s = None if until is None else max(0.0, until - time.monotonic())
                await readable(self._events.descriptor, left_s)
            else:
                await asyncio.sleep(0)  # others have their turn

    async def _take(self, event: Event) -> None:
        if event.mask & inotify.Q_OVERFLOW:
            await self._begin_anew()
            return
        directory = self._directories.get(event.watch)
        if directory is None:
            return
        if directory is self._root and not event.name:
            self._take_of_root(event)
        elif event.name and (self._only is None or event.name == self._only):
            await self._take_of_entry(directory, event)

    def _take_of_root(self, event: Event) -> None:
        if event.mask & (inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.UNMOUNT | inotify.IGNORED):
            self._outbox.put({"type": "deleted", "path": as_utf8(self._path), "is_dir": self._only is None})
            raise _Gone
        if event.mask & inotify.ATTRIB and self._only is None:
            self._outbox.put({"type": "attributes", "path": as_utf8(self._path), "is_dir": True})

    async def _take_of_entry(self, directory: _Directory, event: Event) -> None:
        mask, is_directory = event.mask, bool(event.mask & inotify.ISDIR)
        if mask & inotify.MOVED_TO and (half := self._leaving.pop(event.cookie, None)):
            await self._took_place(half, directory, event)
            return
        self._give_up_moves(lambda half: half.directory is directory and half.event.name == event.name)
        if is_temporary(event.name) and not mask & inotify.MOVED_FROM:
            return
        if mask & inotify.MOVED_FROM:
            directory.new.discard(event.name)
            self._leaving[event.cookie] = _Leaving(directory, event, time.monotonic() + _MOVE_S)
        elif mask & (inotify.CREATE | inotify.MOVED_TO):
            await self._appeared(directory, event.name, is_directory)
        elif mask & inotify.DELETE:
            directory.new.discard(event.name)
            self._tell("deleted", directory, event.name, is_directory)
            self._forget(directory, event.name)
        elif mask & inotify.MODIFY:
            self._tell("modified", directory, event.name, is_directory)
        elif mask & inotify.ATTRIB:
            self._tell("attributes", directory, event.name, is_directory)

    async def _appeared(
        self, directory: _Directory, name: str, is_directory: bool, content: str | None = None
    ) -> None:
        if name in directory.new:
            directory.new.discard(name)
            return
        self._tell("created", directory, name, is_directory, content)
        if is_directory and self._recursive:
            await self._look_into(directory, name)

    async def _look_into(self, directory: _Directory, name: str) -> None:
        way = (*directory.parts(), name)
        found = await self._threads.run(_look_through, self._events, self._top, way, self._room(), True)
        self._take_in(directory, name, found, tell=True)
        if found.incomplete:
            self._outbox.put(_OVERFLOW)

    def _take_in(self, above: _Directory | None, name: str, found: _Found, *, tell: bool) -> None:
        """Enter the new directories; with `tell` say what was in them already."""
        known: dict[tuple[str, ...], _Directory] = {}
        for way, watch in found.watches:
            over = known.get(way[:-1]) if way else above
            known[way] = self._enter(watch, way[-1] if way else name, over)
        if tell:
            for way, entry, is_directory in found.entries:
                directory = known[way]
                directory.new.add(entry)
                self._fresh.add(directory)
                self._tell("created", directory, entry, is_directory)

    def _enter(self, watch: int, name: str, above: _Directory | None) -> _Directory:
        directory = self._directories.get(watch)
        if directory is None:
            directory = self._directories[watch] = _Directory(watch, name, above)
        elif directory.above is not None:
            directory.above.below.pop(directory.name, None)  # it has moved since
        if above is None:
            self._root = directory
        else:
            directory.name, directory.above = name, above
            above.below[name] = directory
        return directory

    async def _took_place(self, half: _Leaving, directory: _Directory, event: Event) -> None:
        """A move, without the temporary names of Ship's own work."""
        hidden = is_temporary(half.event.name)
        if not hidden and not is_temporary(event.name):
            await self._moved(half, directory, event)
        elif hidden and not is_temporary(event.name):
            self._put_in_place = directory, event.name, half.event.name
            self._forget(directory, event.name)  # the replaced file
            content = _CONTENT.get(kind_of(half.event.name) or "")
            await self._appeared(directory, event.name, bool(event.mask & inotify.ISDIR), content)
        elif self._put_in_place != (half.directory, half.event.name, event.name):
            self._left(half)
        # else the two were exchanged, and the first half of that has said so

    async def _moved(self, half: _Leaving, directory: _Directory, event: Event) -> None:
        is_directory = bool(event.mask & inotify.ISDIR)
        self._forget(directory, event.name)  # the replaced file
        directory.new.discard(event.name)
        self._outbox.put({
            "type": "moved",
            "path": self._shown(half.directory, half.event.name),
            "to": self._shown(directory, event.name),
            "is_dir": is_directory,
        })  # fmt: skip
        moved = half.directory.below.pop(half.event.name, None)
        if moved is not None:
            moved.name, moved.above = event.name, directory
            directory.below[event.name] = moved
        elif is_directory and self._recursive:
            await self._look_into(directory, event.name)

    def _is_over(self, half: _Leaving) -> bool:
        return half.until <= time.monotonic() or len(self._leaving) > _MAX_MOVES

    def _give_up_moves(self, is_over: Callable[[_Leaving], bool]) -> None:
        for cookie, half in list(self._leaving.items()):
            if is_over(half):
                self._left(self._leaving.pop(cookie))

    def _left(self, half: _Leaving) -> None:
        """It has moved out of what is watched."""
        if not is_temporary(half.event.name):
            self._tell("deleted", half.directory, half.event.name, bool(half.event.mask & inotify.ISDIR))
        self._forget(half.directory, half.event.name)

    def _forget(self, above: _Directory, name: str) -> None:
        gone = above.below.pop(name, None)
        pending = [] if gone is None else [gone]
        while pending:
            directory = pending.pop()
            pending += directory.below.values()
            self._directories.pop(directory.watch, None)
            self._fresh.discard(directory)
            self._events.remove(directory.watch)

    async def _begin_anew(self) -> None:
        """Events were lost, so directories may have come unseen."""
        root = self._root
        self._leaving.clear()
        self._outbox.put(_OVERFLOW)
        if root is None or not self._recursive:
            return
        for name in list(root.below):
            self._forget(root, name)
        found = await self._threads.run(_look_through, self._events, self._top, (), self._room(), True)
        self._take_in(None, "", found, tell=False)
        if not found.watches:
            self._take_of_root(Event(root.watch, inotify.DELETE_SELF, 0, ""))

    def _room(self) -> int:
        return _MAX_DIRECTORIES - len(self._directories)

    def _tell(
        self, kind: str, directory: _Directory, name: str, is_directory: bool, content: str | None = None
    ) -> None:
        told: Told = {"type": kind, "path": self._shown(directory, name), "is_dir": is_directory}
        self._outbox.put(told if content is None else told | {"content": content})

    def _shown(self, directory: _Directory, name: str) -> str:
        return as_utf8(self._base + "/".join((*directory.parts(), name)))


def _identity(descriptor: int) -> tuple[int, int]:
    facts = os.fstat(descriptor)
    return facts.st_dev, facts.st_ino


def _look_through(events: Inotify, top: _Top, way: tuple[str, ...], room: int, recursive: bool) -> _Found:
    """Watch the directory `way` below `top` and all in it, and list what is in them."""
    found = _Found()
    try:
        with closing(top.open()) as found_top:
            directory = open_beneath(found_top, way, open_below)
    except (OSError, ShipError):
        return found  # it was removed or replaced by now, which is the next event
    with closing(directory):
        _Look(events, found, room, recursive).run(directory, (), len(way))
    return found


class _Look:
    def __init__(self, events: Inotify, found: _Found, room: int, recursive: bool) -> None:
        self._events = events
        self._found = found
        self._room = room
        self._recursive = recursive

    def run(self, directory: int, way: tuple[str, ...], depth: int) -> None:
        if not self._watch(directory, way) or not self._recursive:
            return
        try:
            # btrfs lists what was there when the directory was opened; this makes it what is there now that
            # it is watched.
            os.lseek(directory, 0, os.SEEK_SET)
            with os.scandir(directory) as scan:
                entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan]
        except OSError:
            return
        for name, is_directory in entries:
            if is_temporary(name):
                continue
            if len(self._found.entries) < _MAX_FOUND:
                self._found.entries.append((way, name, is_directory))
            if is_directory:
                self._descend(directory, (*way, name), depth + 1)

    def _descend(self, above: int, way: tuple[str, ...], depth: int) -> None:
        if depth > _DEEPEST or len(self._found.watches) >= self._room:
            self._found.incomplete = True
            return
        try:
            directory = open_below(above, way[-1])
        except (OSError, MadeUp):
            return  # gone, not for this user to read, or made up by the kernel
        with closing(directory):
            self.run(directory, way, depth)

    def _watch(self, directory: int, way: tuple[str, ...]) -> bool:
        try:
            self._found.watches.append((way, self._events.add(directory)))
        except OSError as error:
            self._found.incomplete = self._found.incomplete or error.errno == errno.ENOSPC
            return False
        return True
