"""Builds with a cache, on btrfs: what the second build of the same does, and the next Bay after one that was
killed at each step. A real registry, the executable, the oci driver.
"""

import io
import json
import os
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import forked_bay
import httpx
import pytest
import registry
from forked import Forked
from forked_bay import Death
from image_files import ImageFile, layer_of_tree
from image_roots import busybox_root
from registry import Registry
from ship_harness import eventually

from bay.client import Client
from bay.images import fetch_cage

pytestmark = [pytest.mark.host, pytest.mark.long]

KEY = "bay_0123456789abcdef0123456789abcdef"
PROFILES = {"python-default": {"persist": "machine", "cpus": 1, "memory_mb": 512, "pids": 64}}
_PATIENCE_S = 180.0
BODY = """
COPY one.txt /one.txt
RUN cat /proc/sys/kernel/random/uuid > /first
RUN echo $(cat /one.txt) > /second
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Registry, str]]:
    if os.geteuid() != 0 or not fetch_cage.is_installed() or not registry.is_installed():
        pytest.skip("needs root, skopeo, and docker-registry")
    root = tmp_path_factory.mktemp("busybox")
    busybox_root(root)
    with registry.registry(tmp_path_factory.mktemp("registry")) as hub:
        config = {"config": {"Env": ["PATH=/bin"]}}
        yield hub, hub.push(ImageFile(layers=(layer_of_tree(root),), config=config), "small/box", "1")


@dataclass
class Bay:
    """Servers, one after the other, on one data directory; `bay` speaks to the one that serves."""

    environment: dict[str, str]
    data: Path
    server: Forked | None = None

    def serve(self, dies: Death | None = None) -> None:
        with open(os.devnull, "wb") as null:
            self.server = forked_bay.fork(["serve", "--port", "0"], self.environment, null.fileno(), dies)
        assert self.server.stdout is not None
        self.environment["BAY_URL"] = self.server.stdout.readline().decode().rpartition(" ")[2].strip()

    def end(self) -> None:
        assert self.server is not None
        self.server.send_signal(signal.SIGTERM)
        assert self.server.wait(60) == 0
        self._let_go()

    def wait_for_death(self) -> None:
        assert self.server is not None
        assert self.server.wait(120) == -signal.SIGKILL
        self._let_go()

    def _let_go(self) -> None:
        assert self.server is not None
        assert self.server.stdout is not None
        self.server.stdout.close()

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        return forked_bay.run(list(arguments), self.environment, b"", _PATIENCE_S)

    def __call__(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def build(self, context: Path, tag: str = "web:1") -> str:
        """The log of a build that must end well."""
        done = self.run("build", str(context), "-t", tag)
        assert done.returncode == 0, done.stderr.decode()
        return done.stderr.decode()

    def read(self, path: str, template: str = "web:1") -> str:
        """A file in a sandbox of the template."""
        return self("run", "--template", template, "--", "cat", path).strip()


@pytest.fixture
def bay(base: tuple[Registry, str]) -> Generator[Bay]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    with tempfile.TemporaryDirectory(prefix="bay-", dir="/tmp") as root:
        Path(root).chmod(0o711)  # sessions pass through it
        made = Bay(clean | {
            "BAY_RUN_DIR": f"{root}/run", "BAY_DATA_DIR": f"{root}/data", "BAY_API_KEY": KEY,
            "BAY_CARGO_BACKEND": "btrfs", "BAY_POOL_MAX_GB": "1", "BAY_PROFILES": json.dumps(PROFILES),
            "BAY_REGISTRIES": json.dumps({base[0].host: {"insecure": True}}),
        }, Path(root) / "data")  # fmt: skip
        if "BAY_CACHE_DIR" in os.environ:
            made.environment["BAY_CACHE_DIR"] = os.environ["BAY_CACHE_DIR"]
        try:
            yield made
        finally:
            if made.server is not None and made.server.poll() is None:
                made.end()


@pytest.fixture
def context(tmp_path: Path, base: tuple[Registry, str]) -> Path:
    (tmp_path / "one.txt").write_text("one")
    (tmp_path / "Dockerfile").write_text(f"FROM {base[1]}{BODY}")
    return tmp_path


def test_the_second_build_of_the_same_starts_nothing(bay: Bay, context: Path) -> None:
    bay.serve()
    first = bay.build(context)
    assert "cached" not in first
    stamp = bay.read("/first")
    created = bay("events", "--json").count('"sandbox.created"')
    os.utime(context / "one.txt", (1, 1))
    second = bay.build(context, "web:2")
    assert second.count("cached\n") == 3
    assert bay("events", "--json").count('"sandbox.created"') == created
    assert (bay.read("/first", "web:2"), bay.read("/second", "web:2")) == (stamp, "one")


def test_a_file_that_changed_is_copied_again_and_what_follows_is_done_again(bay: Bay, context: Path) -> None:
    bay.serve()
    bay.build(context)
    stamp = bay.read("/first")
    dockerfile = (context / "Dockerfile").read_text()
    (context / "Dockerfile").write_text(dockerfile.replace("> /second", "> /third"))
    assert bay.build(context, "web:2").count("cached\n") == 2
    assert (bay.read("/first", "web:2"), bay.read("/third", "web:2")) == (stamp, "one")
    (context / "one.txt").write_text("two")
    assert "cached" not in bay.build(context, "web:3")
    assert bay.read("/third", "web:3") == "two"
    assert bay.read("/first", "web:3") != stamp


def test_snapshots_keep_no_image_and_go_with_it(bay: Bay, context: Path, base: tuple[Registry, str]) -> None:
    bay.serve()
    bay.build(context)
    bay("template", "rm", "web:1")
    bay("image", "rm", base[1])
    assert "cached" not in bay.build(context)


# Of the three steps one at least has its snapshot by then.
AFTER_A_SNAPSHOT: list[Death] = [
    ("bay.server.builds.builder:Builder._snapshot", "before", 2),
    ("bay.server.builds.builder:Builder._snapshot", "after", 2),
    ("bay.server.builds.builder:Builder._snapshot", "after", 3),
    ("bay.server.builds.builder:Builder._made", "after", 1),
    ("bay.server.templates.freezing:TemplateFreezer.freeze", "before", 1),
]
DEATHS: list[Death] = [
    *AFTER_A_SNAPSHOT,
    ("bay.server.builds.builder:Builder._sandbox", "before", 1),
    ("bay.server.builds.builder:Builder._sandbox", "after", 1),
    ("bay.server.builds.step_runner:StepRunner.run", "after", 1),
    ("bay.server.templates.freezing:TemplateFreezer.freeze", "after", 1),
]


@pytest.mark.parametrize("dies", DEATHS, ids=lambda one: f"{one[1]} {one[2]} {one[0].rpartition('.')[2]}")
@pytest.mark.timeout(300)
def test_the_next_bay_finishes_a_build_and_leaves_nothing_of_the_first(
    bay: Bay, context: Path, dies: Death
) -> None:
    bay.serve(dies)
    made = ask(bay.environment["BAY_URL"], context)
    bay.wait_for_death()
    bay.serve()
    with Client(bay.environment["BAY_URL"], KEY) as client:
        assert client.templates.wait(made).state == "ready"
        log = client.templates.log(made)
    assert ("cached\n" in log) == (dies in AFTER_A_SNAPSHOT)
    assert (bay.read("/one.txt"), bay.read("/second")) == ("one", "one")
    assert bay("ls", "-q") == ""
    kept = bay.data / "builds" / made  # a context goes after the template is ready, which no event tells
    assert eventually(lambda: os.listdir(kept) == ["log"]), os.listdir(kept)


STAGES = """ AS first
COPY one.txt /one.txt
RUN mkdir /dir; cp /one.txt /dir/one
FROM first
COPY --from=first /dir /copied
RUN echo $(cat /copied/one) > /second
"""


@pytest.mark.parametrize(
    "dies",
    [
        ("bay.server.builds.builder:Builder._fetched", "before", 1),
        ("bay.server.builds.stage_files:_sources", "after", 1),
        ("bay.server.builds.builder:Builder._drop_source", "before", 1),
        ("bay.server.builds.builder:Builder._made", "after", 1),
    ],
    ids=lambda one: f"{one[1]} {one[2]} {one[0].rpartition('.')[2]}",
)
@pytest.mark.timeout(300)
def test_the_next_bay_finishes_a_build_of_stages(
    bay: Bay, context: Path, base: tuple[Registry, str], dies: Death
) -> None:
    (context / "Dockerfile").write_text(f"FROM {base[1]}{STAGES}")
    bay.serve(dies)
    made = ask(bay.environment["BAY_URL"], context)
    bay.wait_for_death()
    bay.serve()
    with Client(bay.environment["BAY_URL"], KEY) as client:
        assert client.templates.wait(made).state == "ready"
    assert (bay.read("/copied/one"), bay.read("/second")) == ("one", "one")
    assert bay("ls", "-q") == ""
    kept = bay.data / "builds" / made  # a context goes after the template is ready, which no event tells
    assert eventually(lambda: os.listdir(kept) == ["log"]), os.listdir(kept)


def ask(url: str, context: Path) -> str:
    """The id of the template that is asked for."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}) as http:
        dockerfile = (context / "Dockerfile").read_text()
        body = {"name": "web", "tag": "1", "dockerfile": dockerfile, "context": True}
        made: str = http.post("/v1/templates", json=body).json()["id"]
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as packed:
            packed.add(context / "one.txt", "one.txt")
        assert http.put(f"/v1/templates/{made}/context", content=tar.getvalue()).is_success
        return made
