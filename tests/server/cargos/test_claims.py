"""A Bay whose cargos are volume claims, on an API server in memory."""

from contextlib import nullcontext
from pathlib import Path

import pytest
from claim_api import ClaimServer
from server_harness import assert_error, clear, create, world

from bay.cargo.volume_claims import ClaimSettings, VolumeClaimCargo
from bay.errors import DriverUnavailable

pytestmark = pytest.mark.anyio

SETTINGS = ClaimSettings(install="bay1", read_write_once_pod=False)


def claims_on(server: ClaimServer) -> VolumeClaimCargo:
    return VolumeClaimCargo(lambda: nullcontext(server), SETTINGS)


async def test_an_external_cargo_is_a_claim(root: Path) -> None:
    server = ClaimServer()
    async with world(root, cargo=claims_on(server)) as bay:
        alice = await bay.client("alice")
        made = (await alice.post("/v1/cargos", json={"size_limit_mb": 64})).json()
        shown = ("backend", "size_limit_mb", "size_limit_enforced", "used_bytes", "charged_bytes")
        assert [made[name] for name in shown] == ["volume-claims", 64, False, None, None]
        assert server.claim(f"bay-{made['id']}")["spec"]["resources"]["requests"]["storage"] == "64Mi"
        answer = await alice.patch(f"/v1/cargos/{made['id']}", json={"size_limit_mb": 32})
        assert "never shrinks" in assert_error(answer, 409, "conflict")["message"]
        assert (await alice.get(f"/v1/cargos/{made['id']}")).json() == made
        assert (await alice.delete(f"/v1/cargos/{made['id']}")).status_code == 204
        server.quota = 0
        assert_error(await alice.post("/v1/cargos", json={}), 507, "storage_full")
        assert (await alice.get("/v1/cargos")).json()["items"] == []
    assert [kind for kind, _ in server.objects] == ["StorageClass"]


async def test_a_bay_starts_again_with_its_claims_and_not_with_another_database(
    root: Path, tmp_path: Path
) -> None:
    server = ClaimServer()
    async with world(root, cargo=claims_on(server)) as bay:
        alice = await bay.client("alice")
        made = (await alice.post("/v1/cargos", json={})).json()
    async with world(root, cargo=claims_on(server)) as bay:
        alice = await bay.client("alice")
        assert (await alice.get(f"/v1/cargos/{made['id']}")).status_code == 200
        assert await bay.bay.reconciler.orphans.remove_cargos() == 0
    with pytest.raises(DriverUnavailable, match="1 volume claims of install bay1"):
        async with world(tmp_path, cargo=claims_on(server)):
            pass
    assert "deletionTimestamp" not in server.claim(f"bay-{made['id']}")["metadata"]


async def test_a_driver_of_this_host_says_that_it_cannot_mount_a_claim(root: Path) -> None:
    try:
        async with world(root, cargo=claims_on(ClaimServer())) as bay:
            alice = await bay.client("alice")
            box = await create(alice, wait=20, profile="eager")
            shown = (await alice.get(f"/v1/sandboxes/{box['id']}")).json()
            assert "only a pod of its cluster can mount" in shown["error"]["message"]
            assert await bay.owned() == set()
            assert (await alice.delete(f"/v1/sandboxes/{box['id']}")).status_code == 204
    finally:
        await clear(root)
