"""The process of a kernel: started, listened to, interrupted, and ended with its whole tree."""

import asyncio
import codecs
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Literal, cast

from ship.errors import Conflict
from ship.kernels.messages import Fields, LineSplitter, parse
from ship.process import trees
from ship.process.identity import Identity
from ship.process.init import Nursery, Program
from ship.process.interpreter import CLOSURE, SOURCES, own_interpreter
from ship.process.pipes import OutputPipe
from ship.wire import line

PYTHON, JAVASCRIPT = "python3", "javascript"

_LAST_WORDS_CHARS = 2000
_DYING_S = 0.5

Stream = Literal["stdout", "stderr"]


@dataclass(frozen=True, slots=True)
class ProcessListener:
    """Hears a process's messages, its other output, and its death (`died` gets a wait status)."""

    message: Callable[[Fields], None]
    printed: Callable[[Stream, str], None]
    died: Callable[[int], None]


@dataclass(frozen=True, slots=True)
class KernelCommand:
    """How a kernel is started. `mark` names its tree."""

    mark: str
    spec: str
    environment: Mapping[str, str]
    identity: Identity
    local: bool


class KernelProcess(asyncio.Protocol):
    """One process. `pid` is None before the start; `why_killed` is the reason if we have killed it."""

    def __init__(
        self, command: KernelCommand, identities: tuple[Identity, ...], listener: ProcessListener
    ) -> None:
        self.pid: int | None = None
        self.dead = False
        self.why_killed: str | None = None
        self._command = command
        self._identities = tuple(dict.fromkeys((*identities, command.identity)))
        self._listener = listener
        self._nursery: Nursery | None = None
        self._group: int | None = None
        self._lines = LineSplitter()
        self._transport: asyncio.Transport | None = None
        self._reaped = asyncio.Event()
        self._pipes: list[OutputPipe] = []
        self._last_words = ""

    @property
    def last_words(self) -> str:
        """The end of its stderr outside of messages."""
        return self._last_words.strip()

    @property
    def reads(self) -> bool:
        """Whether it has taken all that it was sent."""
        return self._transport is not None and self._transport.get_write_buffer_size() == 0

    async def start(self, nursery: Nursery, directory: int) -> None:
        """Start it. Raises Conflict when there is no room for it, or no interpreter."""
        self._nursery = nursery
        self._group = nursery.groups.take(self._command.identity)
        ours, theirs = socket.socketpair()
        with ExitStack() as undo, theirs:
            undo.callback(self._give_group_back)
            undo.callback(ours.close)
            pipes = [self._pipe(undo, "stdout"), self._pipe(undo, "stderr")]
            self.pid = await self._start_first(nursery, directory, theirs.fileno(), pipes)
            undo.pop_all()
        self._pipes = pipes
        for pipe in pipes:
            pipe.start()
        ours.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: self, sock=ours)

    async def _start_first(
        self, nursery: Nursery, directory: int, line: int, pipes: Sequence[OutputPipe]
    ) -> int:
        problem = "there is no Node" if self._command.spec == JAVASCRIPT else "there is no Python"
        for command in _commands(self._command):
            program = self._program(command, directory, line, *pipes)
            try:
                return await nursery.start(program, self._died)
            except OSError as error:
                problem = error.strerror
        raise Conflict(f"the kernel cannot be started: {problem}")

    def send(self, message: Mapping[str, object]) -> None:
        if self._transport is not None and not self.dead:
            self._transport.write(line(message))

    def drain(self) -> None:
        """Pass on the bytes in the pipes at this moment."""
        for pipe in self._pipes:
            pipe.drain()

    def interrupt(self) -> None:
        """SIGINT, to it and to the programs in its own process group, as a terminal would."""
        if self.pid is not None and not self._reaped.is_set():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGINT)

    def kill(self, why: str) -> None:
        """KILL the process itself; `died` follows. `why` is the reason."""
        if self.pid is not None and not self._reaped.is_set():
            self.why_killed = self.why_killed or why
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGKILL)

    async def end_tree(self) -> None:
        """End it and all that it started, at once."""
        if self._nursery is not None:
            async with self._nursery.standstill.acting():
                await self._end_members()
        self.dead = True
        if self._transport is not None:
            self._transport.abort()

    async def _end_members(self) -> None:
        kill_at = time.monotonic()
        # The whole tree is found before the first kill: an orphan with a cleared environment could not be
        # told from others.
        tree = trees.Tree(self._roots, self._command.mark, self._identities, self._group)
        if await tree.end(lambda: kill_at, polite=()):
            self._give_group_back()

    def data_received(self, data: bytes) -> None:
        """Output from before a message lies in the pipes by now, and comes first."""
        self.drain()
        for each in self._lines.feed(data):
            message = parse(each)
            if message is not None and not self.dead:
                self._listener.message(message)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """A kernel that has closed its channel is useless."""
        if not self.dead:
            # Later, since one that dies of something else closes it as well, a little before that is known.
            why = "closed its connection to Ship, and was killed"
            asyncio.get_running_loop().call_later(_DYING_S, self.kill, why)

    def _program(
        self, command: Sequence[str], directory: int, line: int, stdout: OutputPipe, stderr: OutputPipe
    ) -> Program:
        return Program(
            argv=command,
            environment=self._command.environment,
            identity=self._command.identity,
            directory=directory,
            stdin=line,
            stdout=stdout.writing_end,
            stderr=stderr.writing_end,
            group=self._group,
        )

    def _give_group_back(self) -> None:
        group, self._group = self._group, None
        if self._nursery is not None:
            self._nursery.groups.give_back(group)

    def _pipe(self, undo: ExitStack, stream: Stream) -> OutputPipe:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        pipe = OutputPipe(lambda data: self._printed(stream, decoder.decode(data)))
        undo.callback(pipe.abandon)
        return pipe

    def _printed(self, stream: Stream, text: str) -> None:
        if stream == "stderr":
            self._last_words = (self._last_words + text)[-_LAST_WORDS_CHARS:]
        if text:
            self._listener.printed(stream, text)

    def _died(self, status: int) -> None:
        self._reaped.set()
        for pipe in self._pipes:
            pipe.finish()
        # Its last message may lie in the socket still: a turn of the loop reads it.
        asyncio.get_running_loop().call_later(0.01, self._gone, status)

    def _gone(self, status: int) -> None:
        self.dead = True
        self._listener.died(status)

    def _roots(self) -> set[int]:
        return set() if self.pid is None or self._reaped.is_set() else {self.pid}


