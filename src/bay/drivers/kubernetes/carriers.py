"""Carriers: pods without a session, in which Ship packs and unpacks the files of a volume claim for Bay.

A carrier is a pod as that of a session, with Ship alone, the whole claim in the place of the workspace, no
network, and an hour to live. Its name follows from the cargo's id, so there is one for a cargo at a time,
also among several Bays. None begins while a session has the claim, and no session that writes to the claim
begins beside one that an earlier Bay has left.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakValueDictionary

import structlog

from bay.drivers.base import Endpoint, Handle, SessionSpec
from bay.drivers.kubernetes import pod
from bay.drivers.kubernetes.kube import POD, Json, Kube
from bay.drivers.kubernetes.pod_watch import PodState, pod_state
from bay.drivers.kubernetes.session_state import is_over, is_released
from bay.errors import BayError, Conflict, SandboxNotReady
from bay.models import NetworkPolicy, Resources
from bay.places import VolumeClaim
from bay.units import MIB

log = structlog.get_logger("bay.drivers.kubernetes")

ROLE = "carrier"
_PREFIX = f"{ROLE}-"
_LIFETIME_S = 3600
_MEMORY = 512 * MIB
_RESERVED = "64Mi"
_LEAVING_S = 5.0
"""For the removal of a carrier when Bay ends; the next Bay removes it otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCarrier:
    """A carrier that runs: where its Ship answers."""

    session_id: str
    endpoint: Endpoint
    token: str


class PodDriver(Protocol):
    """The part of the driver that carriers need."""

    name: str

    @property
    def kube(self) -> Kube: ...

    def pods(self) -> list[PodState]: ...

    def start(self, spec: SessionSpec, handle: Handle | None) -> AsyncIterator[Handle]: ...

    async def destroy(self, handle: Handle) -> None: ...


def carrier_id(cargo_id: str) -> str:
    """The id of a carrier in the place of a session's."""
    return _PREFIX + cargo_id.removeprefix("ws-")


def is_carrier(session_id: str) -> bool:
    """Whether it is the id of a carrier."""
    return session_id.startswith(_PREFIX)


def manifest(built: Json) -> Json:
    """The pod of a carrier, from that of a session on the same claim."""
    metadata, spec = built["metadata"], built["spec"]
    [container] = spec["containers"]
    whole = [
        {key: value for key, value in one.items() if key != "subPath"} for one in container["volumeMounts"]
    ]
    requests = {**container["resources"]["requests"], "memory": _RESERVED}
    return {
        **built,
        "metadata": {**metadata, "labels": {**metadata["labels"], pod.ROLE: ROLE, pod.EGRESS: "none"}},
        "spec": {
            **spec,
            "activeDeadlineSeconds": _LIFETIME_S,
            "containers": [
                {
                    **container,
                    "volumeMounts": whole,
                    "resources": {**container["resources"], "requests": requests},
                }
            ],
        },
    }


class CarrierPods:
    """Starts and ends carriers by the driver that runs sessions. `is_alone`: no other Bay has this
    installation, so that each carrier that this one does not know is a dead Bay's.
    """

    def __init__(self, driver: PodDriver, *, is_alone: bool) -> None:
        self._driver = driver
        self._is_alone = is_alone
        self._held: set[str] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By the id of a carrier: held while that has its cargo, and there for as long as somebody waits."""

    def is_orphan(self, state: PodState) -> bool:
        """Whether it is a carrier that no Bay has any use of."""
        session_id = state.annotations.get(pod.SESSION, "")
        return session_id not in self._held and (self._is_alone or is_over(state))

    @asynccontextmanager
    async def open(self, cargo_id: str, claim: VolumeClaim) -> AsyncGenerator[RunningCarrier]:
        """A carrier of that claim. Raises Conflict while a session has it, and what a start raises."""
        session_id = carrier_id(cargo_id)
        handle = Handle(driver=self._driver.name, session_id=session_id)
        async with self._locks.setdefault(session_id, asyncio.Lock()):
            await self._check_free(cargo_id, claim)
            self._held.add(session_id)
            try:
                await self._driver.destroy(handle)  # of a Bay that has ended
                yield await self._started(session_id, claim)
            finally:
                try:
                    await self._end(handle)
                finally:
                    self._held.discard(session_id)

    async def clear(self, cargo_id: str) -> None:
        """See to it that no carrier has the cargo but one of this Bay. Raises DriverUnavailable."""
        session_id = carrier_id(cargo_id)
        if session_id not in self._held:
            await self._driver.destroy(Handle(driver=self._driver.name, session_id=session_id))

    async def _started(self, session_id: str, claim: VolumeClaim) -> RunningCarrier:
        token = secrets.token_urlsafe(32)
        spec = SessionSpec(
            session_id=session_id,
            sandbox_id=session_id,
            image="host",
            isolation="container",
            resources=Resources(cpus=1, memory=_MEMORY),
            workspace=claim,
            token=token,
            hostname=ROLE,
            allow_root=False,
            users=(),
            network=NetworkPolicy(mode="open"),
        )
        endpoint: Endpoint | None = None
        async for handle in self._driver.start(spec, None):
            endpoint = handle.endpoint
        if endpoint is None:
            raise SandboxNotReady(f"carrier {session_id} did not start")
        return RunningCarrier(session_id=session_id, endpoint=endpoint, token=token)

    async def _check_free(self, cargo_id: str, claim: VolumeClaim) -> None:
        """Raises Conflict while a session has the claim. The watch may lag behind an end."""
        for state in self._driver.pods():
            if claim.name not in state.claims or state.labels.get(pod.ROLE) == ROLE:
                continue
            found = await self._driver.kube.get(POD, state.name)
            if found is not None and not is_released(pod_state(found)):
                user = state.annotations.get(pod.SANDBOX, state.name)
                raise Conflict(
                    f"cargo {cargo_id} is in use by {user}, and its files are copied while nothing else has them; stop "
                    "that sandbox and try again",
                    details={"active_sandbox_ids": [user]},
                )

    async def _end(self, handle: Handle) -> None:
        ending = asyncio.create_task(self._driver.destroy(handle))
        try:
            await asyncio.shield(ending)
        except BayError as error:  # the next session of the cargo waits for it
            log.warning("carrier.stays", id=handle.session_id, error=error.message)
        except asyncio.CancelledError:
            await asyncio.wait([ending], timeout=_LEAVING_S)
            ending.cancel()
            await asyncio.wait([ending])
            raise
