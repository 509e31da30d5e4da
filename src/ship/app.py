"""The application: Ship's two listeners, the life of the process, and its end."""

import asyncio
import contextlib
import os
import signal
import socket
import stat
import struct
from functools import partial
from selectors import BaseSelector, DefaultSelector
from typing import Any, NoReturn, Protocol

from ship import log
from ship import settings as settings_module
from ship.draining import Draining
from ship.execs.execs import Execs, ProcessContext
from ship.feed import SessionFeed
from ship.files import provisions
from ship.files.actors import Actors
from ship.files.routes import FileRoutes
from ship.files.sandbox_paths import Confined, Everywhere
from ship.files.tool_runs import ToolRuns
from ship.files.tree_routes import TreeRoutes
from ship.files.workspace import FileThreads
from ship.files.workspace_paths import Workspace
from ship.http.connection import Connection
from ship.http.conversation import Handler
from ship.http.door import Door
from ship.kernels.kernels import Kernels, default_order
from ship.kernels.routes import KernelRoutes
from ship.pausing import PauseRoutes
from ship.ports.ports import Ports
from ship.ports.routes import PortRoutes
from ship.ports.sock_diag import Netlink
from ship.process import own_account, syscalls
from ship.process.init import Nursery
from ship.process.signals import Signals
from ship.quiet import Quiet
from ship.routes import Routes, answer_inside
from ship.services.routes import ServiceRoutes
from ship.services.services import Services
from ship.settings import Settings
from ship.tasks import Tasks
from ship.writing_down import write_down

INSIDE_PORT = 8123

_MAX_CONNECTIONS = 2048  # with room beside all the requests to ports that Bay lets in
_MAX_INSIDE_CONNECTIONS = 32
_TERM_GRACE_S = 2.0
_SERVICES_GRACE_S = 2.0
_BACKLOG = 1024
_PEERCRED = struct.Struct("3i")


class Listener(Protocol):
    """A way by which Bay reaches Ship."""

    async def open(self, door: Door) -> None:
        """Serve connections at `door` from now on."""
        ...

    def may_ask(self, wire: Connection, /) -> bool:
        """Whether its peer is one that may ask, with the token."""
        ...

    def close(self) -> None:
        """Take no more connections."""
        ...

    def hide_from(self, ports: Ports) -> None:
        """Have it be none of the sandbox's ports."""
        ...

    def remove(self) -> None:
        """Leave nothing behind; the last call."""
        ...


class UnixListener:
    """A Unix socket, for the host alone."""

    def __init__(self, path: str, *, local: bool) -> None:
        self._path = path
        self._local = local
        self._server: asyncio.Server | None = None

    async def open(self, door: Door) -> None:
        """Make the socket, and serve it. Raises OSError."""
        loop = asyncio.get_running_loop()
        # create_unix_server() of Python 3.13 removes the path when it closes, which may be another's by then.
        self._server = await loop.create_server(door.accept, sock=_bind(self._path), backlog=_BACKLOG)

    def may_ask(self, wire: Connection) -> bool:
        """Whether it is the host's."""
        return self._local or _is_outside(wire)

    def close(self) -> None:
        """Take no more connections."""
        if self._server is not None:
            self._server.close()

    def hide_from(self, ports: Ports) -> None:
        """It is no port."""

    def remove(self) -> None:
        """Remove the socket."""
        _remove_socket(self._path)


class Life:
    """The end of the process, as far as it is decided by a signal. To be made in the main thread."""

    def __init__(self, *, only_from_outside: bool) -> None:
        """With `only_from_outside` programs of this pid namespace cannot ask for the end."""
        asyncio.get_running_loop().set_exception_handler(_note_failure)
        self.signals = Signals()
        self._told = asyncio.Event()
        numbers = (signal.SIGTERM, signal.SIGINT)
        if only_from_outside and os.getpid() == 1:  # any other process of theirs can be killed anyway
            self.signals.on_outside(numbers, self._told.set)
            return
        for number in numbers:
            self.signals.on(number, self._told.set)

    async def wait_told(self) -> None:
        """Return once it is time to end."""
        await self._told.wait()


def main(oom_score: int | None = None, netlink: Netlink | None = None) -> None:
    """Run until TERM. A zygote has an open /proc/self/oom_score_adj and a `netlink` for it."""
    settings = settings_module.take(os.environ)
    selector = DefaultSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(_serve_host(settings, selector, oom_score, netlink))


async def _serve_host(
    settings: Settings, selector: BaseSelector, oom_score: int | None, netlink: Netlink | None
) -> None:
    life = Life(only_from_outside=not settings.switches and not settings.local)
    listener = UnixListener(settings.socket, local=settings.local)
    await run(settings, listener, life, Nursery(oom_score), netlink, None if settings.local else selector)


