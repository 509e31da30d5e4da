"""What the other tests of this folder stand on: processes that are killed, frozen and started again."""

from collections.abc import Generator

import httpx
import pytest
from replica_bays import KEY, ReplicaBays, replica_bays
from server_harness import ships

import bay

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def bays() -> Generator[ReplicaBays]:
    """One Bay, for tests that leave it running."""
    with replica_bays(1) as running:
        yield running


def test_a_bay_answers_by_itself_and_through_the_balancer(bays: ReplicaBays) -> None:
    for url in (bays.url(0), bays.address):
        with bay.Client(url, KEY) as client, client.sandbox() as box:
            assert box.run("echo hello").stdout == "hello\n"


def test_a_key_that_it_made_opens_it(bays: ReplicaBays) -> None:
    with bay.Client(bays.url(0), bays.key_of("alice")) as alice:
        assert [*alice.sandboxes.list()] == []


def test_a_bay_that_was_killed_and_started_again_has_its_sandbox_and_its_ship(bays: ReplicaBays) -> None:
    with bay.Client(bays.address, KEY) as client:
        box = client.sandboxes.create(wait=60)
        box.run("echo kept > note")
        before = bays.ships()[box.id]
        bays.kill(0)
        assert bays.ships()[box.id] == before
        bays.start(0)
        assert box.run("cat note").stdout == "kept\n"
        assert bays.ships()[box.id] == before
        box.delete()
        assert box.id not in bays.ships()


def test_a_frozen_bay_answers_once_it_is_thawed(bays: ReplicaBays) -> None:
    with httpx.Client(base_url=bays.url(0)) as client:
        bays.freeze(0)
        with pytest.raises(httpx.TimeoutException):
            client.get("/health", timeout=0.2)
        bays.thaw(0)
        assert client.get("/health", timeout=60).status_code == 200


def test_nothing_is_left_of_bays_that_were_frozen_or_killed() -> None:
    with replica_bays(1) as bays:
        with bay.Client(bays.url(0), KEY) as client:
            client.sandboxes.create(wait=60)
        assert ships(bays.root)
        bays.freeze(0)
    assert not bays.root.exists()
    assert ships(bays.root) == []
