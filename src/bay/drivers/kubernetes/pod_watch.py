"""The pods of this Bay as its cluster has them: a cache that one watch writes and nothing else.

Six rules, each of which an outage of another platform taught:

 1. A watch has a time-out of its own for a silent socket. A half-open connection stopped an informer for six
    hours, and no line of the log said so.
 2. Bookmarks are on, so a watch of quiet pods is not silent either, and the time since the last word of the
    API server (`age_s`) says how old the cache may be.
 3. A failure is followed by another attempt, for ever, after pauses of 0.1 to 30 s. Reflectors that gave up
    after half a minute were used for days.
 4. Only the watch writes. Replies to Bay's own requests may be late: written into such a cache, they made
    deleted pods alive again.
 5. When the API server has forgotten the version (410), a consistent list is compared with the cache, so that
    a deletion in the gap is a change like any other. A list of metadata is compared now and then as well.
 6. Events are not watched: there are more of them than of all else. See `Kube.events_of`.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import structlog

from bay.backoff import Backoff
from bay.drivers.kubernetes.kube import (
    POD,
    Expired,
    Json,
    Kube,
    ObjectChange,
    as_dict,
    as_list,
    bounded,
)
from bay.errors import DriverUnavailable

log = structlog.get_logger("bay.drivers.kubernetes")

_OWN = "bay.dev/"
_CURRENT_S = 120.0
"""A cache is current so long after the last word of the API server, which says one each minute."""
_BACKOFF = Backoff(0.1, 30.0)


@dataclass(frozen=True, slots=True)
class EndedContainer:
    """A container whose process has ended. `exit_code` and `signal` are as the kubelet reports them."""

    container: str
    exit_code: int | None
    signal: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class WaitingContainer:
    """A container that does not run yet, and why, such as `ErrImagePull`."""

    container: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PodScheduling:
    """The condition PodScheduled. `status` is `True`, `False`, or empty where there is none yet."""

    status: str = ""
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodState:
    """The facts of a pod that Bay acts on. A field that the API server left out is empty, or None."""

    name: str
    uid: str
    resource_version: str
    node: str | None
    ip: str | None
    phase: str
    """A word of the API server's: a `Running` pod may have ended with its node."""
    reason: str
    message: str
    ready: bool
    deleting: bool
    terminated: tuple[EndedContainer, ...]
    """Containers that have ended, those that run before the others (init containers) too."""
    all_terminated: bool
    """Whether the kubelet says of each container that it has ended, or that it never began because one that
    runs before it failed. No status at all is no such word."""
    running: tuple[str, ...]
    """The containers that run, as the kubelet said last."""
    waiting: tuple[WaitingContainer, ...]
    scheduled: PodScheduling
    annotations: Mapping[str, str]
    """Those of Bay, which begin with `bay.dev/`."""
    labels: Mapping[str, str]
    """Those of Bay, which begin with `bay.dev/`."""
    finalizers: tuple[str, ...]
    claims: tuple[str, ...] = ()
    """The names of the volume claims that it mounts."""
    images: Mapping[str, str] = field(default_factory=dict[str, str])
    """The `imageID` of each container that the kubelet has made, by the container's name."""


