"""Saves the memory of a session that goes on or ends afterwards: by CRIU, and in gVisor by the sentry.

Each saver has the same steps. Connections to Ship come to rest, all programs stand still, their memory is
written, and they go on.
"""

import asyncio
import signal
import time
from dataclasses import dataclass, replace
from typing import Protocol

from bay.drivers.base import Endpoint, MemoryNotSaved
from bay.drivers.oci import cgroups, hibernation, runsc
from bay.drivers.oci.criu import Clocks, Criu
from bay.drivers.oci.launch import locked, seal_socket_dir, unseal_socket_dir
from bay.drivers.oci.layout import SessionPlaces
from bay.drivers.oci.memory_image import ImageDirectory, MemoryManifest
from bay.drivers.oci.runsc import Runsc, SentryFailed
from bay.drivers.oci.userns import limit
from bay.drivers.quiet import HeldConnections, become_quiet, drain, end_quiet
from bay.drivers.ship_call import LIMIT, exchange
from bay.drivers.ship_socket import connect, open_connection
from bay.errors import DriverUnavailable, SandboxNotReady, ShipError, StorageFull
from bay.linux.threads import in_new_thread

_REASONS = (
    ("host socket", "a connection to the sandbox was open at that moment"),
    (
        "deleted and invalidated",
        "a program has a file open that has been deleted from the disk, which gVisor cannot save",
    ),
)
_LISTENS_S = 10.0
_ANSWERS_S = 2.0
_FORBIDDEN = 403
_LOOK_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSession:
    """A session that lives, and its parts that a saver needs."""

    session_id: str
    isolation: str
    pid: int
    pidfd: int
    id_base: int
    cgroup: str
    places: SessionPlaces
    endpoint: Endpoint
    closure: str
    """The name of Ship's closure, which its memory is made of."""
    rights: str
    """See `kept_memory.rights_of`."""
    is_forked: bool
    """Whether the zygote made it, whose mounts no restore has."""


class Saver(Protocol):
    """Saves the memory of sessions of one isolation."""

    async def rest(self, session: SavedSession, token: str) -> HeldConnections:
        """Have Ship's connections rest; Bay holds those that can go on. Raises RestRefused, with nothing
        changed, or SandboxNotReady.
        """
        ...

    async def stand_still(self, session: SavedSession) -> None:
        """Have all programs stand still. Raises MemoryNotSaved, DriverUnavailable or OSError."""
        ...

    async def write(self, session: SavedSession, image: ImageDirectory, manifest: MemoryManifest) -> int:
        """Write the memory of programs that stand still, and the manifest with what only the saver knows; the
        bytes that it takes. Raises MemoryNotSaved, StorageFull, DriverUnavailable or OSError.
        """
        ...

    async def go_on(self, session: SavedSession) -> None:
        """Undo the other steps, once `rest` was done, but for the connections that Bay holds; idempotent.
        Raises DriverUnavailable or OSError.
        """
        ...

    async def undo(self, session: SavedSession) -> None:
        """The same for one that was under way when a Bay was killed, at whichever step."""
        ...

    async def end_rest(self, session: SavedSession, token: str, held: HeldConnections) -> None:
        """Give back the connections that Bay holds. Raises SandboxNotReady; then they have ended."""
        ...


@dataclass(frozen=True, slots=True)
class CriuSaver:
    """Saves containers by CRIU: see `hibernation`."""

    criu: Criu

    async def rest(self, session: SavedSession, token: str) -> HeldConnections:
        """See `Saver`."""
        return await become_quiet(session.endpoint, token)

    async def stand_still(self, session: SavedSession) -> None:
        """See `Saver`."""
        await in_new_thread(lambda: hibernation.stand_still(session.cgroup, session.pid))

    async def write(self, session: SavedSession, image: ImageDirectory, manifest: MemoryManifest) -> int:
        """See `Saver`."""

        def describe(external: dict[str, str], clocks: Clocks) -> MemoryManifest:
            return replace(manifest, external=external, clocks=clocks)

        def save() -> int:
            lock = session.places.lock
            return hibernation.save(
                self.criu, session.pid, session.id_base, session.cgroup, image, describe, lock
            )

        await in_new_thread(lambda: unseal_socket_dir(session.pidfd))
        return await in_new_thread(save)

    async def go_on(self, session: SavedSession) -> None:
        """See `Saver`."""
        await in_new_thread(lambda: limit(session.pid))
        await in_new_thread(lambda: seal_socket_dir(session.pidfd))
        await in_new_thread(lambda: cgroups.thaw(session.cgroup))

    async def undo(self, session: SavedSession) -> None:
        """See `Saver`."""
        await self.go_on(session)

    async def end_rest(self, session: SavedSession, token: str, held: HeldConnections) -> None:
        """See `Saver`."""
        await end_quiet(session.endpoint, token, held)


