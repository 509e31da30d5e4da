"""The canaries of limits: a pod uses more than it may have. Some runtimes take limits and hold nobody to
them (gVisor's shim for containerd does, gvisor#13777), so that the effect alone counts.
"""

from bay.drivers.host_check import HostCheck
from bay.drivers.kubernetes.canaries.trial_pods import CanaryEnd, TrialPods
from bay.drivers.kubernetes.kube import POD, Json
from bay.models import Resources
from bay.units import MIB

LIMITS = Resources(cpus=0.2, memory=320 * MIB)
_BUSY_S = 2.0
_PROCESSES = 4500
"""More than a `podPidsLimit` of 4096, and few enough for the memory of the pod."""
_OVER = 1.5
_SLACK_PERCENT = 15
"""A scheduler's periods of 0.1 s are not those of the measurement."""


async def limits_bite(pods: TrialPods, isolation: str = "container") -> list[HostCheck]:
    """Whether a pod is held to its processors, its memory and a number of processes."""
    task: Json = {
        "do": "limits",
        "busy_s": _BUSY_S,
        "processes": _PROCESSES,
        "bytes": round(_OVER * LIMITS.memory),
    }
    made = pods.program(f"limits-{isolation}", task, resources=LIMITS, isolation=isolation)
    end = await pods.ended(await pods.create(POD, made))
    return judged(end, isolation)


def judged(end: CanaryEnd, isolation: str = "container") -> list[HostCheck]:
    """The rows for the end of that pod."""
    where = "" if isolation == "container" else f":{isolation}"
    told = end.told or {}
    rows = [_cpu(told), _processes(told), _memory(told, end.reason)]
    return [
        HostCheck(f"{row.name}{where}", row.ok, False, row.found, row.fix, risk=True, numbers=row.numbers)
        for row in rows
    ]


def _cpu(told: Json) -> HostCheck:
    percent, limit = told.get("cpu_percent"), round(100 * LIMITS.cpus)
    fix = "use another runtime class for strangers, or nodes of their own: each takes the processors it likes"
    if not isinstance(percent, int):
        return HostCheck("cpu-limit", False, False, "cannot tell: the pod told nothing", fix)
    found = f"a busy loop got {percent} % of a core, with a limit of {limit} %"
    numbers = {"percent": percent}
    return HostCheck("cpu-limit", percent <= limit + _SLACK_PERCENT, False, found, fix, numbers=numbers)


def _processes(told: Json) -> HostCheck:
    said = str(told.get("processes"))
    fix = "set podPidsLimit of the kubelets, to 4096 or less: one sandbox can take all processes of its node"
    if not said.isdecimal():
        why = f"its trial was {said}" if "processes" in told else "the pod told nothing"
        found = f"cannot tell: {why}"
        return HostCheck("process-limit", False, False, found, fix)
    count = int(said)
    bites = count < _PROCESSES
    found = f"no more than {count} processes can be had" if bites else f"none: {count} processes were had"
    return HostCheck("process-limit", bites, False, found, fix, numbers={"processes": count})


def _memory(told: Json, reason: str) -> HostCheck:
    limit_mb, said = LIMITS.memory // MIB, told.get("memory")
    fix = "use another runtime class for strangers, or nodes of their own: one can take the memory of all"
    if said == "all":
        found = f"a program got {round(_OVER * limit_mb)} MiB, with a limit of {limit_mb} MiB"
        return HostCheck("memory-limit", False, False, found, fix)
    if said == "killed":
        found = "a program above the limit is killed, and the pod goes on"
    elif said == "refused":
        found = "a program above the limit gets no more memory"
    elif "OOMKilled" in reason or "exit code 137" in reason:
        found = "a program above the limit ends the whole pod"
    else:
        return HostCheck("memory-limit", False, False, f"cannot tell: the pod ended with {reason}", fix)
    return HostCheck("memory-limit", True, False, found, "-")
