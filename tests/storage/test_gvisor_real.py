"""Sandboxes of a profile with isolation gvisor, through a whole Bay on a real pool."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from pool_server import Shell
from serving import KEY, serving

import bay

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(shutil.which("runsc") is None, reason="needs runsc; apt-get install runsc"),
]

PROFILES = {
    "python-default": {"pids": 128},
    "strict": {
        "isolation": "gvisor",
        "pids": 256,
        "memory_mb": 512,
        "persist": "machine",
        "idle_timeout": None,
    },
}


@pytest.fixture(scope="module")
def url(cache: Path) -> Generator[str]:
    """A Bay with runsc, whose sandboxes are gone at the end."""
    with tempfile.TemporaryDirectory(prefix="bay-g-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        settings = {
            "BAY_DRIVER": "oci", "BAY_CARGO_BACKEND": "btrfs", "BAY_POOL_MAX_GB": "1", "BAY_NETWORK": "off",
            "BAY_CACHE_DIR": str(cache), "BAY_PROFILES": json.dumps(PROFILES), "BAY_RUNSC": "runsc",
        }  # fmt: skip
        try:
            with serving(Path(name), **settings) as served:
                yield served.url
                Shell(served.url)("rm", "--all", code=None)
                served.end()
        finally:
            if os.path.ismount(f"{name}/data/cargo"):  # it was killed
                subprocess.run(["umount", f"{name}/data/cargo"], check=True)


@pytest.fixture(scope="module")
def client(url: str) -> Generator[bay.Client]:
    with bay.Client(url, KEY) as made:
        yield made


def test_a_sandbox_in_gvisor_is_used_as_any_other(client: bay.Client) -> None:
    box = client.sandboxes.create(profile="strict", name="walled")
    assert box.refresh().isolation == "gvisor"
    assert "gVisor" in box.run("dmesg").stdout
    assert box.run("id -u; pwd").stdout == "1000\n/workspace\n"
    box.files.write("a.txt", b"one")
    assert box.run("cat a.txt").stdout == "one"
    assert box.python.run("x = 6 * 7\nx").text == "42"
    app = box.spawn(["python3", "-m", "http.server", "8000"])
    box.wait_for(8000)
    assert b"a.txt" in box.fetch(8000, "/").content
    app.kill()
    box.pause()
    assert box.refresh().compute == "warm"
    assert box.run("cat a.txt").stdout == "one"  # it wakes


def test_its_files_are_checkpointed_restored_forked_and_kept(client: bay.Client) -> None:
    box = client.sandboxes.create(profile="strict", name="kept")
    box.run("echo first > file; echo first > /etc/mark", user="root")
    made = box.checkpoint("before")
    box.run("echo second > file; echo second > /etc/mark", user="root")
    [other] = box.fork(1, name="copied")
    assert other.run("cat file /etc/mark").stdout == "second\nsecond\n"
    box.restore(made)
    assert box.run("cat file /etc/mark").stdout == "first\nfirst\n"
    box.stop()
    assert box.run("cat file /etc/mark; dmesg | grep -c gVisor").stdout == "first\nfirst\n1\n"


def test_a_network_is_refused_and_a_container_is_a_container(client: bay.Client) -> None:
    box = client.sandboxes.create(profile="strict", name="lonely")
    with pytest.raises(
        bay.CapabilityNotSupported, match="network mode open cannot be enforced here; choose none"
    ):
        box.network.set("open")
    with pytest.raises(
        bay.BayError, match="isolation kata is not available here; there is container or gvisor"
    ):
        client.sandboxes.create(profile="strict", isolation="kata")
    assert "gVisor" not in client.sandboxes.create(isolation="container").run("dmesg 2>&1").stdout


def test_the_server_says_that_it_has_it(url: str) -> None:
    shown = Shell(url)("capabilities", "--json")
    assert json.loads(shown)["isolations"] == ["container", "gvisor"]
