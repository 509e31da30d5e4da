"""The cache of pods against an API server that is silent, forgetful, busy or broken.

Each test of a rule of `bay.drivers.kubernetes.pod_watch` fails when the line that keeps the rule is removed.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from aiohttp.web import BaseRequest
from blockbuster import blockbuster_ctx
from kube_server import KubeServer, Pauses, Said, cut, name_of, pod, status

from bay.drivers.kubernetes.kube import POD, Kube, KubeAccess, ObjectPage, Persistence
from bay.drivers.kubernetes.pod_watch import EndedContainer, PodState, PodWatch, WaitingContainer, pod_state

pytestmark = [pytest.mark.kubernetes, pytest.mark.anyio]

WAIT_S = 20.0
GONE = Said(410, status(410, "Expired", "too old resource version"))
FORGOTTEN = status(410, "Expired", "too old resource version")
FAILED = Said(500, status(500, "InternalError", "etcdserver: leader changed"))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def kube(access: KubeAccess) -> AsyncGenerator[Kube]:
    """A client that tries each request once, so that each failure reaches the watch."""
    made = await Kube.connect(access, persistence=Persistence(tries=1))
    with blockbuster_ctx("bay"):
        yield made
    await made.aclose()


@contextlib.asynccontextmanager
async def running(watch: PodWatch) -> AsyncGenerator[PodWatch]:
    task = asyncio.create_task(watch.run())
    try:
        yield watch
        assert not task.done()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def pods(kube: Kube, pauses: Pauses, clock: Clock) -> AsyncGenerator[PodWatch]:
    """A cache that runs from when the test awaits something."""
    made = PodWatch(kube, labels="bay.dev/install=i", sleep=pauses, clock=clock)
    async with running(made):
        yield made


async def until_changed(pods: PodWatch, name: str, seen: PodState | None) -> PodState | None:
    async with asyncio.timeout(WAIT_S):
        return await pods.changed(name, seen)


async def appeared(pods: PodWatch, name: str) -> PodState:
    """The pod, once the cache has it."""
    async with asyncio.timeout(WAIT_S):
        while (found := pods.get(name)) is None:
            await pods.changed(name, None)
    return found


async def gone(pods: PodWatch, name: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while (found := pods.get(name)) is not None:
            await pods.changed(name, found)


def sinces(server: KubeServer) -> list[str]:
    """The versions from which watches were asked for."""
    return [seen.query["resourceVersion"] for seen in server.seen if "watch" in seen.query]


# --- The ordinary course


async def test_all_pages_of_a_list_are_the_beginning_and_the_watch_goes_on_from_it(
    pods: PodWatch, server: KubeServer
) -> None:
    for number in range(5):
        server.put(f"p{number}")
    server.page = 2
    watch = await server.watch()
    assert {state.name for state in pods.all()} == {f"p{number}" for number in range(5)}
    assert watch.since == str(server.version)
    assert server.seen[-1].query["labelSelector"] == "bay.dev/install=i"
    await watch.send("ADDED", server.put("new"))
    first = await appeared(pods, "new")
    await watch.send("MODIFIED", server.put("new", status={"phase": "Running", "podIP": "10.0.0.7"}))
    second = await until_changed(pods, "new", first)
    assert second is not None
    assert (second.phase, second.ip) == ("Running", "10.0.0.7")
    await watch.send("DELETED", server.remove("new"))
    assert await until_changed(pods, "new", second) is None


async def test_nothing_is_known_before_the_first_list(kube: Kube, server: KubeServer, pauses: Pauses) -> None:
    made = PodWatch(kube, labels="", sleep=pauses)
    assert (made.all(), made.age_s, made.is_current) == ([], float("inf"), False)
    waiting = asyncio.create_task(made.synced())
    async with running(made), asyncio.timeout(WAIT_S):
        await waiting
        assert made.is_current


async def test_events_are_not_watched(pods: PodWatch, server: KubeServer) -> None:
    await server.watch()
    assert [seen.path for seen in server.seen if "events" in seen.path] == []


# --- Changes are not missed


async def test_a_change_between_a_look_and_the_wait_is_not_missed(pods: PodWatch, server: KubeServer) -> None:
    watch = await server.watch()
    await watch.send("ADDED", server.put("a"))
    seen = await appeared(pods, "a")
    await watch.send("MODIFIED", server.put("a", status={"phase": "Failed"}))
    await watch.send("ADDED", server.put("b"))
    await appeared(pods, "b")  # so the change of `a` has happened already
    changed = await until_changed(pods, "a", seen)
    assert changed is not None
    assert changed.phase == "Failed"


async def test_every_waiter_of_a_pod_hears_of_a_change_and_none_stays(
    pods: PodWatch, server: KubeServer
) -> None:
    watch = await server.watch()
    given_up = asyncio.create_task(pods.changed("a", None))
    waiting = [asyncio.create_task(until_changed(pods, "a", None)) for _ in range(3)]
    await watch.send("ADDED", server.put("other"))
    await appeared(pods, "other")
    assert not any(task.done() for task in waiting)
    given_up.cancel()
    await watch.send("ADDED", server.put("a"))
    assert [state and state.name for state in await asyncio.gather(*waiting)] == ["a"] * 3
    assert pods._waiters == {}


# --- 1 and 2: silence


async def test_a_half_open_watch_is_left_and_goes_on_from_the_last_bookmark(
    kube: Kube, server: KubeServer, pauses: Pauses
) -> None:
    async with running(PodWatch(kube, labels="", silence_s=0.3, sleep=pauses)):
        silent = await server.watch()
        await silent.bookmark(4000)
        assert (await server.watch()).since == "4000"
        assert server.count("list") == 1


async def test_bookmarks_alone_keep_the_cache_current(
    pods: PodWatch, server: KubeServer, clock: Clock
) -> None:
    watch = await server.watch()
    assert pods.age_s == 0
    clock.now += 119
    assert pods.is_current
    clock.now += 2
    assert (pods.is_current, pods.age_s) == (False, 121)
    await watch.bookmark(5000)
    await watch.send("ADDED", server.put("a"))
    await appeared(pods, "a")
    assert (pods.is_current, pods.age_s) == (True, 0)


async def test_a_bookmark_is_where_the_next_watch_begins(
    pods: PodWatch, server: KubeServer, pauses: Pauses
) -> None:
    """The end that a server makes each few minutes costs neither a list nor a pause."""
    first = await server.watch()
    await first.bookmark(5000)
    first.end()
    second = await server.watch()
    assert second.since == "5000"
    assert server.count("list") == 1
    assert pauses.taken == []


# --- 3: never give up


@pytest.mark.parametrize(
    "fault", [FAILED, Said(403, status(403, "Forbidden", "no")), Said(401), cut], ids=name_of
)
@pytest.mark.parametrize("what", ["list", "watch"])
async def test_the_watch_survives_a_long_failure_with_growing_pauses(
    pods: PodWatch, server: KubeServer, pauses: Pauses, what: str, fault: Any
) -> None:
    server.next(what, *[fault] * 40)
    watch = await server.watch()
    await watch.send("ADDED", server.put("a"))
    await appeared(pods, "a")
    assert 20 <= len(pauses.taken) <= 40  # the library may repeat one whose connection broke
    for failures, pause in enumerate(pauses.taken):
        whole = min(0.1 * 2**failures, 30.0)
        assert whole / 2 <= pause <= whole
    assert len(set(pauses.taken[10:])) > 1  # not all replicas come back together


async def test_a_watch_that_worked_begins_with_the_shortest_pause_again(
    pods: PodWatch, server: KubeServer, pauses: Pauses
) -> None:
    server.next("list", *[FAILED] * 10)
    watch = await server.watch()
    await watch.bookmark(5000)
    await watch.cut()
    await server.watch()
    assert len(pauses.taken) == 11
    assert pauses.taken[-1] <= 0.1


async def test_a_server_that_ends_each_watch_at_once_is_not_asked_without_pause(
    pods: PodWatch, server: KubeServer, pauses: Pauses
) -> None:
    for _ in range(6):
        (await server.watch()).end()
    await server.watch()
    assert len(pauses.taken) == 6
    assert pauses.taken[-1] > 1
    assert server.count("list") == 1


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\xff garbage\n",
        b'{"type": "ADDED", "object": {"metadata": {"name": "half',
        b'{"type": "MODIFIED"}\n',
        json.dumps({"type": "ERROR", "object": status(500, "InternalError")}).encode() + b"\n",
    ],
    ids=["garbage", "half a line", "no object", "an error"],
)
async def test_after_nonsense_the_watch_goes_on_from_the_last_change(
    pods: PodWatch, server: KubeServer, data: bytes
) -> None:
    watch = await server.watch()
    known = server.put("a")
    await watch.send("ADDED", known)
    await watch.raw(data)
    watch.end()
    again = await server.watch()
    assert again.since == known["metadata"]["resourceVersion"]
    await again.send("ADDED", server.put("b"))
    await appeared(pods, "b")
    assert {state.name for state in pods.all()} == {"a", "b"}
    assert server.count("list") == 1


async def test_a_defect_does_not_end_the_watch(server: KubeServer, pauses: Pauses) -> None:
    class Broken:
        """A client whose third watch works."""

        def __init__(self) -> None:
            self.attempts = 0
            self.works = asyncio.Event()

        async def pages(self, *_: object, **__: object) -> AsyncGenerator[ObjectPage]:
            yield ObjectPage([pod("a", 1)], "1")

        async def watch(self, *_: object, **__: object) -> AsyncGenerator[object]:
            self.attempts += 1
            if self.attempts < 3:
                raise RuntimeError("a defect")
            self.works.set()
            await asyncio.Event().wait()
            yield None

    broken: Any = Broken()
    async with running(PodWatch(broken, labels="", sleep=pauses)), asyncio.timeout(WAIT_S):
        await broken.works.wait()


# --- 4: only the watch writes


async def test_replies_to_bays_own_requests_do_not_touch_the_cache(
    pods: PodWatch, kube: Kube, server: KubeServer
) -> None:
    watch = await server.watch()
    await watch.send("ADDED", server.put("a"))
    seen = await appeared(pods, "a")
    late = pod("a", 9999, status={"phase": "Succeeded"})
    server.next("other", Said(200, late), Said(201, pod("b", 9999)), Said(200, late), Said(200, late))
    await kube.get(POD, "a")
    await kube.create(POD, {"metadata": {"name": "b"}})
    await kube.patch(POD, "a", {"metadata": {}})
    await kube.delete(POD, "a")
    assert pods.get("a") is seen
    assert pods.get("b") is None


# --- 5: forgotten versions


@pytest.mark.parametrize("as_event", [False, True])
async def test_a_deletion_in_a_gap_of_the_history_is_a_change(
    pods: PodWatch, server: KubeServer, as_event: bool
) -> None:
    for name in ("a", "b"):
        server.put(name)
    watch = await server.watch()
    seen = pods.get("a")
    assert seen is not None
    waiting = asyncio.create_task(until_changed(pods, "a", seen))
    server.remove("a")
    server.put("c")
    if as_event:
        await watch.send("ERROR", FORGOTTEN)
    else:
        await watch.bookmark(5000)
        server.next("watch", GONE)
    watch.end()
    again = await server.watch()
    assert await waiting is None
    assert {state.name for state in pods.all()} == {"b", "c"}
    assert again.since == str(server.version)
    lists = [seen for seen in server.seen if seen.path.endswith("/pods") and "watch" not in seen.query]
    assert len(lists) == 2
    assert all("resourceVersion" not in seen.query for seen in lists)


async def test_a_waiter_hears_of_a_new_list_too(pods: PodWatch, server: KubeServer) -> None:
    watch = await server.watch()
    waiting = asyncio.create_task(until_changed(pods, "nothing", None))
    await watch.send("ERROR", FORGOTTEN)
    watch.end()
    assert await waiting is None


async def test_a_storm_of_forgotten_versions_is_met_with_growing_pauses(
    pods: PodWatch, server: KubeServer, pauses: Pauses
) -> None:
    server.next("watch", *[GONE] * 15)
    await server.watch()
    assert len(pauses.taken) == 15
    assert pauses.taken[0] <= 0.1
    assert pauses.taken[-1] >= 15
    assert server.count("list") == 16


async def test_a_list_that_is_forgotten_in_the_middle_changes_nothing(
    pods: PodWatch, server: KubeServer
) -> None:
    for name in ("a", "b", "c"):
        server.put(name)
    watch = await server.watch()
    server.page = 1
    server.next("list", Said(200, server._list({}, only_metadata=False)), GONE, FAILED)
    await watch.send("ERROR", FORGOTTEN)
    watch.end()
    await server.watch()
    assert {state.name for state in pods.all()} == {"a", "b", "c"}
    assert server.count("list") == 1 + 3 + 3


async def test_the_cache_has_its_old_pods_until_a_new_list_is_whole(
    pods: PodWatch, server: KubeServer
) -> None:
    server.put("a")
    watch = await server.watch()
    seen = pods.get("a")
    waiting = asyncio.create_task(until_changed(pods, "a", seen))
    empty: dict[str, Any] = {"metadata": {"resourceVersion": "1", "continue": "0"}, "items": []}
    between: list[PodState | None] = []

    async def look(request: BaseRequest) -> None:
        between.append(pods.get("a"))
        await cut(request)

    server.next("list", Said(200, empty), look)
    await watch.send("ERROR", FORGOTTEN)
    watch.end()
    await server.watch()
    assert await waiting == seen
    assert between == [seen]


async def test_a_list_of_metadata_finds_a_deletion_that_the_watch_missed(
    pods: PodWatch, server: KubeServer, pauses: Pauses
) -> None:
    for name in ("a", "b"):
        server.put(name)
    await server.watch()
    server.remove("a")
    server.put("c")
    assert await pods.check() is False
    await server.watch()
    await gone(pods, "a")
    await appeared(pods, "c")
    assert server.count("list") == 2
    assert await pods.check() is True


async def test_a_list_of_metadata_that_finds_nothing_wrong_leaves_the_watch_alone(
    pods: PodWatch, server: KubeServer
) -> None:
    server.put("a")
    watch = await server.watch()
    server.next("metadata", Said(200, {"metadata": {"resourceVersion": "1"}, "items": [{}, pod("a", 1001)]}))
    assert await pods.check() is True
    await watch.send("ADDED", server.put("b"))
    await appeared(pods, "b")
    assert server.count("list") == 1


async def test_a_change_that_is_still_on_its_way_is_not_taken_for_missed(
    kube: Kube, server: KubeServer, pauses: Pauses
) -> None:
    """The list has a state that the watch tells of while it may, and the watch one that is newer than it."""
    later = asyncio.Event()

    async def sleep(seconds: float) -> None:
        if seconds == 30:
            await later.wait()
        else:
            await pauses(seconds)

    async with running(PodWatch(kube, labels="", sleep=sleep)) as pods:
        server.put("a")
        watch = await server.watch()
        on_its_way = server.put("a", status={"phase": "Running"})
        checking = asyncio.create_task(pods.check())
        seen = pods.get("a")
        await server.asked("metadata")
        await watch.send("MODIFIED", on_its_way)
        await until_changed(pods, "a", seen)
        later.set()
        assert await checking is True


async def test_the_list_of_metadata_is_made_now_and_then_and_may_fail(
    pods: PodWatch, server: KubeServer, pauses: Pauses
) -> None:
    await server.watch()
    server.next("metadata", FAILED, GONE)
    for rounds in (1, 2, 3):
        assert 480 <= await pauses.end_long() <= 720
        await server.asked("metadata", rounds)
    assert server.count("list") == 1


# --- Strange objects


async def test_an_object_without_the_fields_that_one_expects_is_taken_as_it_is(
    pods: PodWatch, server: KubeServer
) -> None:
    server.pods["bare"] = {"metadata": {"name": "bare"}}
    server.pods["nameless"] = {}
    watch = await server.watch()
    for strange in ({"a": 1}, {"metadata": 7}, {"metadata": {"name": ["x"]}}, {"metadata": {"name": "b"}}):
        await watch.send("ADDED", strange)
    for name in ("c", "bare"):
        await watch.send("RENAMED", pod(name, 5))
    odd: dict[str, Any] = {
        "metadata": {"name": "d"},
        "spec": [],
        "status": {"containerStatuses": [1, {"state": {"waiting": 2}}]},
    }
    await watch.send("MODIFIED", odd)
    await appeared(pods, "d")
    assert {state.name for state in pods.all()} == {"bare", "b", "d"}
    assert server.count("watch") == 1
    watch.end()
    assert (await server.watch()).since == "5"


async def test_a_huge_object_leaves_little_in_the_cache(pods: PodWatch, server: KubeServer) -> None:
    watch = await server.watch()
    huge = server.put("a", status={"message": "m" * 3_000_000, "phase": "Failed"})
    huge["metadata"]["annotations"] = {"other": "x" * 3_000_000, "bay.dev/session": "sess-1"}
    await watch.send("ADDED", huge)
    state = await appeared(pods, "a")
    assert len(repr(state)) < 2000
    assert state.annotations == {"bay.dev/session": "sess-1"}


def terminated(code: int = 0, **more: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, **more}}


RUNNING: dict[str, Any] = {"running": {}}
WAITING = {"waiting": {"reason": "PodInitializing"}}


@pytest.mark.parametrize(
    ("phase", "early", "late", "ended"),
    [
        ("Succeeded", {}, {"ship": terminated()}, True),
        ("Running", {}, {"ship": terminated(137, signal=9, reason="OOMKilled")}, True),
        ("Running", {}, {"ship": RUNNING}, False),
        ("Running", {}, {}, False),
        ("Failed", {}, {}, False),  # evicted, or lost with its node: the kubelet has said nothing
        ("Pending", {"closure": RUNNING}, {"ship": WAITING}, False),
        ("Failed", {"closure": terminated(1)}, {"ship": WAITING}, True),
        ("Failed", {"closure": terminated(0)}, {"ship": WAITING}, False),
        ("Pending", {"closure": terminated(1)}, {"ship": WAITING}, False),
        ("Failed", {"closure": terminated(1)}, {"ship": RUNNING}, False),
    ],
)
def test_all_have_terminated_only_where_the_kubelet_says_so_of_each(
    phase: str, early: dict[str, Any], late: dict[str, Any], ended: bool
) -> None:
    state = pod_state(
        {
            "spec": {"containers": [{"name": "ship"}]},
            "status": {
                "phase": phase,
                "initContainerStatuses": [{"name": name, "state": one} for name, one in early.items()],
                "containerStatuses": [{"name": name, "state": one} for name, one in late.items()],
            },
        }
    )
    assert state.all_terminated is ended


def test_one_of_two_containers_is_not_all() -> None:
    state = pod_state(
        {
            "spec": {"containers": [{"name": "ship"}, {"name": "beside"}]},
            "status": {"containerStatuses": [{"name": "ship", "state": terminated(3)}]},
        }
    )
    assert state.all_terminated is False
    assert pod_state({"status": {"phase": "Failed"}}).all_terminated is False
    assert state.terminated == (EndedContainer("ship", 3, None, ""),)


def test_a_state_has_what_bay_acts_on() -> None:
    state = pod_state(
        {
            "metadata": {
                "name": "bay-1",
                "uid": "u",
                "resourceVersion": "7",
                "deletionTimestamp": "2026-01-01T00:00:00Z",
                "finalizers": ["bay.dev/fence"],
                "labels": {"bay.dev/role": "session", "app": "x"},
                "annotations": {"bay.dev/fence": "3", "kubectl": "y"},
            },
            "spec": {"nodeName": "n1", "containers": [{"name": "ship"}]},
            "status": {
                "phase": "Pending",
                "podIP": "10.1.2.3",
                "reason": "Evicted",
                "message": "low\non memory",
                "conditions": [
                    {"type": "Ready", "status": "True"},
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes",
                    },
                ],
                "containerStatuses": [
                    {"name": "ship", "state": {"waiting": {"reason": "ErrImagePull", "message": "no such"}}}
                ],
            },
        }
    )
    assert (state.name, state.uid, state.resource_version, state.node) == ("bay-1", "u", "7", "n1")
    assert (state.phase, state.ip, state.reason, state.message) == (
        *("Pending", "10.1.2.3", "Evicted"),
        "low on memory",
    )
    assert (state.ready, state.deleting, state.finalizers) == (True, True, ("bay.dev/fence",))
    assert (state.labels, state.annotations) == ({"bay.dev/role": "session"}, {"bay.dev/fence": "3"})
    assert state.waiting == (WaitingContainer("ship", "ErrImagePull", "no such"),)
    assert (state.scheduled.status, state.scheduled.reason) == ("False", "Unschedulable")
