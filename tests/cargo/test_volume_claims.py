"""Cargos as volume claims, on an API server in memory: the suite of the contract, and what claims add."""

import asyncio
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
from claim_api import ClaimFiles, ClaimServer

from bay.cargo.base import CargoBackend, Fence, StaleGeneration
from bay.cargo.volume_claims import ClaimSettings, VolumeClaimCargo
from bay.drivers.kubernetes.kube import KubeRefused
from bay.errors import Conflict, DriverUnavailable, NotFound, StorageFull
from bay.ids import new_id
from bay.places import VolumeClaim
from bay.testing.cargo import *  # noqa: F403 - the suite is the module's functions
from bay.testing.cargo import MIB, WorkspaceFiles

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

SETTINGS = ClaimSettings(install="bay1", read_write_once_pod=True)
FORBIDDEN = KubeRefused("the API server refuses (HTTP 403): no", answered=403, reason="Forbidden")


@pytest.fixture
def server() -> ClaimServer:
    return ClaimServer()


@pytest.fixture
async def cargo(server: ClaimServer) -> VolumeClaimCargo:
    backend = VolumeClaimCargo(lambda: nullcontext(server), SETTINGS)
    await backend.open()
    return backend


@pytest.fixture
def reopen(server: ClaimServer) -> Callable[[], CargoBackend]:
    return lambda: VolumeClaimCargo(lambda: nullcontext(server), SETTINGS)


@pytest.fixture
def files(server: ClaimServer) -> WorkspaceFiles:
    return ClaimFiles(server)


async def made(server: ClaimServer, cargo: VolumeClaimCargo, **given: Any) -> tuple[str, dict[str, Any]]:
    """A cargo, and its claim on the server."""
    ws = new_id("ws")
    await cargo.create(ws, **given)
    return ws, server.claim(f"bay-{ws}")


