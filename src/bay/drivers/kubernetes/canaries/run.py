"""The checks of `bay doctor` for a cluster, in the order in which to mend them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bay.drivers.host_check import HostCheck
from bay.drivers.kubernetes.canaries.egress_trial import classes_hold
from bay.drivers.kubernetes.canaries.image_volumes import image_is_mounted
from bay.drivers.kubernetes.canaries.limits import limits_bite
from bay.drivers.kubernetes.canaries.start import ship_answers
from bay.drivers.kubernetes.canaries.storage import StorageFacts, claim_is_written
from bay.drivers.kubernetes.canaries.trial_pods import TrialPods
from bay.drivers.kubernetes.driver import missing_verbs
from bay.drivers.kubernetes.egress import EgressSettings
from bay.drivers.kubernetes.kube import Kube, KubeAccess
from bay.drivers.kubernetes.pod import PodSettings
from bay.errors import BayError, DriverUnavailable

_OLDEST = (1, 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """The facts that a Bay of these settings knows of its cluster."""

    access: KubeAccess
    pods: PodSettings
    network: EgressSettings
    storage: StorageFacts
    start_s: float
    """For a node with room, and for a reason to pass that keeps a container from starting."""


async def cluster_checks(facts: ClusterFacts, *, canaries: bool) -> list[HostCheck]:
    """Whether the cluster is reached and may be used; with `canaries`, pods are started that try it as well.
    Those are removed at the end, also when this is cancelled.
    """
    try:
        kube = await Kube.connect(facts.access)
    except DriverUnavailable as error:
        fix = "mend the settings of [kubernetes], or the cluster"
        return [HostCheck("cluster", False, True, error.message, fix)]
    try:
        rows = [_version(kube), await _rights(kube, snapshots=facts.storage.snapshot_class is not None)]
        if canaries and all(row.ok for row in rows):
            rows += await _canaries(kube, facts)
        return rows
    except DriverUnavailable as error:
        return [HostCheck("cluster", False, True, error.message, "see to the API server, and try again")]
    finally:
        await kube.aclose()


def _version(kube: Kube) -> HostCheck:
    version, oldest = (".".join(map(str, one)) for one in (kube.version, _OLDEST))
    is_told = kube.version != (0, 0)
    said = f"is Kubernetes {version}" if is_told else "answers, and does not say its version"
    found = f"{kube.url} {said}; the namespace is {kube.namespace}"
    fits = not is_told or kube.version >= _OLDEST
    return HostCheck("cluster", fits, True, found, f"use Kubernetes {oldest} or later")


async def _rights(kube: Kube, *, snapshots: bool) -> HostCheck:
    missing = await missing_verbs(kube, snapshots=snapshots)
    found = (
        f"this account may not {', '.join(missing)}" if missing else "this account may do all that Bay does"
    )
    fix = "give it the role of docs/kubernetes.md"
    return HostCheck("rights", not missing, True, found, fix)


async def _canaries(kube: Kube, facts: ClusterFacts) -> list[HostCheck]:
    """The rows of all trials, which run side by side."""
    async with TrialPods(kube, facts.pods, start_s=facts.start_s) as pods:
        trials: dict[str, Callable[[], Awaitable[list[HostCheck]]]] = {
            **{
                f"pod:{isolation}": lambda isolation=isolation: ship_answers(pods, isolation)
                for isolation in facts.pods.isolations
            },
            "egress": lambda: classes_hold(pods, facts.network),
            **{
                f"limits:{isolation}": lambda isolation=isolation: limits_bite(pods, isolation)
                for isolation in facts.pods.isolations
            },
            "storage": lambda: claim_is_written(pods, facts.storage),
            "image-volumes": lambda: image_is_mounted(pods),
        }
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(_guarded(name, trial)) for name, trial in trials.items()]
        return [row for task in running for row in task.result()]


async def _guarded(name: str, trial: Callable[[], Awaitable[list[HostCheck]]]) -> list[HostCheck]:
    """The rows of a trial, or one that says why there are none."""
    try:
        return await trial()
    except BayError as error:
        return [HostCheck(name, False, True, error.message, "mend that, and try again")]
