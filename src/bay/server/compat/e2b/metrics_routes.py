"""The use of resources by a sandbox, in E2B's words: of the control plane, and of envd."""

from typing import Annotated, Any

from fastapi import Query
from starlette.responses import JSONResponse, Response

from bay.models import SandboxUsage
from bay.server.compat.e2b.envd_requests import ENVD
from bay.server.compat.e2b.planes import PREFIX, SandboxAway
from bay.server.compat.e2b.sandbox_service import E2bSandboxes
from bay.server.compat.e2b.sandbox_words import cpu_count, time_of
from bay.server.compat.routers import format_router
from bay.server.web.dependencies import Reader, service

router = format_router("")

E2bDep = Annotated[E2bSandboxes, service(E2bSandboxes)]
UnixSeconds = Annotated[int | None, Query(ge=0, lt=1 << 62)]


@router.get(PREFIX + "/sandboxes/{sandbox_id}/metrics")
async def e2b_metrics(
    caller: Reader, e2b: E2bDep, sandbox_id: str, start: UnixSeconds = None, end: UnixSeconds = None
) -> Response:
    """The samples of Bay's own metrics, and at last one of now, which a paused sandbox has not."""
    return JSONResponse([_sample(one) for one in await e2b.metrics(caller, sandbox_id, start, end)])


@router.get(ENVD + "/metrics")
async def envd_metrics(caller: Reader, e2b: E2bDep, sandbox_id: str) -> Response:
    """The same figures, as envd has them."""
    found = await e2b.usage(caller, sandbox_id)
    if found is None:
        raise SandboxAway
    sample = _sample(found)
    return JSONResponse({name: sample[of] for name, of in _ENVD.items()})


_ENVD = {
    "ts": "timestampUnix",
    "cpu_count": "cpuCount",
    "cpu_used_pct": "cpuUsedPct",
    "mem_total": "memTotal",
    "mem_used": "memUsed",
    "mem_cache": "memCache",
    "disk_used": "diskUsed",
    "disk_total": "diskTotal",
}


def _sample(usage: SandboxUsage) -> dict[str, Any]:
    """Clients want every figure: one that the host does not tell is 0."""
    cache = usage.memory_cache_bytes or 0
    return {
        "timestamp": time_of(usage.at),
        "timestampUnix": int(usage.at.timestamp()),
        "cpuCount": cpu_count(usage.cpus),
        "cpuUsedPct": _percent(usage),
        "memUsed": max(0, (usage.memory_bytes or 0) - cache),
        "memTotal": usage.memory_limit_bytes or 0,
        "memCache": cache,
        "diskUsed": usage.disk_bytes or 0,
        "diskTotal": usage.disk_limit_bytes or 0,
    }


def _percent(usage: SandboxUsage) -> float:
    """Of all that it may use. The kernel lets a sandbox catch up a little on what it did not use before."""
    if not usage.cpus or usage.cpus_used is None:
        return 0.0
    return min(100.0, round(100 * usage.cpus_used / usage.cpus, 2))