async def test_a_claim_has_few_labels_and_no_owner(server: ClaimServer, cargo: VolumeClaimCargo) -> None:
    ws, claim = await made(server, cargo, limit_bytes=64 * MIB + 1)
    assert claim["metadata"]["name"] == f"bay-{ws}"
    assert claim["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "bay", "bay.dev/install": "bay1"}
    assert claim["metadata"]["annotations"] == {"bay.dev/cargo": ws, "bay.dev/fence": "[]"}
    assert "ownerReferences" not in claim["metadata"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert claim["spec"]["resources"] == {"requests": {"storage": "65Mi"}}
    assert claim["spec"]["storageClassName"] == "standard"
    assert cargo.place(ws) == VolumeClaim(name=f"bay-{ws}", read_write_once_pod=True)


async def test_the_settings_say_class_mode_and_size(server: ClaimServer) -> None:
    server.storage_class("fast")
    given = replace(SETTINGS, storage_class="fast", default_bytes=1 << 30, read_write_once_pod=False)
    cargo = VolumeClaimCargo(lambda: nullcontext(server), given)
    await cargo.open()
    ws, claim = await made(server, cargo)
    assert claim["spec"]["storageClassName"] == "fast"
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert claim["spec"]["resources"] == {"requests": {"storage": "1024Mi"}}
    assert cargo.place(ws).read_write_once_pod is False


async def test_without_a_class_a_bay_does_not_start(server: ClaimServer) -> None:
    with pytest.raises(DriverUnavailable, match="no storage class fast"):
        await VolumeClaimCargo(lambda: nullcontext(server), replace(SETTINGS, storage_class="fast")).open()
    server.storage_class("standard", default=False)
    with pytest.raises(DriverUnavailable, match="no default storage class"):
        await VolumeClaimCargo(lambda: nullcontext(server), SETTINGS).open()
    assert [call for call in server.calls if not call.startswith(("get", "list"))] == []


async def test_a_bay_that_lost_its_database_does_not_start_and_takes_no_claim_for_an_orphan(
    server: ClaimServer,
) -> None:
    def bay(database: str) -> VolumeClaimCargo:
        made = VolumeClaimCargo(lambda: nullcontext(server), SETTINGS)
        made.belong_to(database)
        return made

    first, second = bay("first"), bay("second")
    await first.open()
    await second.open()
    ws = new_id("ws")
    await first.create(ws)
    assert server.claim(f"bay-{ws}")["metadata"]["labels"]["bay.dev/database"] == "first"
    assert (await first.list_ids(), await second.list_ids()) == ({ws}, set())
    for call in (second.create(ws), second.remove(ws)):
        with pytest.raises(Conflict, match="not this Bay's"):
            await call
    with pytest.raises(DriverUnavailable, match=r"1 volume claims of install bay1.*`bay admin restore`"):
        await bay("third").open()
    await bay("first").open()
    await first.remove(ws)
    await bay("third").open()


async def test_a_backend_that_is_not_open_says_so(server: ClaimServer) -> None:
    cargo = VolumeClaimCargo(lambda: nullcontext(server), SETTINGS)
    with pytest.raises(DriverUnavailable, match="not open"):
        await cargo.list_ids()
    await cargo.open()
    await cargo.aclose()
    with pytest.raises(DriverUnavailable, match="not open"):
        await cargo.create(new_id("ws"))


async def test_a_bay_that_may_not_see_classes_starts_all_the_same(server: ClaimServer) -> None:
    server.refuses["list"] = FORBIDDEN
    await VolumeClaimCargo(lambda: nullcontext(server), SETTINGS).open()
    server.refuses["list"] = DriverUnavailable("out of reach")
    with pytest.raises(DriverUnavailable, match="out of reach"):
        await VolumeClaimCargo(lambda: nullcontext(server), SETTINGS).open()


async def test_a_create_whose_answer_is_lost_is_found_again(
    server: ClaimServer, cargo: VolumeClaimCargo
) -> None:
    ws = new_id("ws")
    server.loses.add("create")
    with pytest.raises(DriverUnavailable, match="said nothing"):
        await cargo.create(ws)
    uid = server.claim(f"bay-{ws}")["metadata"]["uid"]
    await cargo.create(ws)
    assert server.claim(f"bay-{ws}")["metadata"]["uid"] == uid
    assert server.calls.count(f"create bay-{ws}") == 1


async def test_of_creates_at_once_one_is_it(server: ClaimServer, cargo: VolumeClaimCargo) -> None:
    ws = new_id("ws")
    await asyncio.gather(*(cargo.create(ws) for _ in range(5)))
    assert server.calls.count(f"create bay-{ws}") == 5
    assert await cargo.list_ids() == {ws}


async def test_another_bays_claim_is_neither_taken_nor_fenced_nor_removed(
    server: ClaimServer, cargo: VolumeClaimCargo
) -> None:
    other = VolumeClaimCargo(lambda: nullcontext(server), replace(SETTINGS, install="bay2"))
    await other.open()
    ws, before = await made(server, other)
    before = json.dumps(before)
    for call in (
        cargo.create(ws),
        cargo.fence(ws, new_id("sandbox"), 1, "sess-a"),
        cargo.set_limit(ws, 100 << 30),
        cargo.remove(ws),
    ):
        with pytest.raises(Conflict, match=r"not this Bay's.*a namespace of its own"):
            await call
    assert json.dumps(server.claim(f"bay-{ws}")) == before
    assert (await cargo.list_ids(), await other.list_ids()) == (set(), {ws})


async def test_a_claim_of_no_cargo_is_in_no_list(server: ClaimServer, cargo: VolumeClaimCargo) -> None:
    ws, claim = await made(server, cargo)
    stray = json.loads(json.dumps(claim))
    stray["metadata"]["name"] = "bay-something-else"
    server.objects["PersistentVolumeClaim", "bay-something-else"] = stray
    assert await cargo.list_ids() == {ws}


async def test_a_removed_claim_that_a_pod_still_uses_is_gone_for_bay(
    server: ClaimServer, cargo: VolumeClaimCargo, files: WorkspaceFiles
) -> None:
    ws, claim = await made(server, cargo)
    sandbox = new_id("sandbox")
    await files.put(cargo.place(ws), "file", "kept")
    await cargo.fence(ws, sandbox, 1, "sess-a")
    for _ in range(2):
        await cargo.remove(ws)
        assert (
            "deletionTimestamp" in claim["metadata"]
            or "deletionTimestamp" in server.claim(f"bay-{ws}")["metadata"]
        )
        assert await cargo.list_ids() == set()
        assert await cargo.fenced(ws, sandbox) is None
    with pytest.raises(Conflict, match="is being removed"):
        await cargo.create(ws)
    with pytest.raises(NotFound):
        await cargo.fence(ws, sandbox, 2, "sess-b")
    server.release(f"bay-{ws}")
    await cargo.remove(ws)
    assert [kind for kind, _ in server.objects] == ["StorageClass"]
    assert server.files == {}


async def test_a_removal_never_takes_another_claim_of_that_name(
    server: ClaimServer, cargo: VolumeClaimCargo
) -> None:
    ws, claim = await made(server, cargo)
    name, looked = f"bay-{ws}", server.get

    async def look_and_be_late(kind: Any, name: str) -> Any:
        found = await looked(kind, name)
        claim["metadata"]["uid"] = "another"
        return found

    server.get = look_and_be_late
    with pytest.raises(DriverUnavailable, match="precondition"):
        await cargo.remove(ws)
    assert "deletionTimestamp" not in server.claim(name)["metadata"]


async def test_a_quota_is_a_full_disk_and_another_refusal_has_the_servers_words(
    server: ClaimServer, cargo: VolumeClaimCargo
) -> None:
    server.quota = 0
    with pytest.raises(StorageFull, match=r"quota leaves no room.*delete sandboxes.*exceeded quota: bay"):
        await cargo.create(new_id("ws"))
    server.quota = None
    server.refuses["create"] = KubeRefused("the webhook says no", answered=403, reason="Forbidden")
    with pytest.raises(DriverUnavailable, match="the webhook says no"):
        await cargo.create(new_id("ws"))
    assert await cargo.list_ids() == set()


async def test_of_two_sessions_of_one_generation_at_once_one_gets_the_fence(
    server: ClaimServer, cargo: VolumeClaimCargo
) -> None:
    ws, _ = await made(server, cargo)
    sandbox, sessions = new_id("sandbox"), [f"sess-{letter}" for letter in "abcdef"]
    told = await asyncio.gather(
        *(cargo.fence(ws, sandbox, 1, one) for one in sessions), return_exceptions=True
    )
    let_in = [session for session, answer in zip(sessions, told, strict=True) if answer is None]
    assert len(let_in) == 1
    assert all(answer is None or isinstance(answer, StaleGeneration) for answer in told)
    assert await cargo.fenced(ws, sandbox) == Fence(sandbox_id=sandbox, generation=1, session_id=let_in[0])


async def test_sandboxes_that_share_a_claim_at_once_all_get_their_fences(
    server: ClaimServer, cargo: VolumeClaimCargo
) -> None:
    ws, _ = await made(server, cargo)
    sandboxes = [new_id("sandbox") for _ in range(6)]
    await asyncio.gather(*(cargo.fence(ws, one, 1, "sess-a") for one in sandboxes))
    assert [await cargo.fenced(ws, one) for one in sandboxes] == [
        Fence(sandbox_id=one, generation=1, session_id="sess-a") for one in sandboxes
    ]


async def test_a_fence_whose_answer_is_lost_holds_and_can_be_asked_for_again(
    server: ClaimServer, cargo: VolumeClaimCargo
) -> None:
    ws, _ = await made(server, cargo)
    sandbox = new_id("sandbox")
    server.loses.add("patch")
    with pytest.raises(DriverUnavailable, match="said nothing"):
        await cargo.fence(ws, sandbox, 3, "sess-a")
    await cargo.fence(ws, sandbox, 3, "sess-a")
    with pytest.raises(StaleGeneration):
        await cargo.fence(ws, sandbox, 3, "sess-b")


async def test_an_annotation_that_somebody_removes_on_the_way_is_written_again(
    server: ClaimServer, cargo: VolumeClaimCargo
) -> None:
    ws, _ = await made(server, cargo)
    sandbox = new_id("sandbox")
    server.interferes = 2
    await cargo.fence(ws, sandbox, 1, "sess-a")
    assert await cargo.fenced(ws, sandbox) == Fence(sandbox_id=sandbox, generation=1, session_id="sess-a")
    assert "other/controller" in server.claim(f"bay-{ws}")["metadata"]["annotations"]
    server.interferes = 100
    with pytest.raises(DriverUnavailable, match="changes too often"):
        await cargo.fence(ws, sandbox, 2, "sess-b")


@pytest.mark.parametrize("text", ["", "{", "null", "{}", "[1]", '[{"sandbox_id": "x"}]', "[" * 100_000])
async def test_what_cannot_be_understood_is_no_fence(
    server: ClaimServer, cargo: VolumeClaimCargo, text: str
) -> None:
    ws, claim = await made(server, cargo)
    claim["metadata"]["annotations"]["bay.dev/fence"] = text
    sandbox = new_id("sandbox")
    assert await cargo.fenced(ws, sandbox) is None
    await cargo.fence(ws, sandbox, 1, "sess-a")
    assert await cargo.fenced(ws, sandbox) is not None


async def test_the_fences_of_many_sandboxes_fit_into_an_annotation(
    server: ClaimServer, cargo: VolumeClaimCargo
) -> None:
    ws, _ = await made(server, cargo)
    sandboxes = [new_id("sandbox") for _ in range(210)]
    for one in sandboxes:
        await cargo.fence(ws, one, 1, new_id("sess"))
    known = [await cargo.fenced(ws, one) is not None for one in sandboxes]
    assert known == [False] * 10 + [True] * 200
    notes = server.claim(f"bay-{ws}")["metadata"]["annotations"]
    assert sum(map(len, notes.values())) < 64 << 10


async def test_a_claim_grows_where_its_class_lets_it(server: ClaimServer, cargo: VolumeClaimCargo) -> None:
    server.storage_class("standard", default=True, grows=True)
    ws, _ = await made(server, cargo, limit_bytes=100 * MIB)

    def size() -> str:
        return server.claim(f"bay-{ws}")["spec"]["resources"]["requests"]["storage"]

    server.bind(f"bay-{ws}")
    await cargo.check_limit(ws, 300 * MIB)
    await cargo.set_limit(ws, 300 * MIB)
    assert size() == "300Mi"
    for smaller in (200 * MIB, 300 * MIB, None):
        await cargo.set_limit(ws, smaller)
    assert size() == "300Mi"
    assert (cargo.enforced, await cargo.charged(ws)) == (False, None)


@pytest.mark.parametrize("text", ["100Mi", "104857600", "0.1Gi", "102400Ki", "104857600000m", "104858k"])
async def test_a_size_is_compared_in_whatever_unit_it_is(
    server: ClaimServer, cargo: VolumeClaimCargo, text: str
) -> None:
    ws, claim = await made(server, cargo)
    claim["spec"]["resources"]["requests"]["storage"] = text
    with pytest.raises(Conflict, match="never shrinks"):
        await cargo.check_limit(ws, 99 * MIB)
    with pytest.raises(Conflict, match="no volume yet"):
        await cargo.check_limit(ws, 103 * MIB)


async def test_a_limit_that_a_claim_cannot_take_is_refused_beforehand(
    server: ClaimServer, cargo: VolumeClaimCargo
) -> None:
    ws, claim = await made(server, cargo, limit_bytes=100 * MIB)
    with pytest.raises(Conflict, match=r"has 100 MiB.*never shrinks"):
        await cargo.check_limit(ws, 99 * MIB)
    await cargo.check_limit(ws, 100 * MIB)
    await cargo.check_limit(new_id("ws"), 1)  # one that is not made yet can have any
    with pytest.raises(Conflict, match=r"no volume yet.*start its sandbox"):
        await cargo.check_limit(ws, 200 * MIB)
    await cargo.set_limit(ws, 200 * MIB)
    server.bind(f"bay-{ws}")
    with pytest.raises(Conflict, match=r"storage class standard, whose volumes cannot grow"):
        await cargo.check_limit(ws, 200 * MIB)
    with pytest.raises(Conflict, match=r"cannot grow to 200 MiB.*must support resize"):
        await cargo.set_limit(ws, 200 * MIB)
    assert claim["spec"]["resources"]["requests"]["storage"] == "100Mi"
