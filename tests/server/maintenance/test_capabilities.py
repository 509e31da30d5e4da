"""`/v1/capabilities`: what the services refuse is what it says."""

from dataclasses import replace
from pathlib import Path

import pytest
from server_harness import World, assert_error, clear, create, world

from bay.cargo.base import checkpoint_store
from bay.drivers.base import NamedImages
from bay.server.maintenance.capabilities import Abilities

pytestmark = pytest.mark.anyio


async def test_any_key_reads_what_the_server_can_do(bay: World) -> None:
    reader = await bay.client("alice", "read")
    answer = await reader.get("/v1/capabilities")
    assert (answer.status_code, answer.json()["driver"]) == (200, "fake")
    here = bay.driver.capabilities
    assert answer.json()["isolations"] == [*here.isolation]
    assert answer.json()["pause"] == "freezer"
    assert answer.json()["checkpoints"] == checkpoint_store(bay.bay.cargo).checkpoint_kind
    assert answer.json()["exports"] is answer.json()["usage"] is answer.json()["resize"] is True
    others = await bay.client("bob", "write")
    assert (await others.get("/v1/capabilities")).json() == answer.json()
    assert_error(await (await bay.open_client()).get("/v1/capabilities"), 401, "unauthorized")


@pytest.mark.parametrize("samples", [True, False])
async def test_metrics_are_refused_where_it_names_none(root: Path, samples: bool) -> None:
    try:
        async with world(root, samples=samples) as bay:
            alice = await bay.client("alice")
            assert (await alice.get("/v1/capabilities")).json()["metrics"] is samples
            sandbox = await create(alice)
            answer = await alice.get(f"/v1/sandboxes/{sandbox['id']}/metrics")
            assert answer.status_code == (200 if samples else 400)
            if not samples:
                error = assert_error(answer, 400, "capability_not_supported")
                assert error["details"] == {"capability": "metrics"}
    finally:
        await clear(root)


async def test_a_mode_that_it_does_not_name_is_refused(bay: World) -> None:
    alice = await bay.client("alice")
    named = (await alice.get("/v1/capabilities")).json()["network"]
    for mode in ("none", "open"):
        answer = await alice.post("/v1/sandboxes", json={"network": mode})
        assert (answer.status_code == 201) is (mode in named)
        if mode not in named:
            assert_error(answer, 400, "capability_not_supported")


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (None, None),
        ("layers", "layers"),
        (NamedImages(), None),
        (NamedImages(admitted=("docker.io/library/",)), "names"),
    ],
)
async def test_images_by_name_are_told_where_callers_may_name_any(
    bay: World, images: NamedImages | None, told: str | None
) -> None:
    bay.driver.capabilities = replace(bay.driver.capabilities, other_images=images)
    assert Abilities(driver=bay.driver, cargo=bay.bay.cargo, has_samples=True).get().other_images == told