def _commands(command: KernelCommand) -> list[list[str]]:
    """How it can be started, the best way first."""
    home = _home()
    boot = os.path.join(home, "ship_kernel/boot.py")
    own = own_interpreter(command.local)
    if command.spec == JAVASCRIPT:
        node = find_node(command.identity, command.environment.get("PATH", ""))
        return [] if node is None else [[node, os.path.join(home, "ship_kernel/node.js")]]
    if command.spec != PYTHON:
        return [[*own, boot, home, f"jupyter:{command.spec}"]]
    with command.identity.using_files():
        found = None if command.local else _find("python3", command.environment.get("PATH", ""))
    image = [] if found is None else [[found, boot, home, "python", *own]]
    return [*image, [*own, boot, home, "python"]]


def find_node(identity: Identity, path: str) -> str | None:
    """Node, as the user finds it in PATH."""
    with identity.using_files():
        return _find("node", path)


def _home() -> str:
    bundled = os.path.join(CLOSURE, "kernel")
    return bundled if os.path.isdir(bundled) else SOURCES


def _find(name: str, path: str) -> str | None:
    folders = [folder for folder in path.split(":") if folder.startswith("/")]
    candidates = (os.path.join(folder, name) for folder in folders)
    # With effective ids: by the real ones root may run everything.
    return next((found for found in candidates if os.access(found, os.X_OK, effective_ids=True)), None)
