"""Whether a call holds a sandbox, where the clocks of calls cannot be written."""

import pytest
from server_harness import World

from bay.errors import DatabaseUnavailable, StorageFull

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("error", [StorageFull, DatabaseUnavailable])
async def test_a_sandbox_whose_calls_cannot_be_written_down_counts_as_held(
    bay: World, monkeypatch: pytest.MonkeyPatch, error: type[StorageFull | DatabaseUnavailable]
) -> None:
    async def fail() -> None:
        raise error("no room")

    assert not await bay.bay.holds.any("sandbox-1")
    monkeypatch.setattr(bay.bay.deferred, "flush", fail)
    assert await bay.bay.holds.any("sandbox-1")
