"""`bay events` and `bay webhooks` against a real Bay."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bay
from bay.cli.main import main

BIN = Path(sys.executable).parent / "bay"
URL = "https://[2606:4700::1111]/hook"


@pytest.fixture
def client(served: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[bay.Client]:
    """A client of the Bay that the command line finds too."""
    monkeypatch.setenv("BAY_URL", served[0])
    monkeypatch.setenv("BAY_API_KEY", served[1])
    with bay.Client(timeout_s=30) as made:
        yield made


def lines(capfd: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    capfd.readouterr()
    assert main(list(arguments)) == 0
    return capfd.readouterr().out.splitlines()


def test_events_are_shown_and_gone_on_behind(client: bay.Client, capfd: pytest.CaptureFixture[str]) -> None:
    with client.sandbox(name="seen") as box:
        shown = lines(capfd, "events", "seen")
        assert shown[0].split()[1:3] == [box.id, "sandbox.created"]
        found: list[Any] = [json.loads(line) for line in lines(capfd, "events", "--json")]
        assert [event["type"] for event in found if event["sandbox_id"] == box.id][-1] == "sandbox.ready"
        assert lines(capfd, "events", "--json", "--since", found[-1]["id"]) == []
        box.delete()
    followed = lines(capfd, "events", box.id, "--follow", "--since", "0")  # ends with the sandbox
    assert "sandbox.deleted" in followed[-1]


def test_following_goes_on_until_it_is_interrupted(client: bay.Client) -> None:
    with (
        client.sandbox() as box,
        subprocess.Popen(
            [str(BIN), "events", "--follow", "--since", "0"], stdout=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stdout is not None
        assert any(
            box.id in line for line in process.stdout
        )  # looks no further than to the first that has it
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_webhooks_are_made_listed_and_removed(client: bay.Client, capfd: pytest.CaptureFixture[str]) -> None:
    made = lines(capfd, "webhooks", "create", URL, "--type", "sandbox.failed")
    assert [line.split(":")[0] for line in made] == ["id", "secret"]
    hook_id = made[0].split()[1]
    head, row = lines(capfd, "webhooks", "ls")
    assert head.split() == ["ID", "URL", "TYPES", "FAILED", "LAST", "ERROR"]
    assert row.split() == [hook_id, URL, "sandbox.failed", "-", "-"]
    assert json.loads(lines(capfd, "webhooks", "ls", "--json")[0])["secret"] is None
    assert lines(capfd, "webhooks", "rm", hook_id, "--json") == [json.dumps({"id": hook_id, "deleted": True})]
    assert main(["webhooks", "rm", hook_id]) == 2
    assert main(["webhooks", "create", "http://127.0.0.1/"]) == 2
