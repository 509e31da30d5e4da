"""Sandboxes through the SDK: made, found, listed, started, stopped, removed."""

from collections.abc import Iterator
from datetime import timedelta

import fault_proxy
import pytest
import real_bay
from real_bay import KEY

import bay


def test_create_gives_a_box_with_what_was_asked_for(client: bay.Client) -> None:
    box = client.sandboxes.create(name="asked", labels={"team": "red"}, env={"A": "1"}, idle_timeout=60)
    assert box.name == "asked"
    assert box.info.labels == {"team": "red"}
    assert box.info.idle_timeout == 60
    assert box.id.startswith("sandbox-")
    box.delete()


def test_a_repeated_create_under_one_key_gives_the_same_sandbox(client: bay.Client) -> None:
    first = client.sandboxes.create(idempotency_key="once")
    assert client.sandboxes.create(idempotency_key="once").id == first.id
    first.delete()


def test_two_creates_give_two_sandboxes(client: bay.Client) -> None:
    assert client.sandboxes.create().id != client.sandboxes.create().id


def test_a_taken_name_is_a_conflict(client: bay.Client) -> None:
    client.sandboxes.create(name="taken")
    with pytest.raises(bay.Conflict, match="taken"):
        client.sandboxes.create(name="taken")


def test_get_finds_by_id_and_by_name(client: bay.Client) -> None:
    made = client.sandboxes.create(name="found")
    assert client.sandboxes.get("found").id == client.sandboxes.get(made.id).id == made.id


def test_get_of_what_is_not_there_is_not_found(client: bay.Client) -> None:
    with pytest.raises(bay.NotFound) as caught:
        client.sandboxes.get("nobody")
    assert caught.value.request_id


@pytest.mark.parametrize("ref", ["", ".", "..", "../keys", "a/b", "Ä", "a b", "a?b", "a\n"])
def test_what_can_be_no_name_is_refused_before_it_is_sent(client: bay.Client, ref: str) -> None:
    with pytest.raises(bay.InvalidArgument, match="neither the id nor the name"):
        client.sandboxes.get(ref)


def test_list_goes_through_all_pages(client: bay.Client) -> None:
    made = [client.sandboxes.create(labels={"paged": "yes"}).id for _ in range(5)]
    assert [box.id for box in client.sandboxes.list(label="paged:yes", limit=2)] == made
    newest = client.sandboxes.list(label="paged:yes", order="newest", limit=2)
    assert [box.id for box in newest] == made[::-1]


def test_list_fetches_a_page_only_when_it_is_taken(client: bay.Client, proxy: fault_proxy.Proxy) -> None:
    for _ in range(5):
        client.sandboxes.create()
    with bay.Client(proxy.url, KEY) as counted:
        next(counted.sandboxes.list(limit=2))
    assert proxy.requests("GET /v1/sandboxes") == 1


def test_list_filters_where_the_sandboxes_are(client: bay.Client) -> None:
    client.sandboxes.create(name="filter-a")
    client.sandboxes.create(name="filter-b").stop()
    names = [box.name for box in client.sandboxes.list(name_prefix="filter-", status="idle")]
    assert names == ["filter-b"]


def test_stop_start_and_refresh_show_in_info(client: bay.Client) -> None:
    box = client.sandboxes.create()
    box.stop()
    assert box.refresh().status == "idle"
    box.start(wait=5)
    assert box.info.status == "ready"
    box.keepalive()


def test_usage_has_figures_and_limits(client: bay.Client) -> None:
    box = client.sandboxes.create(pids=64)
    box.stop()
    assert box.usage().pids is None
    box.run("true")
    used = box.usage(over=0.05)
    assert used.pids is not None
    assert 0 < used.pids < 64 == used.pids_limit
    assert used.cpus_used is not None
    box.delete()


def test_extend_ttl_moves_the_end(client: bay.Client) -> None:
    box = client.sandboxes.create(ttl=60)
    before = box.info.expires_at
    assert before
    assert box.extend_ttl(60).expires_at == before + timedelta(seconds=60)


def test_a_sandbox_block_deletes_at_its_end(client: bay.Client) -> None:
    with client.sandbox() as box:
        assert box.info.status == "ready"
    with pytest.raises(bay.NotFound):
        box.refresh()


def test_a_sandbox_block_deletes_when_its_body_fails(client: bay.Client) -> None:
    with pytest.raises(ZeroDivisionError), client.sandbox(name="doomed"):
        _ = 1 / 0
    with pytest.raises(bay.NotFound):
        client.sandboxes.get("doomed")


@pytest.fixture
def failing_starts(real: real_bay.RealBay) -> Iterator[None]:
    real.driver.fail_at = "launch"
    yield
    real.driver.fail_at = None


@pytest.mark.usefixtures("failing_starts")
def test_a_sandbox_that_cannot_start_says_why_and_is_not_left(client: bay.Client) -> None:
    with pytest.raises(bay.DriverUnavailable, match="launch"), client.sandbox(name="broken"):
        pytest.fail("the block must not be entered")
    with pytest.raises(bay.NotFound):
        client.sandboxes.get("broken")


def test_profiles_and_health_need_no_key(client: bay.Client, url: str) -> None:
    with bay.Client(url) as anyone:
        assert anyone.health() == {"status": "ok", "version": bay.__version__}
        assert anyone.profiles()[0].id == "python-default"
        assert anyone.profiles() == client.profiles()


def test_a_wrong_key_is_unauthorized(url: str) -> None:
    with bay.Client(url, "wrong") as stranger, pytest.raises(bay.Unauthorized, match="BAY_API_KEY"):
        stranger.sandboxes.get("x")


def test_url_and_key_come_from_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAY_URL", f"{url}/")
    monkeypatch.setenv("BAY_API_KEY", f" {KEY}\n")
    with bay.Client() as client:
        assert client.base_url == url
        assert isinstance(list(client.sandboxes.list()), list)


@pytest.mark.parametrize(
    "text", ["localhost:8700", "ftp://x", "http://", "http://x:99999", "bay", "http://[::1"]
)
def test_what_is_no_url_is_said_at_once(text: str) -> None:
    with pytest.raises(bay.InvalidArgument, match="BAY_URL"):
        bay.Client(text)


@pytest.mark.parametrize("key", ["a b", "käse", "a\nb"])
def test_what_is_no_key_is_said_at_once_and_not_shown(key: str) -> None:
    with pytest.raises(bay.InvalidArgument) as caught:
        bay.Client("http://x", key)
    assert key not in str(caught.value)