@dataclass(frozen=True, slots=True)
class SentrySaver:
    """Saves sessions in gVisor, whose connections to Ship end."""

    runsc: Runsc

    async def rest(self, session: SavedSession, token: str) -> HeldConnections:
        """See `Saver`."""
        await drain(session.endpoint, token)
        return HeldConnections()

    async def stand_still(self, session: SavedSession) -> None:
        """See `Saver`. The sentry goes on, which writes its memory itself."""
        state = session.places.sandbox_state
        await in_new_thread(lambda: self.runsc.pause(session.session_id, state))

    async def write(self, session: SavedSession, image: ImageDirectory, manifest: MemoryManifest) -> int:
        """See `Saver`."""

        def save() -> int:
            with locked(session.places.lock) as held:
                self.runsc.save(session.session_id, session.places.sandbox_state, image.path, held)
                return image.finish(manifest)

        try:
            return await in_new_thread(save)
        except SentryFailed as error:
            raise _refusal(str(error)) from error

    async def go_on(self, session: SavedSession) -> None:
        """See `Saver`. A drained Ship makes its socket anew, in a directory that is sealed again then."""
        state, gofer = session.places.sandbox_state, session.endpoint.peer_pid
        if gofer is None:
            raise DriverUnavailable(f"session {session.session_id} has lost its gofer; stop and start it")
        await in_new_thread(lambda: cgroups.thaw(session.cgroup))
        await in_new_thread(lambda: runsc.unseal_socket_dir(gofer))
        await in_new_thread(lambda: session.places.socket.unlink(missing_ok=True))
        await in_new_thread(lambda: self.runsc.resume(session.session_id, state))
        await in_new_thread(lambda: self.runsc.signal(session.session_id, state, signal.SIGUSR1))
        await in_new_thread(lambda: _wait_listening(session.endpoint))
        await in_new_thread(lambda: runsc.seal_socket_dir(gofer))

    async def undo(self, session: SavedSession) -> None:
        """See `Saver`. A Ship that answers was not drained, or listens again."""
        state, gofer = session.places.sandbox_state, session.endpoint.peer_pid
        await in_new_thread(lambda: cgroups.thaw(session.cgroup))
        await in_new_thread(lambda: self.runsc.resume(session.session_id, state))
        if gofer is None or not await _answers(session.endpoint):
            await self.go_on(session)
        else:
            await in_new_thread(lambda: runsc.seal_socket_dir(gofer))

    async def end_rest(self, session: SavedSession, token: str, held: HeldConnections) -> None:
        """See `Saver`."""


def _refusal(said: str) -> Exception:
    if any(words in said.lower() for words in hibernation.NO_DISK):
        return StorageFull(hibernation.DISK_IS_FULL)
    known = next((reason for words, reason in _REASONS if words in said), None)
    return MemoryNotSaved(known or f"gVisor cannot save its programs: {said[:300]}")


async def _answers(endpoint: Endpoint) -> bool:
    """Whether Ship answers a stranger. A drained one's old socket takes connections that get no answer."""
    try:
        async with asyncio.timeout(_ANSWERS_S):
            reader, writer = await open_connection(endpoint, LIMIT)
            status, _, _ = await exchange(reader, writer, "GET /healthz HTTP/1.1\r\n")
    except (OSError, ShipError, SandboxNotReady):  # TimeoutError is an OSError
        return False
    return status == _FORBIDDEN


def _wait_listening(endpoint: Endpoint) -> None:
    """Return once Ship listens. Blocks. Raises DriverUnavailable."""
    until = time.monotonic() + _LISTENS_S
    while not _listens(endpoint):
        if time.monotonic() > until:
            problem = f"Ship did not listen again within {_LISTENS_S:g} s"
            raise DriverUnavailable(f"{problem}; stop the sandbox and start it again")
        time.sleep(_LOOK_S)  # no event tells of a listener


def _listens(endpoint: Endpoint) -> bool:
    try:
        connect(endpoint).close()
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True
