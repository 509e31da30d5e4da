"""Templates through the executable: the oci driver, an image of busybox, and both ways to keep files."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked_bay
import httpx
import pytest
from forked import Forked
from forked_bay import Death
from image_files import ImageFile, layer_of_tree
from image_roots import busybox_root

from bay import Client
from bay.cargo import backend_detection
from bay.images import fetch_cage
from pools import unmounted_after

pytestmark = [pytest.mark.host, pytest.mark.long]

KEY = "bay_0123456789abcdef0123456789abcdef"
TEMPLATES = 5
READY = "wget -q -O /dev/null 127.0.0.1:8000"
_FREEZER, _STORE = "bay.server.templates.freezing:TemplateFreezer", "bay.images.layer_store:LayerStore"
DEATHS: dict[str, Death] = {
    "nothing is made": (f"{_FREEZER}._base", "before", 1),
    "the layer is half made": (f"{_STORE}._publish", "before", 1),
    "the layer is whole": (f"{_STORE}._publish", "after", 1),
    "the top is half made": ("bay.images.tops:_write", "after", 1),
    "the workspace is kept": (f"{_FREEZER}._keep_files", "after", 1),
    "the row is written, and not saved": (f"{_FREEZER}._ready", "after", 1),
    "the row is saved": (f"{_FREEZER}._measure", "before", 1),
}
_SET_UP = """
set -e
echo 'ann:x:1234:1234::/home/ann:/bin/sh' >> /etc/passwd
echo 'ann:x:1234:' >> /etc/group
mkdir /home/ann
chown 1234:1234 /home/ann
echo '#!/bin/sh
echo tool' > /bin/tool
chmod 4755 /bin/tool
rm /etc/os-release
rm -rf /var/lib
mkdir /var/lib
echo new > /var/lib/new
mv /var/tmp /var/moved
ln /var/lib/new /var/lib/same
"""
_SECOND = "cat /var/lib/second app/file app/more; test -e /bin/tool || echo gone"
_TREE = "find / -xdev -path /etc/hostname -prune -o -path /proc -prune -o -exec stat -c '%n %f %u %g %h' {} + | sort"


@dataclass
class Server:
    """A Bay of its own directories, which runs, is killed, and runs again."""

    environment: dict[str, str]
    root: Path
    process: Forked | None = None

    def start(self, dies: Death | None = None) -> None:
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        with open(os.devnull, "wb") as null:
            self.process = forked_bay.fork(["serve", "--port", "0"], self.environment, null.fileno(), dies)
        assert self.process.stdout is not None
        url = self.process.stdout.readline().decode().rpartition(" ")[2].strip()
        self.environment["BAY_URL"] = url

    def end(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.process.stdout.close()

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = forked_bay.run(list(arguments), self.environment, b"")
        assert done.returncode == code, done.stderr.decode()
        return (done.stdout or done.stderr).decode()

    @contextmanager
    def begun(self, *arguments: str) -> Generator[Forked]:
        """The same until the end of the block, without waiting; what it says is not kept."""
        with open(os.devnull, "wb") as null:
            process = forked_bay.fork(list(arguments), self.environment, null.fileno())
        assert process.stdout is not None
        with process.stdout:
            try:
                yield process
            finally:
                process.kill()
                process.wait(60)

    def json(self, *arguments: str) -> dict[str, object]:
        return json.loads(self(*arguments, "--json"))

    def kept(self, kind: str) -> list[str]:
        """Names of layers, tops or checkpoints on the disk."""
        base = self.root / "data"
        pool = base / backend_detection.ROOT
        images = pool / ".images" if (pool / ".images").exists() else base / "images"
        place = pool / ".checkpoints" if kind == "checkpoints" else images / kind
        return sorted(path.name for path in place.iterdir() if not path.name.startswith("."))


@contextmanager
def running(root: Path, backend: str) -> Generator[Server]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    profile = {"persist": "machine", "memory_mb": 128, "start": "eager"}
    own = clean | {
        "BAY_RUN_DIR": f"{root}/run", "BAY_DATA_DIR": f"{root}/data", "BAY_API_KEY": KEY,
        "BAY_CARGO_BACKEND": backend, "BAY_POOL_MAX_GB": "2",
        "BAY_PROFILES": json.dumps({"python-default": profile}),
    }  # fmt: skip
    if "BAY_CACHE_DIR" in os.environ:
        own["BAY_CACHE_DIR"] = os.environ["BAY_CACHE_DIR"]
    server = Server(own, root)
    server.start()
    try:
        yield server
        if server("ls", "-q"):
            server("rm", "--all")
    finally:
        server.end()


@pytest.fixture(scope="module", params=["btrfs", "directory"])
def bay(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Server]:
    if os.geteuid() != 0 or not fetch_cage.is_installed():
        pytest.skip("needs root, and skopeo")
    if request.param == "btrfs" and backend_detection.look(Path("/tmp")).lacking is not None:
        pytest.skip("needs loop devices and btrfs")
    made = tmp_path_factory.mktemp("image")
    busybox_root(made / "root")
    ImageFile(layers=(layer_of_tree(made / "root"),)).write(made / "layout")
    subprocess.run(["tar", "-C", made / "layout", "-cf", made / "image.tar", "."], check=True)
    with tempfile.TemporaryDirectory(prefix="bay-", dir="/tmp") as name:
        root = Path(name)
        root.chmod(0o711)  # sessions pass through it
        with unmounted_after(root / "data"), running(root, request.param) as server:
            server("image", "import", str(made / "image.tar"), "small:1")
            yield server


def set_up(bay: Server) -> str:
    """A sandbox in which things were installed and deleted; its tree."""
    bay("create", "dev", "--image", "small:1", "--wait", "60")
    bay("exec", "--user", "root", "dev", "--", "sh", "-c", _SET_UP)
    bay("exec", "dev", "--", "sh", "-c", "mkdir app && echo data > app/file")
    return bay("exec", "--user", "root", "dev", "--", "sh", "-c", _TREE)


def test_sandboxes_of_a_template_are_as_their_source_was(bay: Server) -> None:
    before = set_up(bay)
    assert bay("template", "create", "app", "--from", "dev").startswith("tmpl-")
    bay("rm", "dev")
    for number in range(TEMPLATES):
        bay("create", f"t{number}", "--template", "app", "--wait", "60")
    for number in range(TEMPLATES):
        box = f"t{number}"
        assert bay("exec", box, "--", "tool") == "tool\n"
        assert bay("exec", box, "--", "cat", "app/file") == "data\n"
        assert bay("exec", box, "--", "ls", "/var/lib") == "new\nsame\n"
        assert "ann" in bay("exec", box, "--", "id", "ann")
        bay("exec", box, "--", "test", "-e", "/etc/os-release", code=1)
    assert bay("exec", "--user", "root", "t0", "--", "sh", "-c", _TREE) == before
    bay("exec", "--user", "root", "t0", "--", "sh", "-c", "rm /bin/tool; echo 2 > /var/lib/second")
    bay("exec", "t0", "--", "sh", "-c", "echo more > app/more")
    bay("template", "create", "app:v2", "--from", "t0")
    said = bay(
        "run",
        "--template",
        "app:v2",
        "--",
        "sh",
        "-c",
        "cat /var/lib/second app/file app/more; test -e /bin/tool || echo gone",
    )
    assert said == "2\ndata\nmore\ngone\n"
    assert bay("exec", "t1", "--", "tool") == "tool\n"  # the first template is as it was
    assert "used by sandbox-" in bay("template", "rm", "app", code=2)
    bay("template", "tag", "app:v2", "other:1")
    assert bay("run", "--template", "other:1", "--", "cat", "app/more") == "more\n"
    bay("template", "update", "app:v2", "--tag", "v3")
    assert "other:1" in bay("template", "get", "app:v3")
    bay("template", "rm", "app:v3")  # the name alone
    bay("template", "tag", "other:1", "app:v2")
    bay("template", "rm", "other:1")
    bay("rm", "--all")
    bay("template", "rm", "app", "app:v2")
    assert bay("template", "ls", "-q") == ""
    assert len(bay.kept("layers")) == len(bay.kept("tops")) == 1


def test_a_create_waits_until_what_a_template_starts_is_ready(bay: Server) -> None:
    bay("create", "dev", "--image", "small:1", "--wait", "60")
    fifo = "cd /workspace; test -p go || mkfifo go"
    start = f"{fifo}; read word < go; echo $word > up; exec sleep 1000"
    bay(
        "template", "create", "serving", "--from", "dev", "--start", start, "--ready", "test -e /workspace/up"
    )
    with bay.begun("create", "s", "--template", "serving", "--wait", "60") as create:
        within(lambda: "s" in bay("ls").split(), "the sandbox")
        within(lambda: services(bay, "s")["main"]["state"] == "running", "what the template starts")
        assert create.poll() is None
        bay("exec", "s", "--", "sh", "-c", f"{fifo}; test ! -e up; echo $? > go")  # waits until that is read
        assert create.wait(60) == 0
    assert services(bay, "s")["main"]["healthy"] is True
    assert bay("exec", "s", "--", "cat", "up") == "0\n"
    bay("rm", "--all")
    bay("template", "rm", "serving")


def services(bay: Server, box: str) -> dict[str, Any]:
    """The services of a sandbox, by name."""
    found = map(json.loads, bay("services", "ls", box, "--json").splitlines())
    return {one["name"]: one for one in found}


def within(is_so: Callable[[], bool], what: str) -> None:
    """Return once it is so, of which nothing tells."""
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def waits(client: Client, count: int) -> None:
    """Return once so many wait in the pool of the template `pooled`."""
    until = time.monotonic() + 60
    while (found := client.templates.get("pooled")).pool_ready != count:
        assert time.monotonic() < until, found
        time.sleep(0.1)


def test_creates_from_a_template_with_a_pool_get_sandboxes_that_serve(bay: Server) -> None:
    set_up(bay)
    serve = "mkdir www; cp app/file www/index.html; httpd -f -p 8000 -h www"
    bay("template", "create", "pooled", "--from", "dev", "--start", serve, "--ready", READY, "--pool", "3")
    with Client(bay.environment["BAY_URL"], KEY) as client:
        waits(client, 3)
        taken = client.sandboxes.create(template="pooled")
        assert (taken.info.status, taken.info.compute) == ("ready", "running")
        assert taken.run(READY).exit_code == 0  # it has been serving for long
        seen = {taken.id}
        for _ in range(20):
            box = client.sandboxes.create(template="pooled", wait=60)
            seen.add(box.id)
            said = box.run("wget -q -O - 127.0.0.1:8000; tool; cat app/file")
            assert said.stdout == "data\ntool\ndata\n"
            box.delete()
        assert len(seen) == 21
        waits(client, 3)
        [pool] = [one for one in client.admin.pool() if one.template_id]
        assert pool.hits >= 2
        assert pool.failures == 0
    bay.end()
    bay.start()
    with Client(bay.environment["BAY_URL"], KEY) as client:
        waits(client, 3)
        again = client.sandboxes.create(template="pooled")
        assert again.run(READY).exit_code == 0
    assert "/3" in bay("template", "get", "pooled")
    bay("template", "update", "pooled", "--pool", "1")
    bay("rm", "--all")
    bay("template", "rm", "pooled")
    assert len(bay.kept("layers")) == len(bay.kept("tops")) == 1
    within(lambda: bay.kept("checkpoints") == [], "the files of a deleted template stay")


@pytest.mark.parametrize("step", DEATHS)
def test_the_next_bay_makes_the_template_that_a_killed_one_was_at(bay: Server, step: str) -> None:
    set_up(bay)
    dev = str(bay.json("get", "dev")["id"])
    bay.end()
    bay.start(DEATHS[step])
    assert bay.process is not None
    headers = {"Authorization": f"Bearer {KEY}"}
    with suppress(httpx.TransportError):
        body = {"name": "killed", "sandbox": dev}
        httpx.post(f"{bay.environment['BAY_URL']}/v1/templates", json=body, headers=headers, trust_env=False)
    assert bay.process.wait(60) == -signal.SIGKILL
    bay.start()
    with Client(bay.environment["BAY_URL"], KEY) as client:
        assert client.templates.wait("killed").state == "ready"
    assert bay("run", "--template", "killed", "--", "sh", "-c", "tool; cat app/file") == "tool\ndata\n"
    bay("template", "rm", "killed")
    bay("rm", "--all")
    assert len(bay.kept("layers")) == len(bay.kept("tops")) == 1
    within(lambda: bay.kept("checkpoints") == [], "the files of a deleted template stay")