class PodWatch:
    """All pods that the selector `labels` matches. Nothing is known before `run` has listed them once."""

    def __init__(
        self,
        kube: Kube,
        *,
        labels: str,
        silence_s: float = 90.0,
        check_every_s: float = 600.0,
        settle_s: float = 30.0,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube = kube
        self._labels = labels
        self._silence_s = silence_s
        self._check_every_s = check_every_s
        self._settle_s = settle_s
        self._sleep = sleep
        self._clock = clock
        self._pods: dict[str, PodState] = {}
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._listed = asyncio.Event()
        self._heard_at: float | None = None
        self._words = 0
        """How many changes and bookmarks came."""
        self._version: str | None = None
        """How far the watch has got. None: a list comes first."""
        self._until: asyncio.Timeout | None = None
        """The end of the present watch, which `check` moves to now."""

    async def run(self) -> NoReturn:
        """Keep the cache, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._check_now_and_then())
        raise AssertionError("both go on for ever")

    async def synced(self) -> None:
        """Return once all pods were listed."""
        await self._listed.wait()

    def get(self, name: str) -> PodState | None:
        """The pod of that name, as the API server had it `age_s` ago or later; None when it had none."""
        return self._pods.get(name)

    def all(self) -> list[PodState]:
        """Each pod."""
        return list(self._pods.values())

    def wake(self, names: Iterable[str]) -> None:
        """End all waits for a change of these pods: something that no watch tells has happened to them."""
        for name in names:
            self._wake(name)

    async def changed(self, name: str, seen: PodState | None) -> PodState | None:
        """Return the pod of that name at its next change from `seen`, or at a `wake`, as when all pods were
        listed again.

        `seen` is the value of an earlier `get`: a change between the two is not missed.
        """
        if self._pods.get(name) == seen:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.setdefault(name, set()).add(waiter)
            try:
                await waiter
            finally:
                waiters = self._waiters[name]
                waiters.discard(waiter)
                if not waiters:
                    del self._waiters[name]
        return self._pods.get(name)

    @property
    def age_s(self) -> float:
        """Seconds since the last word of the API server; infinite before the first."""
        return float("inf") if self._heard_at is None else self._clock() - self._heard_at

    @property
    def is_current(self) -> bool:
        """Whether the pods are as they were two minutes ago or later."""
        return self._listed.is_set() and self.age_s <= _CURRENT_S

    async def _follow(self) -> NoReturn:
        failures = 0
        while True:
            words = self._words
            failure = await self._attempt()
            if self._words > words:
                failures = 0
                if failure is None:
                    continue
            failures += 1
            why = failure or "the API server ended it without a word"
            log.warning("kubernetes.watch_failed", failures=failures, reason=why)
            await self._sleep(_BACKOFF.pause(failures) * random.uniform(0.5, 1.0))  # noqa: S311 (it spreads load)

    async def _attempt(self) -> str | None:
        """One watch to its end, after a list where one is due; why it failed, or None."""
        try:
            if self._version is None:
                self._version = await self._list()
            await self._watch(self._version)
        except Expired as error:
            self._version = None
            return str(error)
        except DriverUnavailable as error:
            return error.message
        except Exception as error:  # a defect here must not end the only watch
            log.exception("kubernetes.watch_defect")
            self._version = None
            return str(error)
        return None

    async def _list(self) -> str:
        """Take over a consistent list, and return its version."""
        found: dict[str, PodState] = {}
        version = ""
        async with contextlib.aclosing(self._kube.pages(POD, labels=self._labels)) as pages:
            async for page in pages:
                states = (pod_state(item) for item in page.items)
                found.update((state.name, state) for state in states if state.name)
                version = page.version
        self._pods = found
        self._heard_at = self._clock()
        self._listed.set()
        self.wake(list(self._waiters))
        return version

    async def _watch(self, since: str) -> None:
        try:
            async with (
                asyncio.timeout(None) as self._until,
                contextlib.aclosing(
                    self._kube.watch(POD, labels=self._labels, since=since, silence_s=self._silence_s)
                ) as changes,
            ):
                async for change in changes:
                    self._take(change)
        except TimeoutError:
            raise Expired("it has missed changes") from None
        finally:
            self._until = None

    def _take(self, change: ObjectChange) -> None:
        self._heard_at = self._clock()
        self._words += 1
        state = pod_state(change.object)
        self._version = state.resource_version or self._version
        if not state.name:
            return
        if change.type in ("ADDED", "MODIFIED"):
            self._pods[state.name] = state
        elif change.type == "DELETED":
            self._pods.pop(state.name, None)
        self._wake(state.name)

    async def _check_now_and_then(self) -> NoReturn:
        while True:
            await self._sleep(self._check_every_s * random.uniform(0.8, 1.2))  # noqa: S311 (it spreads load)
            try:
                await self.check()
            except (Expired, DriverUnavailable):
                continue  # the watch fails too, and says so
            except Exception:  # a defect here must not end the watch
                log.exception("kubernetes.watch_defect")

    async def check(self) -> bool:
        """Whether the cache agrees with a list of metadata. Otherwise all pods are listed again.

        A pod is wrong only when the cache had it before the list began and has it still, unchanged, after the
        watch had `settle_s` seconds to tell of the list's state. Raises Expired and DriverUnavailable.
        """
        before = dict(self._pods)
        listed: dict[str, tuple[str, str]] = {}
        pages = self._kube.pages(POD, labels=self._labels, metadata_only=True)
        async with contextlib.aclosing(pages):
            async for page in pages:
                for state in map(pod_state, page.items):
                    if state.name:
                        listed[state.name] = (state.uid, state.resource_version)
        await self._sleep(self._settle_s)
        wrong = [
            name
            for name in {*before, *listed}
            if (former := before.get(name)) == self._pods.get(name)
            and listed.get(name) != (former and (former.uid, former.resource_version))
        ]
        if wrong and self._until is not None:  # without a watch a list is due anyway, or the watch goes on
            log.warning("kubernetes.watch_missed", pods=sorted(wrong)[:10], count=len(wrong))
            self._until.reschedule(asyncio.get_running_loop().time())
        return not wrong

    def _wake(self, name: str) -> None:
        for waiter in self._waiters.get(name, ()):
            if not waiter.done():
                waiter.set_result(None)


def pod_state(pod: Json) -> PodState:
    """The state of a pod, of which no field has to be there."""
    metadata, spec, status = (as_dict(pod.get(part)) for part in ("metadata", "spec", "status"))
    conditions = {one.get("type"): one for one in map(as_dict, as_list(status.get("conditions")))}
    early = [as_dict(one) for one in as_list(status.get("initContainerStatuses"))]
    late = [as_dict(one) for one in as_list(status.get("containerStatuses"))]
    terminated = tuple(ended for one in (*early, *late) if (ended := _ended(one)))
    phase = _text(status.get("phase"))
    return PodState(
        name=_text(metadata.get("name")),
        uid=_text(metadata.get("uid")),
        resource_version=_text(metadata.get("resourceVersion")),
        node=_text(spec.get("nodeName")) or None,
        ip=_text(status.get("podIP")) or None,
        phase=phase,
        reason=_text(status.get("reason")),
        message=_text(status.get("message")),
        ready=as_dict(conditions.get("Ready")).get("status") == "True",
        deleting=bool(metadata.get("deletionTimestamp")),
        terminated=terminated,
        all_terminated=_all_terminated(spec, early, late, phase),
        running=tuple(_text(one.get("name")) for one in (*early, *late) if _runs(one)),
        waiting=tuple(waiting for one in (*early, *late) if (waiting := _waiting(one))),
        scheduled=_scheduling(as_dict(conditions.get("PodScheduled"))),
        annotations=_own(metadata.get("annotations")),
        labels=_own(metadata.get("labels")),
        finalizers=tuple(map(str, as_list(metadata.get("finalizers")))),
        claims=_claims(spec),
        images={_text(one.get("name")): _text(one["imageID"]) for one in late if one.get("imageID")},
    )


def _claims(spec: Json) -> tuple[str, ...]:
    sources = [as_dict(as_dict(one).get("persistentVolumeClaim")) for one in as_list(spec.get("volumes"))]
    return tuple(_text(source.get("claimName")) for source in sources if source)


def _all_terminated(spec: Json, early: list[Json], late: list[Json], phase: str) -> bool:
    ended = {one.container for one in map(_ended, late) if one}
    expected = {_text(as_dict(one).get("name")) for one in as_list(spec.get("containers"))}
    if expected and expected <= ended:
        return True
    running = any(map(_runs, (*early, *late)))
    failed = any(one.exit_code not in (0, None) for one in map(_ended, early) if one)
    return failed and not running and phase == "Failed"


def _runs(container: Json) -> bool:
    return "running" in as_dict(container.get("state"))


def _ended(container: Json) -> EndedContainer | None:
    found = as_dict(as_dict(container.get("state")).get("terminated"))
    if not found:
        return None
    return EndedContainer(
        _text(container.get("name")),
        _number(found.get("exitCode")),
        _number(found.get("signal")) or None,
        _text(found.get("reason")),
    )


def _waiting(container: Json) -> WaitingContainer | None:
    found = as_dict(as_dict(container.get("state")).get("waiting"))
    if not found:
        return None
    return WaitingContainer(
        _text(container.get("name")), _text(found.get("reason")), _text(found.get("message"))
    )


def _scheduling(condition: Json) -> PodScheduling:
    return PodScheduling(*(_text(condition.get(part)) for part in ("status", "reason", "message")))


def _own(values: object) -> Mapping[str, str]:
    return {key: str(value) for key, value in as_dict(values).items() if key.startswith(_OWN)}


def _text(value: object) -> str:
    return bounded(value) if isinstance(value, str) else ""


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None
