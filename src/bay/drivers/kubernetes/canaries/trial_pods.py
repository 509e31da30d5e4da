"""The objects of one run of the trials: made under fixed names, read by polling, and removed at the end.

A canary is the pod of a session, with another label for its maker, so that no Bay takes it for one of its
own: no annotation names a session, and no finalizer keeps the object. It ends by itself after a few minutes,
also when nobody removes it.
"""

import asyncio
import inspect
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from bay.drivers.base import SessionSpec
from bay.drivers.kubernetes import pod
from bay.drivers.kubernetes.canaries import inside
from bay.drivers.kubernetes.kube import (
    CLAIM,
    POD,
    VOLUME_SNAPSHOT,
    Json,
    Kind,
    Kube,
    KubeRefused,
    as_dict,
    as_list,
)
from bay.drivers.kubernetes.pod import EgressClass, PodSettings
from bay.drivers.kubernetes.pod_watch import PodState, pod_state
from bay.drivers.kubernetes.start_failures import obstacle, why_not
from bay.errors import BayError, SandboxNotReady
from bay.linux.threads import uninterrupted
from bay.models import NetworkPolicy, Resources
from bay.places import VolumeClaim
from bay.units import MIB

T = TypeVar("T")

MAKER = "bay-doctor"
"""The value of the label `managed-by`: the driver looks after those of `bay` alone."""
CANARY = "canary"
SMALL = Resources(cpus=0.5, memory=64 * MIB)
_DEADLINE_S = 300
_POLL_S = 0.25
_REMOVAL_S = 30.0
_VOLUME = "workspace"
_POLICIES: Mapping[EgressClass, NetworkPolicy] = {
    "none": NetworkPolicy(mode="none"),
    "open": NetworkPolicy(),
    "proxy": NetworkPolicy(mode="allowlist"),
}


@dataclass(frozen=True, slots=True)
class CanaryEnd:
    """A canary that ended: the object that it told, None where it told nothing, and how it ended."""

    told: Json | None
    reason: str
    """Kubernetes' own words, such as `OOMKilled, exit code 137`."""


