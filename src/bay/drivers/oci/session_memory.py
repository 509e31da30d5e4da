"""The memory of a host's sessions: one save in its steps, its undo, and what of it this host can use.

A save leaves a mark in the session's run directory first. By it the next resume of a session finds a save
that a killed Bay left under way, at whichever step, and undoes it.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from bay.drivers.base import MemoryLost, MemoryNotSaved, SessionSpec
from bay.drivers.oci.launch import told, wait_unlocked
from bay.drivers.oci.memory_image import Fingerprint, ImageDirectory, ImageUnusable, MemoryManifest
from bay.drivers.oci.savers import SavedSession, Saver
from bay.drivers.quiet import HeldConnections, RequestsUnderWay, RestRefused
from bay.errors import CapabilityNotSupported, SandboxNotReady
from bay.linux.threads import in_new_thread

log = structlog.get_logger("bay.drivers.oci")

_NOT_MEANT_TO = "it was started before its profile had `hibernate`; stop it and start it, and from then on it can be saved"
_UNLOCK_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Save:
    """A save of a session, whose connections rest."""

    session: SavedSession
    saver: Saver
    image: ImageDirectory
    manifest: MemoryManifest

    async def stand_still(self) -> None:
        """Have all programs stand still. Raises MemoryNotSaved, DriverUnavailable or OSError."""
        await self.saver.stand_still(self.session)

    async def write(self) -> int:
        """Write their memory, once they stand still; the bytes that it takes. See `Saver.write`."""
        return await self.saver.write(self.session, self.image, self.manifest)


@dataclass(slots=True)
class SessionMemory:
    """Saves sessions by the saver of their isolation, and checks what was saved."""

    savers: dict[str, Saver]
    hosts: dict[str, Fingerprint] = field(default_factory=dict[str, Fingerprint])
    """The facts of this host for each isolation whose memory it can save, or tries to."""

    @asynccontextmanager
    async def saving(self, session: SavedSession, token: str, *, end: bool = False) -> AsyncGenerator[Save]:
        """The connections of a session rest in the block, whose programs go on after it; with `end` neither
        does, but after an error the programs. Raises CapabilityNotSupported, MemoryNotSaved,
        DriverUnavailable, SandboxNotReady, or OSError.
        """
        saver = self.savers.get(session.isolation)
        if saver is None or session.isolation not in self.hosts:
            raise CapabilityNotSupported("this host cannot save the memory of sandboxes; see `bay doctor`")
        if session.is_forked:
            raise MemoryNotSaved(_NOT_MEANT_TO)
        image, mark = ImageDirectory(session.places.memory), session.places.saving
        with told(f"the memory of session {session.session_id} cannot be saved"):
            # First: by it the next resume sees that a save was under way, whatever becomes of this Bay.
            await in_new_thread(mark.touch)
            await in_new_thread(lambda: image.make(session.id_base))
            held: HeldConnections | None = None
            try:
                held = await saver.rest(session, token)
                if end:
                    held.close()
                manifest = self._manifest(session, token)
                yield Save(session=session, saver=saver, image=image, manifest=manifest)
                if end:
                    return
            except (RestRefused, RequestsUnderWay):  # nothing has changed
                await in_new_thread(image.remove)
                await in_new_thread(mark.unlink)
                raise
            except BaseException:
                # First: of a session that ends as it goes on, it would show a past that files have left.
                try:
                    await in_new_thread(image.remove)
                finally:
                    await _go_on(session, saver)
                raise
            else:
                await _go_on(session, saver)
            finally:
                if held is not None and not end:
                    await _end_rest(session, saver, token, held)

    async def undo(self, session: SavedSession) -> bool:
        """Have a session that lives go on as before a save that a killed Bay left under way; whether this
        host can. Raises DriverUnavailable or OSError.
        """
        if (saver := self.savers.get(session.isolation)) is None:
            return False
        places = session.places
        if await in_new_thread(places.lock.exists):
            await in_new_thread(lambda: wait_unlocked(places.lock, _UNLOCK_S))  # ends its program
        await in_new_thread(ImageDirectory(places.memory).remove)
        await saver.undo(session)
        await in_new_thread(lambda: places.saving.unlink(missing_ok=True))
        return True

    def read(self, image: ImageDirectory) -> MemoryManifest:
        """The manifest of an image that this host can use. Blocks; raises MemoryLost."""
        try:
            return image.read(self.hosts)
        except ImageUnusable as error:
            raise unusable(error) from error

    def read_for(
        self, spec: SessionSpec, image: ImageDirectory, rights: str, closures: Path
    ) -> MemoryManifest:
        """The same of one with which a session of `spec` and `rights` (see `kept_memory.rights_of`) can begin
        where `closures` are those of Ship. Blocks; raises MemoryLost.
        """
        manifest = self.read(image)
        if manifest.fingerprint.isolation != spec.isolation:
            raise MemoryLost("the isolation of the sandbox has changed since the memory was saved")
        if spec.token != manifest.token and manifest.rights != rights:
            raise MemoryLost("the rights of its profile have changed since the memory was saved")
        if not (closures / manifest.closure).is_dir():
            raise MemoryLost(
                "the memory of the sandbox is of another version of Bay, which is not here any more"
            )
        return manifest

    def _manifest(self, session: SavedSession, token: str) -> MemoryManifest:
        return MemoryManifest(
            fingerprint=self.hosts[session.isolation],
            closure=session.closure,
            token=token,
            rights=session.rights,
        )


async def _go_on(session: SavedSession, saver: Saver) -> None:
    await saver.go_on(session)
    await in_new_thread(lambda: session.places.saving.unlink(missing_ok=True))


async def _end_rest(session: SavedSession, saver: Saver, token: str, held: HeldConnections) -> None:
    try:
        await saver.end_rest(session, token, held)
    except SandboxNotReady as error:  # the callers see their connections end
        log.warning("ship.connections_lost", session=session.session_id, error=error.message)


def unusable(error: ImageUnusable) -> MemoryLost:
    """That the sandbox cannot go on with its memory."""
    return MemoryLost(f"the memory of the sandbox cannot be used: {error}")
