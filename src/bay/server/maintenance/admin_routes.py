"""The routes `/v1/admin/*`: the operator's views. Admin keys only."""

from typing import Annotated

from bay.models import (
    GarbageRun,
    GarbageState,
    GarbageTask,
    HostOverview,
    PoolState,
    RestartPreparation,
    SettingInForce,
)
from bay.server.maintenance.garbage_collection import TASKS, Garbage
from bay.server.maintenance.host import HostView
from bay.server.maintenance.planned_restart import PlannedRestart
from bay.server.maintenance.settings_view import SettingsView
from bay.server.sandboxes.pool import Pool
from bay.server.web.bodies import Body, Most
from bay.server.web.dependencies import Admin, noun_router, service
from bay.server.web.replies import Items, WireResponse

router = noun_router("admin", "/v1/admin")

PoolDep = Annotated[Pool, service(Pool)]
HostDep = Annotated[HostView, service(HostView)]
RestartDep = Annotated[PlannedRestart, service(PlannedRestart)]
SettingsDep = Annotated[SettingsView, service(SettingsView)]
GarbageDep = Annotated[Garbage, service(Garbage)]


class Collect(Body):
    """The tasks of a collection; default: all."""

    tasks: Annotated[tuple[GarbageTask, ...], Most(len(TASKS))] | None = None


class PoolList(Items[PoolState]):
    """Every pool: of profiles, and of templates."""


class SettingList(Items[SettingInForce]):
    """Every setting, in the order of their documentation."""


@router.get("/host", response_model=HostOverview)
async def get_host(_caller: Admin, host: HostDep) -> WireResponse:
    """The host of the Bay that answers: load, memory, storage, and the sandboxes of all owners by state."""
    return WireResponse(await host.get())


@router.post("/host/prepare_restart", response_model=RestartPreparation)
async def prepare_restart(_caller: Admin, restart: RestartDep) -> WireResponse:
    """Hibernate every sandbox that may, have all memory outlive a restart of the host, and tell of each."""
    return WireResponse(await restart.prepare())


@router.get("/settings", response_model=SettingList)
async def list_settings(_caller: Admin, settings: SettingsDep) -> WireResponse:
    """The settings in force and where each comes from; of a secret only whether it is set."""
    return WireResponse({"items": settings.all()})


@router.get("/pool", response_model=PoolList)
async def get_pool(_caller: Admin, pool: PoolDep) -> WireResponse:
    """All pools, with the errors that block their refill."""
    return WireResponse({"items": await pool.state()})


@router.get("/gc/status", response_model=GarbageState)
async def garbage_status(_caller: Admin, garbage: GarbageDep) -> WireResponse:
    """Whether a collection runs, and the results of the last one."""
    return WireResponse(await garbage.state())


@router.post("/gc/run", response_model=GarbageRun)
async def collect_garbage(_caller: Admin, garbage: GarbageDep, body: Collect | None = None) -> WireResponse:
    """Run garbage collection now, of frozen sandboxes too, and answer when it is done."""
    tasks = TASKS if body is None or body.tasks is None else body.tasks
    return WireResponse(await garbage.run(tasks))
