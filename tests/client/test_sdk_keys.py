"""Keys and the audit through the SDK, on a real Bay."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

import bay


@pytest.fixture
def admin(served: tuple[str, str]) -> Iterator[bay.Client]:
    with bay.Client(*served, timeout_s=30) as made:
        yield made


def test_a_key_is_made_used_listed_and_revoked(admin: bay.Client) -> None:
    expires_at = datetime.now(UTC) + timedelta(days=1)
    key = admin.keys.create(
        "ci", owner="ann", scope="read", expires_at=expires_at, quotas=bay.Limits(running=2, cpus=1.5)
    )
    assert key.secret is not None
    assert key.secret not in repr(key)
    assert (key.expires_at, key.quotas) == (expires_at, bay.Limits(running=2, cpus=1.5))
    with bay.Client(admin.base_url, key.secret) as client:
        assert list(client.sandboxes.list()) == []
        with pytest.raises(bay.Forbidden):
            client.sandboxes.create()
        (listed,) = admin.keys.list(owner="ann")
        assert (listed.id, listed.name, listed.revoked_at) == (key.id, "ci", None)
        for _ in range(2):
            admin.keys.revoke(key.id)
        with pytest.raises(bay.Unauthorized):
            list(client.sandboxes.list())
    assert [k.revoked_at is None for k in admin.keys.list(owner="ann")] == [False]


def test_keys_come_page_by_page(admin: bay.Client) -> None:
    made = [admin.keys.create(f"k{i}", owner="pages", expires_in=60).id for i in range(5)]
    assert [key.id for key in admin.keys.list(owner="pages", limit=2)] == made


def test_the_last_admin_key_cannot_be_revoked(admin: bay.Client) -> None:
    (own,) = [key for key in admin.keys.list() if key.scope == "admin"]
    with pytest.raises(bay.Conflict, match="last valid admin key"):
        admin.keys.revoke(own.id)


def test_an_id_that_is_a_path_is_refused_before_it_is_sent(admin: bay.Client) -> None:
    with pytest.raises(bay.InvalidArgument):
        admin.keys.revoke("..")


def test_a_quota_that_is_reached_is_told_with_its_name(admin: bay.Client) -> None:
    key = admin.keys.create("tight", owner="tight", quotas=bay.Limits(creates_per_minute=1))
    with bay.Client(admin.base_url, key.secret) as client:
        client.sandboxes.create().delete()
        with pytest.raises(bay.QuotaExceeded) as caught:
            client.sandboxes.create()
    details = caught.value.details
    assert (details["quota"], details["limit"], details["of"]) == ("creates_per_minute", 1, "key")
    assert 0 < details["retry_after_ms"] <= 60_000


def test_the_audit_tells_who_did_what(admin: bay.Client) -> None:
    key = admin.keys.create("auditor", owner="seen")
    began = datetime.now(UTC)
    with bay.Client(admin.base_url, key.secret) as client:
        box = client.sandboxes.create(name="watched")
        box.delete()
        own = list(client.audit.list(limit=1))
    made, removed = admin.audit.list(owner="seen", since=began - timedelta(seconds=1))
    assert own == [made, removed]
    assert (made.method, made.path, made.status, made.key_id) == ("POST", "/v1/sandboxes", 201, key.id)
    assert (removed.method, removed.resource_id, removed.status) == ("DELETE", box.id, 204)
    assert list(admin.audit.list(resource_id=box.id, method="DELETE")) == [removed]
    assert list(admin.audit.list(owner="seen", until=began - timedelta(days=1))) == []
