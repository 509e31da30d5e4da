"""The operator's view of a Bay; takes an admin key."""

from collections.abc import Sequence

from bay.client._async.http import AsyncNoun
from bay.client._calls import Call, given
from bay.client._waits import COLLECT_S, PREPARE_S
from bay.models import (
    GarbageRun,
    GarbageState,
    GarbageTask,
    HostOverview,
    PoolState,
    ReplicaState,
    RestartPreparation,
    SettingInForce,
)


class AsyncAdmin(AsyncNoun):
    """The host behind the sandboxes."""

    async def host(self) -> HostOverview:
        """The host of the Bay that answers: its load, memory and storage, and the sandboxes of all owners."""
        return await self._http.one(HostOverview, Call.get("/v1/admin/host"))

    async def prepare_restart(self) -> RestartPreparation:
        """Have the memory of all sandboxes that may hibernate outlive a planned restart of the host.

        Hibernates them, running or frozen, and answers with every sandbox that has compute when all is on
        disk. It stops none, and holds no caller off: one that is called afterwards runs again, and another
        call of this hibernates it again. Stop Bay and restart the host next.
        """
        call = Call("POST", "/v1/admin/host/prepare_restart", safe=True, wait_s=PREPARE_S)
        return await self._http.one(RestartPreparation, call)

    async def settings(self) -> list[SettingInForce]:
        """The settings in force and where each comes from; of a secret only whether it is set."""
        return await self._http.all(SettingInForce, Call.get("/v1/admin/settings"))

    async def pool(self) -> list[PoolState]:
        """How full the pools of profiles and templates are, and what keeps each from being full."""
        return await self._http.all(PoolState, Call.get("/v1/admin/pool"))

    async def collect_garbage(self, tasks: Sequence[GarbageTask] | None = None) -> GarbageRun:
        """Collect now what Bay collects by itself, of every owner; all tasks unless some are named.

        Answers when it is done. ``idle_session`` gives back the compute of idle sandboxes, frozen ones
        included; ``expired_sandbox`` ends those whose time is over; ``orphan_cargo`` and ``orphan_container``
        remove what is on the host and belongs to no sandbox.
        """
        body = given(tasks=None if tasks is None else list(tasks))
        call = Call("POST", "/v1/admin/gc/run", body=body, safe=True, wait_s=COLLECT_S)
        return await self._http.one(GarbageRun, call)

    async def garbage_state(self) -> GarbageState:
        """Whether a collection is under way, and what the last one that was asked for did."""
        return await self._http.one(GarbageState, Call.get("/v1/admin/gc/status"))

    async def replicas(self) -> ReplicaState:
        """The Bays that share one database, which shards of sandboxes and which jobs each has, and which
        none has just now. One that is alone has all.
        """
        return await self._http.one(ReplicaState, Call.get("/v1/replicas"))
