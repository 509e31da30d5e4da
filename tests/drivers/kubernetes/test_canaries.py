"""The trials of `bay doctor` in a cluster: their pods, the program in them, and the judgement of outcomes."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from kube_server import KubeServer, Said

from bay.drivers.host_check import HostCheck
from bay.drivers.kubernetes import egress, pod
from bay.drivers.kubernetes.canaries import egress_trial, image_volumes, inside, limits
from bay.drivers.kubernetes.canaries.egress_trial import PLACES, EgressTrial
from bay.drivers.kubernetes.canaries.run import ClusterFacts, cluster_checks
from bay.drivers.kubernetes.canaries.snapshots import claim_is_snapped
from bay.drivers.kubernetes.canaries.start import ship_answers
from bay.drivers.kubernetes.canaries.storage import StorageFacts, claim_is_written
from bay.drivers.kubernetes.canaries.trial_pods import CanaryEnd, TrialPods
from bay.drivers.kubernetes.egress import EgressSettings
from bay.drivers.kubernetes.kube import POD, Json, Kind, Kube, KubeAccess, KubeRefused
from bay.drivers.kubernetes.pod import Isolation, PodSettings

pytestmark = pytest.mark.kubernetes

SETTINGS = PodSettings(
    install="home", image="box:1", ship_image="ship:1", machine="x86_64",
    isolations={"container": Isolation(), "gvisor": Isolation(runtime_class="gvisor")},
)  # fmt: skip
PODS = TrialPods(cast("Kube", None), SETTINGS, start_s=30)
CANARIES = {
    "session": PODS.session("ship", token="a-token-of-one-canary", mode="open", isolation="gvisor"),
    "program": PODS.program("none", {"do": "look"}, mode="none", claim="bay-canary-claim"),
}


@pytest.mark.pure
@pytest.mark.parametrize("made", CANARIES.values(), ids=CANARIES.keys())
def test_a_canary_is_as_locked_down_as_a_session_and_ends_by_itself(made: dict[str, Any]) -> None:
    spec = made["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert (spec["restartPolicy"], spec["activeDeadlineSeconds"]) == ("Never", 300)
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
    mounts = {one["name"] for container in spec["containers"] for one in container["volumeMounts"]}
    assert mounts <= {one["name"] for one in spec["volumes"]}
    assert "a-token-of-one-canary" not in json.dumps(made)


@pytest.mark.pure
@pytest.mark.parametrize("made", CANARIES.values(), ids=CANARIES.keys())
def test_no_bay_takes_a_canary_for_a_pod_of_its_own(made: dict[str, Any]) -> None:
    labels = made["metadata"]["labels"]
    selected = dict(one.split("=") for one in pod.selector(SETTINGS).split(","))
    assert not selected.items() <= labels.items()
    assert made["metadata"].keys() == {"name", "labels"}  # no annotation of a session, and no finalizer
    assert labels[pod.ROLE] == "canary"


@pytest.mark.pure
def test_a_canary_of_a_class_is_held_by_the_policy_of_sessions_and_a_free_one_by_none() -> None:
    policy = egress.manifest(SETTINGS, EgressSettings(enforced=True), "none")
    selected = policy["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= CANARIES["program"]["metadata"]["labels"].items()
    assert pod.EGRESS not in PODS.program("free", {"do": "look"})["metadata"]["labels"]


@pytest.mark.pure
def test_the_program_is_run_by_the_interpreter_of_ships_image_alone() -> None:
    [container] = CANARIES["program"]["spec"]["containers"]
    assert "initContainers" not in CANARIES["program"]["spec"]
    assert container["image"] == "ship:1"
    assert container["command"][0].startswith("/closure/")
    compile(container["command"][-2], "inside", "exec")
    assert json.loads(container["command"][-1]) == {"do": "look"}


def trial(*held: str, free: tuple[str, ...] = tuple(PLACES), silent: str = "timeout") -> EgressTrial:
    """The places that pods of both classes reached, and those that a free pod did."""
    outcomes = {place: "connected" if place in held else silent for place in PLACES}
    of_free = {place: "connected" if place in free else "timeout" for place in PLACES}
    return EgressTrial(free=of_free, held={"none": outcomes, "open": outcomes})


def rows(found: EgressTrial, *, claimed: bool) -> Mapping[str, HostCheck]:
    return {row.name: row for row in egress_trial.judged(found, claimed=claimed)}


STATES = {
    # the places that are reached, claimed: (ok, required, first words)
    "enforced": (trial(free=("peer", "bay", "dns")), True, (True, True, "enforced: a pod of class none does not")),
    "refused": (trial(silent="refused"), True, (True, True, "enforced: ")),
    "could-claim": (trial(free=("peer",)), False, (False, False, "enforced: ")),
    "metadata-alone-is-held": (trial("peer", "bay", "dns", "api"), False, (False, False, "in part: ")),
    "all": (trial(*PLACES), False, (False, False, "unenforced: a pod of class none reaches another pod, the")),
    "claims-too-much": (trial("peer"), True, (False, True, "in part: ")),
    "one-way-left": (trial("metadata"), True, (False, True, "in part: a pod of class none reaches the metadata")),
    "no-proof": (trial(free=("metadata",)), True, (False, True, "cannot tell: a pod without a class")),
}  # fmt: skip


@pytest.mark.pure
@pytest.mark.parametrize(("found", "claimed", "expected"), STATES.values(), ids=STATES.keys())
def test_a_class_is_enforced_when_what_a_free_pod_reaches_is_not_reached(
    found: EgressTrial, claimed: bool, expected: tuple[bool, bool, str]
) -> None:
    ok, required, words = expected
    for name in ("egress-none", "egress-open"):
        row = rows(found, claimed=claimed)[name]
        assert (row.ok, row.required) == (ok, required)
        assert row.found.startswith(words.replace("none", name.removeprefix("egress-")))


@pytest.mark.pure
def test_a_place_where_nobody_answers_proves_nothing_and_is_said() -> None:
    row = rows(trial(free=("peer", "bay")), claimed=True)["egress-none"]
    assert row.found == (
        "enforced: a pod of class none does not reach another pod and this host; nobody answers at the metadata "
        "address 169.254.169.254, the API server's address in the cluster and the cluster's DNS"
    )


@pytest.mark.pure
def test_a_stranger_that_reaches_ship_is_an_error_where_policies_are_claimed() -> None:
    assert rows(trial(free=("peer",)), claimed=True)["ingress"].ok
    found = rows(trial(free=("peer", "ship")), claimed=True)["ingress"]
    assert (found.ok, found.required, found.risk) == (False, True, True)
    assert not rows(trial(free=()), claimed=True)["ingress"].ok  # nobody reached anybody: no proof


@pytest.mark.pure
@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("connected", "reaches Bay's"),
        ("refused", "does not reach (refused)"),
        (None, "(its name has no address)"),
    ],
)
def test_the_way_to_the_egress_proxy_is_tried_where_there_is_one(outcome: str | None, words: str) -> None:
    plain = trial(free=("peer",))
    told = {**plain.held["none"], **({} if outcome is None else {"proxy": outcome})}
    found = rows(replace(plain, held={**plain.held, "proxy": told}), claimed=True)
    assert found["proxy"].ok is (outcome == "connected")
    assert words in found["proxy"].found
    assert found["egress-proxy"].ok
    assert "proxy" not in rows(plain, claimed=True)


def test_the_resolvers_of_a_held_pod_are_named_and_of_others_not_asked_for() -> None:
    found = trial(free=("peer",))
    for outcome, ok in (("timeout", False), ("connected", True)):
        of_open = {**found.held["open"], "resolver-9.9.9.9": outcome}
        tried = EgressTrial(free=found.free, held={**found.held, "open": of_open})
        row = rows(tried, claimed=True)["resolvers"]
        assert row.ok is ok
        assert "9.9.9.9" in row.found
    assert "resolvers" not in rows(found, claimed=False)


TOLD = {"cpu_percent": 21, "processes": "1019", "memory": "killed"}
LIMITS: dict[str, tuple[CanaryEnd, Mapping[str, bool]]] = {
    "all-bite": (CanaryEnd(TOLD, ""), {"cpu": True, "process": True, "memory": True}),
    "none-bites": (
        CanaryEnd({"cpu_percent": 99, "processes": "4500", "memory": "all"}, ""),
        {"cpu": False, "process": False, "memory": False},
    ),
    "the-pod-ends": (
        CanaryEnd({"cpu_percent": 20, "processes": "killed"}, "OOMKilled, exit code 137"),
        {"cpu": True, "process": False, "memory": True},
    ),
    "nothing-told": (
        CanaryEnd(None, "Error, exit code 1"),
        {"cpu": False, "process": False, "memory": False},
    ),
}


@pytest.mark.pure
@pytest.mark.parametrize(("end", "bite"), LIMITS.values(), ids=LIMITS.keys())
def test_a_limit_bites_when_its_effect_was_seen(end: CanaryEnd, bite: Mapping[str, bool]) -> None:
    found = limits.judged(end, "gvisor")
    assert {row.name: row.ok for row in found} == {f"{name}-limit:gvisor": ok for name, ok in bite.items()}
    assert all(row.risk and not row.required for row in found)


@pytest.mark.pure
def test_memory_says_whether_the_pod_goes_on() -> None:
    said = {
        end: {row.name: row.found for row in limits.judged(LIMITS[end][0])}["memory-limit"] for end in LIMITS
    }
    assert said["all-bite"] == "a program above the limit is killed, and the pod goes on"
    assert said["the-pod-ends"] == "a program above the limit ends the whole pod"
    assert "480 MiB, with a limit of 320 MiB" in said["none-bites"]


@pytest.mark.pure
def test_an_image_volume_that_came_back_without_its_image_is_none() -> None:
    kept = {"spec": {"volumes": [{"name": "image", "image": {"reference": "ship:1"}}]}}
    assert image_volumes.is_understood(kept)
    assert not image_volumes.is_understood({"spec": {"volumes": [{"name": "image", "emptyDir": {}}]}})


class ScriptedKube:
    """A cluster that has what a test says, and keeps what is made in it."""

    def __init__(
        self, *, serves: bool = True, rights: tuple[str, ...] = ("list", "create", "get", "delete")
    ) -> None:
        self.has_snapshots = serves
        self.rights = rights
        self.classes: list[Json] = []
        self.status: Json = {}
        self.made: dict[str, Json] = {}
        self.refuses: Mapping[str, str] = {}
        self.pods: Json = {}
        self.let_go = asyncio.Event()
        self.let_go.set()
        self.asked = asyncio.Event()

    async def serves(self, _: Kind) -> bool:
        return self.has_snapshots

    async def may(self, verb: str, _: Kind) -> bool:
        return verb in self.rights

    async def get(self, kind: Kind, name: str) -> Json | None:
        match kind.name:
            case "PersistentVolumeClaim":
                return {"spec": {"storageClassName": "fast"}}
            case "StorageClass":
                return {"provisioner": "disks.example.com"} if name == "fast" else None
            case "Pod":
                what = name.split("-", 3)[-1]
                return {"metadata": {"name": name}, "status": self.pods[what]}
            case _:
                return {"status": self.status}

    async def list(self, kind: Kind, **_: object) -> AsyncIterator[Json]:
        found = self.classes if kind.name == "VolumeSnapshotClass" else self.made.values()
        for one in [*found]:
            yield one

    async def create(self, kind: Kind, manifest: Json, *, dry_run: bool = False) -> Json:
        self.asked.set()
        if words := self.refuses.get(kind.name):
            raise KubeRefused(words, answered=403, reason="Forbidden")
        await self.let_go.wait()
        if dry_run:
            return manifest
        self.made[manifest["metadata"]["name"]] = manifest
        return manifest

    async def patch(self, _: Kind, __: str, patch: Json) -> Json:
        return patch

    async def delete(self, _: Kind, name: str, **__: object) -> bool:
        return self.made.pop(name, None) is not None


async def no_time(_: float) -> None:
    await asyncio.sleep(0)


def scripted(kube: ScriptedKube) -> TrialPods:
    return TrialPods(cast("Kube", kube), SETTINGS, start_s=30, sleep=no_time)


def waits(reason: str) -> Json:
    """The status of a pod whose container waits."""
    state = {"waiting": {"reason": reason, "message": "as the kubelet says"}}
    return {"phase": "Pending", "containerStatuses": [{"name": pod.CONTAINER, "state": state}]}


def ended(told: object) -> Json:
    """The status of a pod whose program told something."""
    state = {"terminated": {"exitCode": 0, "reason": "Completed", "message": json.dumps(told)}}
    return {"phase": "Succeeded", "containerStatuses": [{"name": pod.CONTAINER, "state": state}]}


RUNS: Json = {
    "phase": "Running", "podIP": "10.0.0.9", "containerStatuses": [{"name": pod.CONTAINER, "state": {"running": {}}}],
}  # fmt: skip


@pytest.mark.anyio
async def test_a_pod_that_cannot_start_is_told_in_kubernetes_own_words() -> None:
    kube = ScriptedKube()
    kube.pods = {"ship-gvisor": waits("ErrImageNeverPull")}
    [row] = await ship_answers(scripted(kube), "gvisor")
    assert (row.name, row.ok, row.required) == ("pod:gvisor", False, True)
    assert row.found == "container sandbox cannot start: ErrImageNeverPull: as the kubelet says"
    kube.refuses = {"Pod": "there is no RuntimeClass gvisor"}
    [row] = await ship_answers(scripted(kube), "gvisor")
    assert (row.name, row.ok, row.found) == ("pod:gvisor", False, "there is no RuntimeClass gvisor")


@pytest.mark.anyio
@pytest.mark.parametrize("used", [False, True])
async def test_an_image_volume_counts_when_a_program_of_it_ran(used: bool) -> None:
    kube = ScriptedKube()
    settings = replace(SETTINGS, ship_volume="image" if used else "copy")
    pods = TrialPods(cast("Kube", kube), settings, start_s=30, sleep=no_time)
    kube.pods = {"image": ended({"names": ["bin", "lib"]})}
    [row] = await image_volumes.image_is_mounted(pods)
    assert (row.ok, row.required) == (True, used)
    [made] = [one for one in kube.made.values() if one["metadata"]["name"].endswith("image")]
    [container] = made["spec"]["containers"]
    assert container["command"][0].startswith("/image/lib/ld-linux")
    assert {one["name"]: one.get("subPath") for one in container["volumeMounts"]}["image"] == "closure"
    kube.pods = {"image": waits("CrashLoopBackOff")}
    [row] = await image_volumes.image_is_mounted(pods)
    assert (row.ok, row.required) == (False, used)
    assert ('ship_volume = "copy"' in row.fix) == used


HELD_BACK: Json = {
    "phase": "Pending",
    "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "in use"}
    ],
}
ALONE = StorageFacts(storage_class="fast", read_write_once_pod=True)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("second", "ok"),
    [(HELD_BACK, True), (RUNS, False), (waits("ContainerCreating"), False)],
    ids=["held-back", "runs", "neither"],
)
async def test_a_claim_of_one_pod_is_tried_with_a_second_pod(second: Json, ok: bool) -> None:
    kube = ScriptedKube(serves=False)
    kube.pods = {"write": ended({"error": None}), "holder": RUNS, "second": second}
    found = {row.name: row for row in await claim_is_written(scripted(kube), ALONE)}
    assert {name: row.ok for name, row in found.items()} == {
        "storage": True, "storage-growth": True, "snapshots": False, "storage-once": ok,
    }  # fmt: skip
    assert found["storage-once"].required


@pytest.mark.anyio
async def test_storage_that_nobody_may_write_or_that_lacks_the_mode_is_an_error() -> None:
    kube = ScriptedKube()
    kube.pods = {"write": ended({"error": "Permission denied"})}
    [row] = await claim_is_written(scripted(kube), ALONE)
    assert (row.ok, row.required) == (False, True)
    assert row.found.endswith("uid 1000 cannot write in it: Permission denied")
    kube.refuses = {"PersistentVolumeClaim": 'spec.accessModes: Unsupported value: "ReadWriteOncePod"'}
    [row] = await claim_is_written(scripted(kube), ALONE)
    assert "read_write_once_pod = false" in row.fix


@pytest.mark.anyio
async def test_without_its_rights_no_pod_is_started(access: KubeAccess, server: KubeServer) -> None:
    server.always("other", Said(201, {"status": {"allowed": False}}))
    facts = ClusterFacts(
        access=access,
        pods=SETTINGS,
        network=EgressSettings(enforced=False),
        storage=StorageFacts(),
        start_s=1,
    )
    reached, rights = await cluster_checks(facts, canaries=True)
    assert reached.ok
    assert (rights.ok, rights.required) == (False, True)
    assert "this account may not create pods, " in rights.found
    assert {seen.path for seen in server.seen} == {
        "/version", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    }  # fmt: skip


OF_DISKS = {"metadata": {"name": "disks"}, "driver": "disks.example.com"}


@pytest.mark.anyio
async def test_snapshots_are_tried_with_the_class_of_the_claims_own_driver() -> None:
    kube = ScriptedKube()
    kube.classes = [{"metadata": {"name": "other"}, "driver": "other.example.com"}]
    assert (await claim_is_snapped(scripted(kube), "claim")).found == (
        "no: there is no VolumeSnapshotClass of disks.example.com"
    )
    kube.classes.append(OF_DISKS)
    kube.status = {"readyToUse": True}
    row = await claim_is_snapped(scripted(kube), "claim")
    assert row.ok
    assert [one["spec"]["volumeSnapshotClassName"] for one in kube.made.values()] == ["disks"]
    kube.status = {"readyToUse": False, "error": {"message": "the disk is gone"}}
    assert "the disk is gone" in (await claim_is_snapped(scripted(kube), "claim")).found


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({"names": ["canary"]}, None),
        ({"names": []}, "has not its files: it is empty"),
        ({"error": "Permission denied"}, "has not its files: Permission denied"),
    ],
)
async def test_the_class_that_bay_uses_is_tried_with_a_pod_on_a_claim_from_a_snapshot(
    told: Json, found: str | None
) -> None:
    kube = ScriptedKube(rights=())  # Bay may not list classes
    kube.status = {"readyToUse": True, "restoreSize": "3Gi"}
    kube.pods = {"restored": ended(told)}
    row = await claim_is_snapped(scripted(kube), "claim", "quick")
    assert (row.ok, row.required) == (found is None, True)
    assert found is None or found in row.found
    snapshot, claim, _ = kube.made.values()
    assert snapshot["spec"]["volumeSnapshotClassName"] == "quick"
    assert claim["spec"]["resources"] == {"requests": {"storage": "3Gi"}}
    assert claim["spec"]["dataSource"]["name"] == snapshot["metadata"]["name"]
    none = await claim_is_snapped(scripted(ScriptedKube(serves=False)), "claim", "quick")
    assert (none.ok, none.required) == (False, True)
    assert "unset it" in none.fix


@pytest.mark.anyio
async def test_snapshots_that_are_not_there_are_told_from_those_that_may_not_be_seen() -> None:
    assert (await claim_is_snapped(scripted(ScriptedKube(serves=False)), "claim")).found.startswith("no: ")
    row = await claim_is_snapped(scripted(ScriptedKube(rights=("get",))), "claim")
    assert row.found == (
        "cannot tell: this account may not list volumesnapshotclasses, create volumesnapshots, delete volumesnapshots"
    )
    assert "--kubeconfig" in row.fix


@pytest.mark.anyio
async def test_a_pod_whose_create_is_under_way_at_ctrl_c_is_made_and_removed() -> None:
    kube = ScriptedKube()
    kube.let_go.clear()
    made_at_last: list[str] = []

    async def tries() -> None:
        async with scripted(kube) as pods:
            try:
                await pods.create(POD, pods.program("peer", {"do": "look"}))
            finally:
                made_at_last.extend(kube.made)

    trying = asyncio.create_task(tries())
    await kube.asked.wait()
    trying.cancel()
    kube.let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await trying
    assert len(made_at_last) == 1
    assert kube.made == {}


@pytest.fixture
def message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that the program tells its answer in."""
    monkeypatch.setattr(inside, "MESSAGE", str(tmp_path / "message"))
    return tmp_path / "message"


