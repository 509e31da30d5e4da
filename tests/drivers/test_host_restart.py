"""A whole Bay with runc and CRIU, and a restart of its host: another boot id, and no run directory.

What `bay admin prepare-restart` has made durable goes on after it, and all other memory is lost with a word.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import shared_cache
from criu_program import criu_program
from serving import KEY, Server, serving

import bay
from bay.drivers.oci import closure, host_image

pytestmark = pytest.mark.host

# Fixtures are found by their names here.
__all__ = ["criu_program"]

BIN = Path(sys.executable).with_name("bay")
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_PROFILES = {
    "python-default": {"memory_mb": 512, "hibernate": True, "idle_timeout": 3600},
    "plain": {"memory_mb": 512},
}


@pytest.fixture
def root() -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="bay-b-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@contextmanager
def booted(root: Path, criu: str) -> Generator[tuple[Server, bay.Client]]:
    """A Bay in a mount namespace of its own with another boot id over the host's. It is stopped at the end,
    and with it goes what a restart takes from a host on which no sandbox runs.
    """
    cache = Path(shared_cache.filled())
    closure.build(cache / "closures")  # before the clock of the server's start runs
    host_image.build(cache / "images")
    (root / "boot_id").write_text(f"{secrets.token_hex(16)}\n")
    settings = {
        "BAY_DRIVER": "oci", "BAY_CARGO_BACKEND": "btrfs", "BAY_POOL_MAX_GB": "2", "BAY_CACHE_DIR": str(cache),
        "BAY_PROFILES": json.dumps(_PROFILES), "BAY_MEMORY_RESERVE_MB": "0", "BAY_CRIU": criu,
    }  # fmt: skip
    # The kernel lets a sandbox mount /proc only where one is there that nothing is mounted over.
    (root / "proc").mkdir(exist_ok=True)
    mounts = f'mount -t proc proc {root}/proc && mount --bind {root}/boot_id {_BOOT_ID} && exec "$@"'
    through = ("unshare", "--mount", "sh", "-c", mounts, "sh")
    with serving(root, through=through, **settings) as server, bay.Client(server.url, KEY) as client:
        try:
            yield server, client
        except BaseException:
            for box in client.sandboxes.list():
                box.delete()
            raise
        assert server.end() == 0
    shutil.rmtree(root / "run")


def run(server: Server, *arguments: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "BAY_URL": server.url, "BAY_API_KEY": KEY}
    return subprocess.run([BIN, *arguments], env=env, capture_output=True, text=True, timeout=60)


def lost_of(box: bay.Box) -> str:
    """Why its memory was lost."""
    (event,) = (one for one in box.events(follow=False) if one.type == "sandbox.memory_lost")
    return str(event.data["message"])


def test_prepared_memory_outlives_a_restart_of_the_host_and_no_other_does(
    root: Path, criu_program: str
) -> None:
    memories = root / "data/oci/memory"
    with booted(root, criu_program) as (server, client):
        kept = client.sandboxes.create(name="kept", wait=60)
        kept.python.run("loaded = list(range(1000))")
        kept.run("echo file > file; sleep 1000 &")
        kept.checkpoint("loaded", memory=True)
        plain = client.sandboxes.create(name="plain", profile="plain", wait=60)

        done = run(server, "admin", "prepare-restart")
        assert done.returncode == 0, done.stderr
        heads, *lines = (line.split(maxsplit=6) for line in done.stdout.splitlines())
        assert heads == ["SANDBOX", "NAME", "OWNER", "COMPUTE", "MEMORY", "SIZE", "REASON"]
        (first, second) = lines
        assert first[:2] + first[3:5] == [kept.id, "kept", "hibernated", "kept"]
        assert second[:2] + second[3:6] == [plain.id, "plain", "running", "left", "-"]
        assert "1 kept, 0 refused, 1 left" in done.stderr
        assert plain.run("echo goes on").stdout == "goes on\n"
        plain.delete()

        before = set(memories.iterdir())
        altered = client.sandboxes.create(name="altered", wait=60)
        altered.run("echo file > file")
        done = run(server, "admin", "prepare-restart", "--json")
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert {one["name"]: one["memory"] for one in answer["items"]} == {"kept": "kept", "altered": "kept"}
        (image,) = set(memories.iterdir()) - before
        with (image / "pages-1.img").open("r+b") as pages:
            pages.seek(8192)
            pages.write(b"altered")

        late = client.sandboxes.create(name="late", wait=60)
        late.run("echo file > file")
        late.hibernate()

    with booted(root, criu_program) as (server, client):
        for name in ("kept", "altered", "late"):
            assert client.sandboxes.get(name).info.compute == "hibernated"
        kept, altered, late = (client.sandboxes.get(name) for name in ("kept", "altered", "late"))
        assert kept.python.run("print(sum(loaded))").text == "499500\n"
        assert kept.run("pgrep -x sleep | wc -l").stdout == "1\n"
        assert "sandbox.memory_lost" not in [one.type for one in kept.events(follow=False)]
        assert altered.run("cat file; pgrep -c sleep").stdout == "file\n0\n"
        assert "altered" in lost_of(altered)
        assert late.run("cat file").stdout == "file\n"
        assert lost_of(late).endswith("this host differs from the one that saved it: boot")
        kept.python.run("loaded.clear()")
        kept.restore("loaded", memory=True)
        assert kept.python.run("print(sum(loaded))").text == "499500\n"
        for box in (kept, altered, late):
            box.delete()
