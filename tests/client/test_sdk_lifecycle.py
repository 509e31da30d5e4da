"""Freezing, changing and the pool through the SDK, on a real Bay."""

from collections.abc import Iterator

import pytest

import bay


@pytest.fixture(scope="module")
def box(client: bay.Client) -> Iterator[bay.Box]:
    with client.sandbox(warm_timeout=77) as made:
        yield made


def test_pause_freezes_resume_thaws_and_any_call_wakes_it(client: bay.Client, box: bay.Box) -> None:
    for _ in range(2):
        assert box.pause().compute == "warm"
    assert box.info.warm_timeout == 77
    assert box.info.warm_expires_at is not None
    assert [found.id for found in client.sandboxes.list(compute="warm")] == [box.id]
    assert box.resume().compute == "running"
    box.pause()
    assert box.run("echo hi").stdout == "hi\n"
    assert box.refresh().compute == "running"


def test_what_is_cold_cannot_be_paused_but_resumed(box: bay.Box) -> None:
    box.stop()
    with pytest.raises(bay.Conflict, match="cold already"):
        box.pause()
    assert box.resume(wait=30).status == "ready"


def test_update_changes_what_is_named_and_none_is_a_value(box: bay.Box) -> None:
    info = box.update(name="other", labels={"a": "b"}, warm_timeout=5)
    assert (box.name, info.labels, info.idle_timeout, info.warm_timeout) == ("other", {"a": "b"}, 1800, 5)
    assert info.idle_expires_at is not None
    info = box.update(name=None, idle_timeout=None)
    assert (info.name, info.labels, info.idle_timeout, info.idle_expires_at) == (None, {"a": "b"}, None, None)
    assert box.update() == info


def test_a_lifetime_is_set_anew_with_what_becomes_of_it(box: bay.Box) -> None:
    info = box.update(ttl="10m", on_expiry="pause")
    assert info.expires_at is not None
    assert (info.on_expiry, info.paused_at) == ("pause", None)
    assert box.pause().paused_at is not None
    assert (box.resume().paused_at, box.update(ttl=None).expires_at) == (None, None)


def test_an_update_to_a_name_that_is_taken_is_a_conflict(client: bay.Client, box: bay.Box) -> None:
    with client.sandbox(name="taken-by-one"), pytest.raises(bay.Conflict, match="taken-by-one"):
        box.update(name="taken-by-one")


def test_a_command_may_run_without_counting_as_activity(box: bay.Box) -> None:
    quiet = box.spawn("sleep 1000", keep_alive=False)
    assert quiet.info.keep_alive is False
    assert quiet.kill().keep_alive is False
    assert box.spawn("true", labels={"a": "b"}).info.labels == {"a": "b"}
    assert box.spawn("true").info.keep_alive is True
    assert box.run("echo hi", keep_alive=False).stdout == "hi\n"


@pytest.mark.prompt  # a replica that was killed may have a call to the sandbox, for as long as it counts
def test_an_operator_collects_what_is_frozen(client: bay.Client, box: bay.Box) -> None:
    box.run("true")
    box.pause()
    run = client.admin.collect_garbage(["idle_session"])
    assert [(result.task_name, result.cleaned_count) for result in run.results] == [("idle_session", 1)]
    assert (box.refresh().status, box.info.compute) == ("idle", "cold")
    assert client.admin.garbage_state().results == run.results


def test_the_pool_is_shown_to_admin_keys(client: bay.Client) -> None:
    assert client.admin.pool() == []
    key = client.keys.create("plain")
    with bay.Client(client.base_url, key.secret) as plain, pytest.raises(bay.Forbidden):
        plain.admin.pool()


def test_the_host_and_the_settings_are_shown_to_admin_keys(client: bay.Client, box: bay.Box) -> None:
    host = client.admin.host()
    assert host.version == client.health()["version"]
    assert host.sandboxes.total == sum(host.sandboxes.by_status.values()) >= 1
    assert host.memory.total_bytes >= host.memory.available_bytes > 0
    settings = {one.name: one for one in client.admin.settings()}
    assert settings["api_key"].value is None
    assert settings["start_concurrency"].value >= 1
    key = client.keys.create("plain")
    with bay.Client(client.base_url, key.secret) as plain:
        for call in (plain.admin.host, plain.admin.settings):
            with pytest.raises(bay.Forbidden):
                call()


@pytest.mark.anyio
async def test_the_async_client_has_the_same_words(served: tuple[str, str]) -> None:
    async with bay.AsyncClient(*served, timeout_s=30) as client, client.sandbox() as box:
        assert (await box.pause()).compute == "warm"
        assert (await box.resume()).compute == "running"
        assert (await box.update(labels={"x": "y"})).labels == {"x": "y"}
        assert await client.admin.pool() == []
