"""Secrets in real sandboxes: files lie in memory alone, and nothing that outlives a session has a value."""

import json
from collections.abc import Generator
from pathlib import Path

import pytest
from lab import Box, Lab, lab
from world import World

pytestmark = [pytest.mark.host, pytest.mark.long]

VALUE = "xyzzy-plugh-3.14159"
FILE = "/run/secrets/token"


@pytest.fixture(scope="module")
def bay(earth: World, root: Path, cache: Path) -> Generator[Lab]:
    """A Bay with a profile whose root file system outlives sessions."""
    profiles = json.dumps({"python-default": {}, "machine": {"persist": "machine"}})
    with lab(earth, root, cache, BAY_PROFILES=profiles) as made:
        yield made


def put(bay: Lab, value: str = VALUE, name: str = "TOKEN") -> None:
    bay.ask("PUT", f"/v1/secrets/{name}", json={"value": value})


def said(box: Box, command: str, user: str = "ship") -> str:
    done = box.run("sh", "-c", command, user=user)
    assert done["exit_code"] == 0, done
    return done["stdout"]


def test_a_file_is_in_memory_and_its_user_s_alone(bay: Lab) -> None:
    put(bay)
    with bay.box(secrets=[{"name": "TOKEN", "file": FILE}]) as box:
        assert said(box, f"cat {FILE}") == VALUE
        assert (
            said(box, f"stat -c '%a %U %s' {FILE} && stat -f -c %T /run/secrets")
            == f"400 ship {len(VALUE)}\ntmpfs\n"
        )
        assert said(box, "stat -c '%a %U' /run/secrets") == "700 ship\n"
        denied = box.run("cat", FILE, user="nobody")
        assert denied["exit_code"] != 0
        assert "Permission denied" in denied["stderr"]
        assert said(box, "grep ' /run/secrets ' /proc/mounts").split()[0] == "tmpfs"
        assert "TOKEN" not in said(box, "env")


def test_a_changed_file_is_there_with_the_next_command_and_after_a_restart(bay: Lab) -> None:
    put(bay, "one")
    with bay.box(secrets=[{"name": "TOKEN", "file": FILE}, {"name": "TOKEN", "env": "X"}]) as box:
        assert said(box, f"cat {FILE}; printf %s $X") == "oneone"
        put(bay, "two")
        assert said(box, f"cat {FILE}; printf %s $X") == "twotwo"
        box.act("stop")
        put(bay, "three")
        box.act("start")
        assert said(box, f"cat {FILE}") == "three"
        box.act("pause")
        put(bay, "four")
        assert said(box, f"cat {FILE}") == "four"


def test_a_service_finds_the_file_when_it_starts(bay: Lab) -> None:
    put(bay)
    service = {"name": "reader", "argv": ["sh", "-c", f"cat {FILE} > seen; exec sleep 600"]}
    with bay.box(secrets=[{"name": "TOKEN", "file": FILE}], services=[service]) as box:
        assert said(box, "until test -s seen; do sleep 0.02; done; cat seen") == VALUE


def test_nothing_on_the_host_s_disk_has_the_value(bay: Lab) -> None:
    put(bay)
    given = [{"name": "TOKEN", "file": FILE}, {"name": "TOKEN", "env": "X"}]
    with bay.box(secrets=given) as box:
        assert said(box, f"cat {FILE}; printf %s $X") == 2 * VALUE
        bay.ask("POST", box.path("/checkpoints"))
        held = [
            path
            for path in bay.root.rglob("*")
            if path.is_file() and not path.is_symlink() and VALUE.encode() in path.read_bytes()
        ]
        assert held == []
        for path in ("", "/execs", "/events", "/history", "/processes"):
            assert VALUE not in bay.call("GET", box.path(path)).text
    assert VALUE not in bay.log()


@pytest.mark.parametrize(
    "trap", ["ln -s /etc /run/secrets", "rm -rf /run; ln -s /workspace /run", "rm -rf /run; touch /run"]
)
def test_a_trap_in_a_layer_that_lasts_gets_no_secret_and_stops_no_start(bay: Lab, trap: str) -> None:
    put(bay)
    with bay.box(secrets=[{"name": "TOKEN", "file": FILE}], profile="machine") as box:
        said(
            box,
            f"umount /run/secrets 2>/dev/null; rm -rf /run/secrets 2>/dev/null; {trap}; true",
            user="root",
        )
        box.act("stop")
        box.act("start")
        assert said(box, f"cat {FILE}") == VALUE
        assert said(box, "ls /etc/token /workspace/secrets 2>/dev/null; true") == ""