class TrialPods:
    """Makes the pods, claims and snapshots of a run. All calls raise DriverUnavailable; those that wait for a
    pod raise SandboxNotReady as well.
    """

    def __init__(
        self,
        kube: Kube,
        settings: PodSettings,
        *,
        start_s: float,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """`start_s`: for a node with room, and for a reason to pass that keeps a container from starting."""
        self.kube = kube
        self.settings = settings
        self.sleep = sleep
        self._start_s = start_s
        self._run = secrets.token_hex(3)
        self._made: list[tuple[Kind, str]] = []

    async def __aenter__(self) -> "TrialPods":
        """Removes what a run left that was killed."""
        with suppress(KubeRefused):  # a cluster without snapshots, or an account that may not list them
            await self._remove_remains(VOLUME_SNAPSHOT)
        for kind in (POD, CLAIM):
            await self._remove_remains(kind)
        return self

    async def __aexit__(self, *_: object) -> None:
        await uninterrupted(asyncio.ensure_future(self._remove_all()))

    @property
    def labels(self) -> dict[str, str]:
        """The labels of all that is made here."""
        return {**pod.labels(self.settings), pod.MANAGED_BY: MAKER, pod.ROLE: CANARY}

    def name(self, what: str) -> str:
        """The name of the object of this run that is made for `what`."""
        return f"bay-canary-{self._run}-{what}"

    def session(
        self,
        what: str,
        *,
        token: str,
        mode: EgressClass | None = None,
        isolation: str = "container",
        resources: Resources = SMALL,
        claim: str | None = None,
    ) -> Json:
        """The manifest of a session's pod, as a canary. Without `mode` it is of no egress class, without
        `claim` its workspace is a directory of the node.
        """
        spec = SessionSpec(
            session_id=self.name(what),
            sandbox_id=self.name(what),
            image="host",
            isolation=isolation,
            resources=resources,
            workspace=VolumeClaim(name=claim or "none", read_write_once_pod=False),
            token=token,
            network=_POLICIES[mode or "none"],
        )
        made = pod.build(spec, self.settings, {})
        if claim is None:
            volumes = [one for one in made["spec"]["volumes"] if one["name"] != _VOLUME]
            made["spec"]["volumes"] = [*volumes, {"name": _VOLUME, "emptyDir": {}}]
        made["spec"]["activeDeadlineSeconds"] = _DEADLINE_S
        made["spec"]["terminationGracePeriodSeconds"] = 1
        of_class = {} if mode is None else {pod.EGRESS: mode}
        made["metadata"] = {"name": self.name(what), "labels": {**self.labels, **of_class}}
        return made

    def program(self, what: str, task: Json, **more: Any) -> Json:
        """The manifest of a pod like that of a session, whose container does a task of `inside` in place of
        Ship. It needs one image and copies nothing.
        """
        made = self.session(what, token="", **more)
        made["spec"].pop("initContainers", None)
        ship, [sandbox] = pod.ship_container(self.settings), made["spec"]["containers"]
        *python, _, _ = ship["command"]
        keeps = [one for one in sandbox["volumeMounts"] if one["name"] in (_VOLUME, "tmp")]
        made["spec"]["containers"] = [
            {
                **ship,
                "name": pod.CONTAINER,
                "command": [*python, "-c", inspect.getsource(inside), json.dumps(task)],
                "resources": sandbox["resources"],
                "volumeMounts": keeps,
            }
        ]
        made["spec"]["volumes"] = [one for one in made["spec"]["volumes"] if one["name"] in (_VOLUME, "tmp")]
        return made

    async def create(self, kind: Kind, manifest: Json) -> str:
        """Make an object, and return its name. Raises KubeRefused."""
        name = str(manifest["metadata"]["name"])
        self._made.append((kind, name))
        # To its end also on Ctrl-C: an object made by a call that nobody waits for is removed by nobody.
        await uninterrupted(asyncio.ensure_future(self.kube.create(kind, manifest)))
        return name

    async def ended(self, name: str) -> CanaryEnd:
        """The end of a pod whose program ends."""
        return await self._until(name, _end_of)

    async def address(self, name: str) -> str:
        """The IP address of a pod that runs."""
        return await self._until(name, _address_of)

    async def seen(self, name: str) -> PodState:
        """A pod as it is now."""
        return pod_state(await self._object(name))

    async def check_may_start(self, state: PodState, began: float) -> None:
        """Raises SandboxNotReady for a pod that will not run. `began`: when it was made, by the loop's
        clock.
        """
        waited_s = asyncio.get_running_loop().time() - began
        is_late = waited_s > self._start_s
        if (reason := why_not(state, None, is_late=is_late)) is not None:
            raise SandboxNotReady(reason)
        if is_late and state.ip is None and (told := await obstacle(self.kube, state.uid)):
            raise SandboxNotReady(f"pod {state.name} does not start: {told}")
        if waited_s > _DEADLINE_S:
            raise SandboxNotReady(f"pod {state.name} has done nothing for {_DEADLINE_S} s")

    async def remove(self, kind: Kind, name: str) -> None:
        """Have an object removed; it is gone when its node has ended it."""
        await self.kube.delete(kind, name, grace_s=1 if kind is POD else None)

    @property
    def _selector(self) -> str:
        return ",".join(f"{key}={value}" for key, value in self.labels.items())

    async def _remove_remains(self, kind: Kind) -> None:
        async for found in self.kube.list(kind, labels=self._selector, metadata_only=True):
            metadata = as_dict(found.get("metadata"))
            if metadata.get("deletionTimestamp") is None:
                await self.remove(kind, str(metadata.get("name")))

    async def _object(self, name: str) -> Json:
        found = await self.kube.get(POD, name)
        if found is None:
            raise SandboxNotReady(f"pod {name} was removed by somebody else, such as another `bay doctor`")
        return found

    async def _until(self, name: str, fact: Callable[[Json, PodState], T | None]) -> T:
        began = asyncio.get_running_loop().time()
        while True:
            found = await self._object(name)
            state = pod_state(found)
            if (known := fact(found, state)) is not None:
                return known
            await self.check_may_start(state, began)
            await self.sleep(_POLL_S)

    async def _remove_all(self) -> None:
        """Snapshots first, and claims last: each waits for those before it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_REMOVAL_S):
                for wanted in (VOLUME_SNAPSHOT, POD, CLAIM):
                    for kind, name in self._made:
                        if kind is wanted:
                            with suppress(BayError):  # the next run removes it, and pods end by themselves
                                await self.remove(kind, name)


def _end_of(found: Json, state: PodState) -> CanaryEnd | None:
    if state.phase not in ("Succeeded", "Failed"):
        return None
    said = "; ".join(f"{one.reason}, exit code {one.exit_code}" for one in state.terminated)
    for one in as_list(as_dict(found.get("status")).get("containerStatuses")):
        ended = as_dict(as_dict(as_dict(one).get("state")).get("terminated"))
        with suppress(ValueError, TypeError, RecursionError):
            return CanaryEnd(as_dict(json.loads(ended.get("message", ""))) or None, said)
    return CanaryEnd(None, said or f"{state.reason} {state.message}".strip())


def _address_of(_found: Json, state: PodState) -> str | None:
    return state.ip if state.running else None
