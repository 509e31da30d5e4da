"""Programs that go on from memory run at once, and knock before anybody has asked the sandbox for anything:
the policy of that moment holds from their first packet.
"""

import json
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from lab import Box, Lab, lab, ways
from test_network_life import TO_SITE, Hammer, came_to
from world import LAN, METADATA, OTHER, OTHER6, SITE, SITE6, World

pytestmark = [pytest.mark.host, pytest.mark.long]

_PROFILE = {"start": "eager", "idle_timeout": None, "memory_mb": 256, "hibernate": True}


@pytest.fixture(scope="module")
def bay(earth: World, root: Path, cache: Path, criu_program: str) -> Generator[Lab]:
    """A Bay whose sandboxes hibernate."""
    profiles = json.dumps({"python-default": _PROFILE})
    with lab(earth, root, cache, BAY_CRIU=criu_program, BAY_PROFILES=profiles) as made:
        yield made


@contextmanager
def hibernated(box: Box) -> Generator[Box]:
    """It sleeps while the policy changes, and is woken by the first call."""
    box.act("hibernate")
    assert box.look()["compute"] == "hibernated"
    box.set_policy(TO_SITE)
    box.lab.world.forget()
    box.act("start")
    yield box


@contextmanager
def restored(box: Box) -> Generator[Box]:
    """It goes on from a checkpoint of when it might do more."""
    made = box.lab.ask("POST", box.path("/checkpoints"), json={"memory": True})
    box.set_policy(TO_SITE)
    box.lab.world.forget()
    box.lab.ask("POST", box.path(f"/checkpoints/{made['id']}/restore"))
    yield box


@contextmanager
def forked(box: Box) -> Generator[Box]:
    """Another goes on from such a checkpoint."""
    made = box.lab.ask("POST", box.path("/checkpoints"), json={"memory": True})
    box.set_policy(TO_SITE)
    box.lab.world.forget()
    body = {"count": 1, "memory": True, "checkpoint": made["id"]}
    fork = Box(box.lab, box.lab.ask("POST", box.path("/fork"), json=body)["items"][0]["id"])
    try:
        fork.act("start")
        yield fork
    finally:
        fork.delete()


@pytest.mark.parametrize("way", [hibernated, restored, forked], ids=["hibernated", "restored", "forked"])
def test_a_policy_that_is_tighter_now_holds_from_the_first_packet(
    bay: Lab, way: Callable[[Box], AbstractContextManager[Box]]
) -> None:
    with bay.box() as box:
        hammer = Hammer(box, OTHER, OTHER6)
        hammer.goes_on()
        assert came_to(bay.world, OTHER, OTHER6) != []
        with way(box) as after:
            hammer.in_fork(after).goes_on()  # the program of before, which never stopped to knock
            assert "sandbox.memory_lost" not in [one["type"] for one in _events(after)]
            after.reaches(ways(SITE, SITE6))
            after.reaches_none_of(ways(OTHER, OTHER6, LAN, METADATA[0]))
            assert came_to(bay.world, OTHER, OTHER6, LAN, METADATA[0]) == []
            assert after.network()["mode"] == "allowlist"


def _events(box: Box) -> list[dict[str, str]]:
    return box.lab.ask("GET", box.path("/events"), params={"limit": 100})["items"]
