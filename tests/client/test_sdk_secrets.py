"""Secrets through the SDK, on a real Bay with the `fake` driver."""

import pytest

import bay


def test_a_secret_is_set_listed_given_and_deleted(client: bay.Client) -> None:
    made = client.secrets.set("TOKEN", "first")
    assert made.name == "TOKEN"
    assert [one.name for one in client.secrets.list()] == ["TOKEN"]
    given = ["TOKEN", bay.SandboxSecret(name="TOKEN", env="AGAIN")]
    with client.sandbox(secrets=given) as box:
        assert box.info.secrets == (
            bay.SandboxSecret(name="TOKEN", env="TOKEN"),
            bay.SandboxSecret(name="TOKEN", env="AGAIN"),
        )
        assert box.run("echo $TOKEN $AGAIN").stdout == "first first\n"
        client.secrets.set("TOKEN", "second")
        assert box.run("echo $TOKEN").stdout == "second\n"
        client.secrets.delete("TOKEN")
        with pytest.raises(bay.SecretMissing, match="was deleted"):
            box.run("true")
    with pytest.raises(bay.NotFound):
        client.secrets.delete("TOKEN")
    with pytest.raises(bay.NotFound):
        client.sandboxes.create(secrets=["TOKEN"])


def test_a_name_that_is_a_path_is_refused_before_it_is_sent(client: bay.Client) -> None:
    for name in ("..", ""):
        with pytest.raises(bay.InvalidArgument):
            client.secrets.set(name, "x")
