"""The reasons why a pod does not start, in Kubernetes' own words."""

from contextlib import suppress

from bay.drivers.base import Exited
from bay.drivers.kubernetes.kube import Kube
from bay.drivers.kubernetes.pod_watch import PodState
from bay.errors import DriverUnavailable

_HOPELESS = frozenset(("ErrImageNeverPull", "InvalidImageName", "ImagePullBackOff", "CrashLoopBackOff"))
"""Reasons of a container that waits, for which no patience helps."""

_STUCK = frozenset(
    ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "ErrImagePull", "RegistryUnavailable")
)  # fmt: skip
"""Reasons that may pass, and are the failure of a start that does not."""

_OBSTACLES = frozenset(
    ("FailedScheduling", "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedBinding")
)
"""Reasons of Events that are one as well; other warnings keep no pod from starting."""


def why_not(state: PodState, end: Exited | None, *, is_late: bool) -> str | None:
    """The reason why a pod will not run; None for one that may yet. `end`: how it is known to have ended."""
    if end is not None or state.phase in ("Failed", "Succeeded"):
        said = "; ".join(
            f"{one.container}: {one.reason}, exit code {one.exit_code}" for one in state.terminated
        )
        reason = state.reason or said or end
        return f"pod {state.name} ended before Ship answered: {reason}. {state.message or ''}".strip()
    for one in state.waiting:
        if one.reason in _HOPELESS or (is_late and one.reason in _STUCK):
            return f"container {one.container} cannot start: {one.reason}: {one.message}"
    if is_late and state.node is None and state.scheduled.status == "False":
        return f"no node takes the pod: {state.scheduled.reason}: {state.scheduled.message}"
    return None


async def obstacle(kube: Kube, uid: str) -> str | None:
    """The newest Event of a pod that is late, where that tells of an obstacle: a volume that cannot be
    attached, say. One that was overcome has a newer Event behind it.
    """
    with suppress(DriverUnavailable):
        told = await kube.events_of(uid)
        if told and told[-1].get("reason") in _OBSTACLES:
            return f"{told[-1].get('reason')}: {str(told[-1].get('message'))[:500]}"
    return None