async def run(
    settings: Settings,
    listener: Listener,
    life: Life,
    nursery: Nursery,
    netlink: Netlink | None = None,
    selector: BaseSelector | None = None,
) -> NoReturn:
    """Be the sandbox's Ship until the end of `life`, and then end the process. With the event loop's
    `selector` the host can ask it to hand its connections over, or to end them.
    """
    _prepare_process(settings)
    identities = (settings.user,) if settings.root is None else (settings.user, settings.root)
    if not settings.local:
        syscalls.hide_from_debuggers()
    draining = Draining(listener.open, listener.close, lambda: say("ready"))
    if selector is not None:
        life.signals.on_outside((signal.SIGUSR1,), draining.end)
    nursery.open(life.signals)
    space = Confined(settings.workspace) if settings.local else Everywhere(settings.workspace, settings.cwd)
    accounts, local = settings.accounts, settings.local
    environment, interruption = settings.environment, draining.interruption
    context = ProcessContext(nursery, space, identities, environment, accounts, local, interruption)
    execs, kernels, services = Execs(context), Kernels(context), Services(context)
    threads = FileThreads(settings.user, nursery.standstill)
    tools = ToolRuns(nursery, settings.user, local=local)
    actors = Actors(threads, accounts)
    trees = TreeRoutes(space, actors, tools, local=local)
    files = FileRoutes(space, Workspace(settings.workspace), actors, trees.handlers)
    ports = Ports(threads, netlink, local=local)
    tasks = Tasks()
    others: dict[str, Handler] = {
        "tasks": tasks.answer,
        "fs": files.answer,
        "services": ServiceRoutes(services).answer,
        **dict.fromkeys(("kernels", "kernelspecs", "cells"), KernelRoutes(settings, kernels).answer),
        **dict.fromkeys(("ports", "tunnel"), PortRoutes(ports).answer),
    }
    standstill = nursery.standstill
    routes = Routes(settings, execs, SessionFeed(ports, services, standstill), others)
    # By signals, which reach every program where Ship is the first process and has no more rights than they.
    pauses = not settings.local and not settings.switches and os.getpid() == 1
    written = settings.workspace if settings.writes_down else None
    paused = PauseRoutes(standstill, routes.answer, trees.copy, written=written)
    answer = paused.answer if pauses else routes.answer
    quiet = None if selector is None else Quiet(selector, answer)
    answer = answer if quiet is None else partial(draining.answer, quiet.answer)
    outside = Door(answer, _MAX_CONNECTIONS, settings.token, listener.may_ask)
    draining.door = outside
    if quiet is not None:
        quiet.door = outside
    inside = Door(partial(answer_inside, settings, tasks), _MAX_INSIDE_CONNECTIONS, None, _anyone)
    await listener.open(outside)
    listener.hide_from(ports)
    if not settings.local:
        await _open_inside(inside, ports)
    env = settings.kernel_environment if settings.env_file else None
    provisions.put_back(settings.workspace, settings.user, settings.skills, env)
    say("ready")
    if settings.eager_kernel:
        kernels.prepare(default_order(settings.user, settings.kernel_environment))
    await life.wait_told()
    await standstill.close()
    listener.close()
    kernels.stop()
    await services.close(_SERVICES_GRACE_S)
    await execs.end_all(_TERM_GRACE_S)
    ports.stop()
    if settings.writes_down:
        await write_down(settings.workspace)
    await asyncio.gather(outside.close(), inside.close())
    listener.remove()
    os._exit(0)  # threads that still wait for a disk are not waited for


def _prepare_process(settings: Settings) -> None:
    os.umask(0o022)
    if settings.local:
        syscalls.adopt_orphans()
        return
    os.chdir("/")
    if not settings.switches:
        syscalls.adopt_orphans()  # its pod's first process may be another
        return
    if settings.makes_account:
        own_account.settle(settings.user)
    # Refused where the user namespace's map forbids it; there are none to give up then.
    with contextlib.suppress(PermissionError):
        os.setgroups([])


def _bind(path: str) -> socket.socket:
    _remove_socket(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listening.bind(path)
    finally:
        os.umask(before)
    return listening


def _remove_socket(path: str) -> None:
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)


async def _open_inside(inside: Door, ports: Ports) -> None:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(("127.0.0.1", INSIDE_PORT))
        await asyncio.get_running_loop().create_server(inside.accept, sock=listening)
        ports.hide(listening)
    except OSError as error:
        # No loopback device, or a program was first: the sandbox works without.
        listening.close()
        log.note(f"inside.unavailable {error.strerror}")


def say(line: str) -> None:
    """Tell our parent, on stdout."""
    with contextlib.suppress(OSError):  # it may have ended already
        os.write(1, f"{line}\n".encode())


def _is_outside(wire: Connection) -> bool:
    """Whether the peer is no program of the sandbox. Of a peer in none of our pid namespaces the kernel says
    the number 0. gVisor says of every peer that it is we, so that the token alone keeps programs out there.
    """
    peer: socket.socket = wire.transport.get_extra_info("socket")
    pid, _uid, _gid = _PEERCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return pid in (0, os.getpid())


def _anyone(_wire: Connection) -> bool:
    return True


def _note_failure(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.note(f"loop.failed {log.describe(error) if error else context.get('message')}")
