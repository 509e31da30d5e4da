"""Fences: what the host remembers of the sessions that owned a cargo, whatever the database says."""

import json
import os
from pathlib import Path

import pytest

from bay.cargo.base import Fence, StaleGeneration
from bay.cargo.directory import DirectoryCargo
from bay.errors import Conflict, DriverUnavailable, InvalidArgument
from bay.ids import new_id

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

CARGO, SANDBOX = new_id("ws"), new_id("sandbox")
FENCE = f"{CARGO}.{SANDBOX}"


@pytest.fixture
async def cargo(tmp_path: Path) -> DirectoryCargo:
    backend = DirectoryCargo(tmp_path / "cargo")
    await backend.open()
    await backend.create(CARGO)
    return backend


async def test_a_cargo_that_nobody_had_has_no_fence(cargo: DirectoryCargo) -> None:
    assert await cargo.fenced(CARGO, SANDBOX) is None


async def test_the_newest_session_is_written_beside_the_cargo_and_not_inside(
    cargo: DirectoryCargo, tmp_path: Path
) -> None:
    await cargo.fence(CARGO, SANDBOX, 1, "sess-a")
    await cargo.fence(CARGO, SANDBOX, 2, "sess-b")
    assert await cargo.fenced(CARGO, SANDBOX) == Fence(sandbox_id=SANDBOX, generation=2, session_id="sess-b")
    assert os.listdir(cargo.place(CARGO)) == []
    assert await cargo.list_ids() == {CARGO}
    fence = tmp_path / "cargo/.fences" / FENCE
    assert fence.stat().st_mode & 0o777 == 0o600
    assert fence.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(fence.parent) == [FENCE]


async def test_another_bay_reads_it(cargo: DirectoryCargo, tmp_path: Path) -> None:
    await cargo.fence(CARGO, SANDBOX, 3, "sess-a")
    again = DirectoryCargo(tmp_path / "cargo")
    await again.open()
    assert (await again.fenced(CARGO, SANDBOX)) == await cargo.fenced(CARGO, SANDBOX) != None  # noqa: E711


async def test_the_same_session_may_ask_again(cargo: DirectoryCargo) -> None:
    for _ in range(2):
        await cargo.fence(CARGO, SANDBOX, 4, "sess-a")
    assert await cargo.fenced(CARGO, SANDBOX) == Fence(sandbox_id=SANDBOX, generation=4, session_id="sess-a")


@pytest.mark.parametrize(("generation", "session_id"), [(4, "sess-a"), (4, "sess-b"), (5, "sess-b")])
async def test_an_older_generation_and_a_second_session_of_the_same_one_are_refused(
    cargo: DirectoryCargo, generation: int, session_id: str
) -> None:
    await cargo.fence(CARGO, SANDBOX, 5, "sess-a")
    with pytest.raises(StaleGeneration, match=r"older than this host.*bay admin restore") as refused:
        await cargo.fence(CARGO, SANDBOX, generation, session_id)
    assert isinstance(refused.value, Conflict)
    assert refused.value.details == {"generation": 5}
    await cargo.fence(CARGO, SANDBOX, 6, "sess-b")


async def test_generations_of_two_sandboxes_are_not_compared(cargo: DirectoryCargo) -> None:
    other = new_id("sandbox")
    await cargo.fence(CARGO, SANDBOX, 9, "sess-a")
    await cargo.fence(CARGO, other, 1, "sess-b")
    for sandbox_id, generation in ((SANDBOX, 9), (other, 1)):
        fence = await cargo.fenced(CARGO, sandbox_id)
        assert fence is not None
        assert fence.generation == generation


async def test_the_fence_goes_with_the_cargo(cargo: DirectoryCargo) -> None:
    await cargo.fence(CARGO, SANDBOX, 9, "sess-a")
    await cargo.remove(CARGO)
    assert await cargo.fenced(CARGO, SANDBOX) is None
    await cargo.create(CARGO)
    await cargo.fence(CARGO, SANDBOX, 1, "sess-b")


async def test_a_fence_without_a_cargo_is_removed_at_the_next_open(
    cargo: DirectoryCargo, tmp_path: Path
) -> None:
    await cargo.fence(CARGO, SANDBOX, 1, "sess-a")
    (tmp_path / "cargo/.fences" / new_id("ws")).write_text("{}")
    (tmp_path / "cargo/.fences/.half-written").touch()
    await DirectoryCargo(tmp_path / "cargo").open()
    assert os.listdir(tmp_path / "cargo/.fences") == [FENCE]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "\xff",
        json.dumps({"sandbox_id": SANDBOX}),
        json.dumps({"sandbox_id": SANDBOX, "generation": "7", "session_id": "sess-a"}),
        "[" * 100_000,
    ],
    ids=range(8),
)
async def test_what_cannot_be_understood_is_no_fence(
    cargo: DirectoryCargo, tmp_path: Path, text: str
) -> None:
    (tmp_path / "cargo/.fences" / FENCE).write_bytes(text.encode("latin-1"))
    assert await cargo.fenced(CARGO, SANDBOX) is None
    await cargo.fence(CARGO, SANDBOX, 1, "sess-a")


async def test_a_link_in_place_of_a_fence_is_not_followed(cargo: DirectoryCargo, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text(json.dumps({"sandbox_id": SANDBOX, "generation": 1, "session_id": "s"}))
    (tmp_path / "cargo/.fences" / FENCE).symlink_to(tmp_path / "outside")
    with pytest.raises(DriverUnavailable, match="cannot read the fence"):
        await cargo.fenced(CARGO, SANDBOX)


@pytest.mark.parametrize("name", ["../ws", "", "ws-1", ".trash", f"ws-{24 * '0'}/x"])
async def test_what_is_no_cargo_is_never_made_fenced_or_removed(cargo: DirectoryCargo, name: str) -> None:
    for call in (
        cargo.create(name),
        cargo.fence(name, SANDBOX, 1, "s"),
        cargo.fenced(name, SANDBOX),
        cargo.remove(name),
    ):
        with pytest.raises(InvalidArgument):
            await call
