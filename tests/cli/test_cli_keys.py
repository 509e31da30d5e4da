"""`bay keys` and `bay admin audit` against a real Bay."""

import json

import pytest

import bay
from bay.cli.main import main


@pytest.fixture(autouse=True)
def admin(served: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line calls that Bay with its admin key."""
    monkeypatch.setenv("BAY_URL", served[0])
    monkeypatch.setenv("BAY_API_KEY", served[1])


def lines(capfd: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    capfd.readouterr()
    assert main(list(arguments)) == 0
    return capfd.readouterr().out.splitlines()


def test_create_prints_the_secret_alone_on_stdout(
    served: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "create", "ci", "--owner", "alice", "--scope", "read", "--expires-in", "60"]) == 0
    said = capfd.readouterr()
    assert "of alice may read; the key is shown this once" in said.err
    with bay.Client(served[0], said.out.strip()) as client:
        assert list(client.sandboxes.list()) == []


def test_a_key_is_made_with_quotas_listed_and_revoked(capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("--owner", "bob", "--quota", "running=2", "--quota", "cpus=1.5", "--json")
    made = json.loads(lines(capfd, "keys", "create", "ci", *arguments)[0])
    assert {name: value for name, value in made["quotas"].items() if value} == {"running": 2, "cpus": 1.5}
    head, row = lines(capfd, "keys", "ls", "--owner", "bob")
    assert head.split() == ["ID", "NAME", "OWNER", "SCOPE", "STATE", "CREATED", "EXPIRES"]
    assert row.split()[:5] == [made["id"], "ci", "bob", "write", "valid"]
    assert lines(capfd, "keys", "revoke", made["id"], "--json") == [
        json.dumps({"id": made["id"], "revoked": True})
    ]
    assert lines(capfd, "keys", "revoke", made["id"]) == []
    (listed,) = [json.loads(line) for line in lines(capfd, "keys", "ls", "--owner", "bob", "--json")]
    assert listed["revoked_at"]
    assert "secret" not in listed


@pytest.mark.parametrize("quota", ["runing=2", "running=many", "running", "cpus="])
def test_a_quota_that_is_none_is_a_usage_error(quota: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create", "ci", "--quota", quota]) == 2
    assert "--quota" in capfd.readouterr().err


def test_a_scope_that_is_none_is_refused() -> None:
    assert main(["keys", "create", "ci", "--scope", "root"]) == 2


def test_admin_audit_tells_what_was_done(capfd: pytest.CaptureFixture[str]) -> None:
    made = json.loads(lines(capfd, "keys", "create", "x", "--owner", "seen", "--json")[0])
    (row,) = lines(capfd, "admin", "audit", "--resource", made["id"], "--since", "1h")
    assert row.split()[1:2] == ["201"]
    assert row.split()[4:] == ["POST", "/v1/keys", made["id"]]
    (entry,) = [
        json.loads(line)
        for line in lines(capfd, "admin", "audit", "--resource", made["id"], "--method", "post", "--json")
    ]
    assert (entry["status"], entry["owner"]) == (201, "admin")
    assert lines(capfd, "admin", "audit", "--resource", made["id"], "--until", "2h") == []
    assert lines(capfd, "admin", "audit", "--owner", "nobody", "--since", "2020-01-01T00:00:00Z") == []


@pytest.mark.parametrize("time", ["yesterday", "10", "999999999d", "2030-01-01", "2030-01-01T00:00:00"])
def test_a_time_that_is_none_is_a_usage_error(time: str) -> None:
    assert main(["admin", "audit", "--since", time]) == 2
