"""Carriers without pods: claims are directories of this host, and the tools of Ship's run in them."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from claim_api import ClaimServer

from bay.drivers.kubernetes.kube import Kind
from bay.errors import BadRequest, StorageFull
from bay.places import Place, VolumeClaim, claim_of
from bay.server.ship.carriers import read_trailer
from ship.process.interpreter import tool_command
from ship_protocol import CHECKPOINT_TRAILER


class UnusedClaims(ClaimServer):
    """Claims that no pod has when they are deleted."""

    async def delete(
        self, kind: Kind, name: str, *, uid: str | None = None, version: str | None = None
    ) -> bool:
        is_there = await super().delete(kind, name, uid=uid, version=version)
        if is_there and (kind.name, name) in self.objects:
            self.release(name)
        return is_there


class HostCarriers:
    """The carriers of one Bay, and the files of sessions (`bay.testing.cargo.WorkspaceFiles`)."""

    def __init__(self, server: ClaimServer, root: Path) -> None:
        self._server = server
        self._root = root
        self.live: set[str] = set()
        """The claims that a carrier has."""
        self.cleared: list[str] = []
        self.opened: list[str] = []
        self.begun = asyncio.Event()
        """A carrier began."""
        self.breaks_at: int | None = None
        """After so many bytes of the next pack, or restore, the carrier is lost."""

    def top(self, name: str) -> Path:
        """The whole of a claim, which is bound from now on."""
        self._server.bind(name)
        made = self._root / self._server.claim(name)["metadata"]["uid"]
        made.mkdir(exist_ok=True)
        return made

    def workspace(self, place: Place) -> Path:
        """What a session has of a claim."""
        made = self.top(claim_of(place).name) / "workspace"
        made.mkdir(exist_ok=True)
        return made

    async def put(self, place: Place, name: str, text: str) -> None:
        (self.workspace(place) / name).write_text(text)

    async def get(self, place: Place, name: str) -> str:
        return (self.workspace(place) / name).read_text()

    @asynccontextmanager
    async def open(self, cargo_id: str, claim: VolumeClaim) -> AsyncGenerator["HostCarrier"]:
        assert claim.name not in self.live
        self.live.add(claim.name)
        self.opened.append(cargo_id)
        self.begun.set()
        try:
            breaks_at, self.breaks_at = self.breaks_at, None
            yield HostCarrier(self.top(claim.name), breaks_at)
        finally:
            self.live.remove(claim.name)

    async def clear(self, cargo_id: str) -> None:
        self.cleared.append(cargo_id)


class HostCarrier:
    """One of them."""

    def __init__(self, top: Path, breaks_at: int | None) -> None:
        self._top = top
        self._breaks_at = breaks_at

    async def pack(self, counts: dict[str, int]) -> AsyncGenerator[bytes]:
        said = await asyncio.to_thread(self._run, "checkpoint", {}, b"")
        tar = said.removeprefix(b"{}\n")
        if self._breaks_at is not None:
            yield tar[: self._breaks_at]
            raise BadRequest("the carrier was lost")
        yield tar[:-CHECKPOINT_TRAILER]
        counts |= read_trailer(tar[-CHECKPOINT_TRAILER:])

    async def put_back(self, tar: AsyncGenerator[bytes], *, most_bytes: int, room_bytes: int) -> None:
        given = b""
        failure: BaseException | None = None
        try:
            async for chunk in tar:
                given += chunk
                if self._breaks_at is not None and len(given) > self._breaks_at:
                    raise BadRequest("the carrier was lost")
        except BadRequest as error:
            failure = error
        order = {"most_bytes": most_bytes, "room_bytes": room_bytes}
        said: dict[str, Any] = json.loads(await asyncio.to_thread(self._run, "restore", order, given))
        if failure is not None:  # as Ship, which sees nothing but the end of what comes
            assert "error" in said
            raise failure
        if "errno" in said:
            raise StorageFull("the sandbox's disk is full; free space and try again")
        if "error" in said:
            raise BadRequest(said["error"])

    def _run(self, tool: str, order: dict[str, int], given: bytes) -> bytes:
        command = [*tool_command(tool, local=True), json.dumps(order)]
        done = subprocess.run(
            command,
            cwd=self._top,
            input=given,
            capture_output=True,
            timeout=60,
            check=True,
            env=dict(os.environ),
        )
        return done.stdout
