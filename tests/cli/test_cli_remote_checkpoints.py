"""Remote checkpoints on the command line and in the SDK, with a real object store."""

import json
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import object_server
import pytest
import real_bay
from cli_runner import Cli, Done

import bay as sdk

pytestmark = pytest.mark.host

PAGE = Path(__file__).parents[2] / "docs" / "object-storage.md"


@pytest.fixture(scope="module")
def real() -> Generator[real_bay.RealBay]:
    server = object_server.shared()
    with real_bay.running(object_store=server.settings(server.bucket())) as running:
        yield running


def lines(done: Done) -> list[str]:
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().splitlines()


def block(begins: str) -> str:
    """The block of the page that begins so."""
    found = re.findall(rf"(?ms)^```\w+\n({re.escape(begins)}.*?)^```$", PAGE.read_text())
    assert len(found) == 1
    return found[0]


def test_a_checkpoint_is_pushed_listed_pulled_and_removed(bay: Cli, name: str) -> None:
    """The commands of the page, and those that it does without."""
    with sdk.Client(bay.url, real_bay.KEY) as client:
        client.sandboxes.create(name="other", exist_ok=True)
    [kept] = lines(bay("checkpoint", "create", name, "--name", "before"))
    page = [line.split("#")[0].split()[1:] for line in block("bay checkpoint push").splitlines()]
    words, said = {"web": name, "ckpt-51f1c5c6e6f4f6b1a2b3c4d5": kept}, [""]
    for command in page:
        words["ckpt-0a1b2c3d4e5f60718293a4b5"] = said[-1]
        said = lines(bay(*(words.get(word, word) for word in command)))
        if command[:2] == ["checkpoint", "push"]:
            assert said == [kept]
    [made] = said
    assert made.startswith("sandbox-")
    [row] = lines(bay("checkpoint", "remote", "--sandbox", name))[1:]
    assert row.split()[:4] == [kept, "ready", name, "before"]
    assert lines(bay("checkpoint", "remote", "--sandbox", "other", "-q")) == []
    found: dict[str, Any] = json.loads(lines(bay("checkpoint", "remote", "--json"))[0])
    assert (found["key"], found["state"]) == (kept, "ready")
    second: dict[str, Any] = json.loads(lines(bay("checkpoint", "push", name, "--json"))[0])
    assert second["key"] != kept
    lines(bay("checkpoint", "remote-rm", kept, second["key"]))
    assert lines(bay("checkpoint", "remote", "-q")) == []
    done = bay("checkpoint", "pull", name, kept)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"bay checkpoint remote" in done.stderr


def test_the_sdk_moves_a_checkpoint_as_the_page_says(bay: Cli, name: str) -> None:
    given: dict[str, Any] = {"bay": sdk}
    exec(block("def move"), given)  # noqa: S102
    with sdk.Client(bay.url, real_bay.KEY) as client:
        box, other = client.sandboxes.get(name), client.sandboxes.create()
        box.files.write("n", "moved")
        given["move"](box, client, other)
        assert other.files.read("n") == b"moved"
        [found] = client.remote_checkpoints.list(sandbox=name)
        assert client.remote_checkpoints.get(found.key) == found
        seen: list[sdk.RemoteCheckpoint] = []
        assert client.remote_checkpoints.wait(found.key, progress=seen.append) == found
        assert seen == [found]
        client.remote_checkpoints.delete(found.key)
        with pytest.raises(sdk.NotFound):
            other.pull_checkpoint(found)