def test_the_program_tells_apart_who_answers_who_refuses_and_what_is_nowhere(
    message: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside, "RESOLV_CONF", str(message.parent / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as there, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        ports = {"peer": there.getsockname()[1], "bay": closed.getsockname()[1]}
        targets = [{"name": name, "host": "127.0.0.1", "port": port} for name, port in ports.items()]
        targets += [{"name": name, "host": name, "port": 0} for name in ("api", "dns")]
        expected = {"peer": True, "bay": False}
        inside.reach({"targets": targets, "expected": expected, "settle_s": 30, "steady_s": 0})
    told = json.loads(message.read_text())
    assert told["outcomes"] == {
        "peer": "connected", "bay": "refused", "api": "nowhere", "dns": "nowhere",
    }  # fmt: skip
    assert told["after_ms"] == 0


def test_the_program_tries_again_until_a_policy_holds_or_its_time_is_over(message: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        target = {"name": "peer", "host": "127.0.0.1", "port": there.getsockname()[1]}
        task = {"targets": [target], "expected": {"peer": False}, "settle_s": 0.5, "steady_s": 60}
        inside.reach(task)
    assert json.loads(message.read_text())["outcomes"] == {"peer": "connected"}


def test_a_datagram_counts_only_when_it_is_answered() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        target = {"host": "127.0.0.1", "port": silent.getsockname()[1], "udp": True}
        assert inside.outcome(target) == "timeout"
    assert inside.outcome(target) == "refused"


def test_what_a_directory_refuses_is_told_in_the_kernels_words(message: Path, tmp_path: Path) -> None:
    inside.write({"path": str(tmp_path)})
    assert json.loads(message.read_text()) == {"error": None}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["message"]
    inside.write({"path": str(tmp_path / "none")})
    assert json.loads(message.read_text()) == {"error": "No such file or directory"}
    inside.look({"path": str(tmp_path)})
    assert json.loads(message.read_text()) == {"names": ["message"]}


def test_a_trial_in_a_child_tells_its_words_or_that_it_was_killed() -> None:
    def fails() -> str:
        raise MemoryError

    def dies() -> str:
        inside.os.kill(inside.os.getpid(), 9)
        return "lives"

    assert inside.in_child(lambda: inside.processes(3)) == "3"
    assert inside.in_child(lambda: inside.memory(2 * inside.CHUNK)) == "all"
    assert inside.in_child(dies) == "killed"
    assert inside.in_child(fails) == "failed"
