"""Docker, to compare with, when a daemon answers here: containers of a tiny image made on the spot.

A daemon without a network of its own (`dockerd --iptables=false --ip6tables=false --bridge=none`) is good
enough: its containers get none, as Bay's sandboxes, and the figures say so.
"""

import io
import re
import subprocess
import tarfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

IMAGE = "bay-bench:tiny"
PROGRAMS = (Path("/usr/bin/true"), Path("/usr/bin/sleep"), Path("/usr/bin/head"))


class NoDocker(Exception):
    """There is no daemon that answers; the message says so."""


@dataclass(frozen=True, slots=True)
class Docker:
    """Commands of the `docker` client on the tiny image."""

    network: tuple[str, ...]
    """What containers are started with: nothing for the daemon's own network, else that there is none."""

    @property
    def options(self) -> str:
        """The same for people, with a space behind it."""
        return "".join(f"{word} " for word in self.network)

    def run(self) -> None:
        """`docker run --rm IMAGE true`."""
        _docker("run", "--rm", *self.network, IMAGE, "/usr/bin/true")

    def pull(self, reference: str) -> None:
        """`docker pull`, of an image that is not there."""
        _docker("pull", "--quiet", reference, timeout_s=3600)

    def forget(self, reference: str) -> None:
        """Remove an image."""
        _docker("rmi", "--force", reference, timeout_s=600)

    def daemon(self) -> int:
        """The process of the daemon. Raises StopIteration where it is not on this machine."""
        names = ((path, path.read_text().strip()) for path in Path("/proc").glob("[0-9]*/comm"))
        return next(int(path.parent.name) for path, name in names if name == "dockerd")

    @contextmanager
    def container(self) -> Generator[str, None, None]:
        """A running container for the length of the block."""
        name = _docker("run", "--detach", *self.network, IMAGE, "/usr/bin/sleep", "3600").strip()
        try:
            yield name
        finally:
            _docker("rm", "--force", name)

    def exec(self, container: str) -> None:
        """`docker exec CONTAINER true`."""
        _docker("exec", container, "/usr/bin/true")


@contextmanager
def docker() -> Generator[Docker, None, None]:
    """Docker with the tiny image, which is removed afterwards. Raises NoDocker."""
    try:
        _docker("info")
    except (OSError, subprocess.SubprocessError):
        raise NoDocker("docker not available: no daemon answers") from None
    subprocess.run(
        ["docker", "import", "-", IMAGE], input=_rootfs(), check=True, timeout=60, stdout=subprocess.DEVNULL
    )
    try:
        yield Docker(_network())
    finally:
        _docker("rmi", "--force", IMAGE)


def _docker(*arguments: str, timeout_s: float = 120) -> str:
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=timeout_s, check=True
    )
    return done.stdout


def _network() -> tuple[str, ...]:
    names = _docker("network", "ls", "--format", "{{.Name}}").split()
    return () if "bridge" in names else ("--network", "none")


def _rootfs() -> bytes:
    """A tar with the programs and the libraries that they name."""
    files = {path for program in PROGRAMS for path in (program, *_libraries(program))}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", dereference=True) as tar:
        for path in sorted(files):
            tar.add(path, arcname=str(path).lstrip("/"))
    return out.getvalue()


def _libraries(program: Path) -> list[Path]:
    done = subprocess.run(["ldd", program], capture_output=True, text=True, timeout=20, check=True)
    return [Path(found) for found in re.findall(r"(/\S+)", done.stdout)]
