"""What benchmarks share: what they may use, how they take time, and how they put Docker beside Bay."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from examples.own_server import OwnServer

from bay.client import Box, Client
from bench.docker import Docker
from bench.figures import Absent, Figure, Ratio, Result


@dataclass(frozen=True, slots=True)
class Bench:
    """What a benchmark may use.

    `docker` is None where no daemon answers; `scale` shrinks the counts for a quick look, `exactly` is how
    many sandboxes `density` was asked to have, and `size` the bytes of the image of `image-pull`.
    """

    server: OwnServer
    client: Client
    docker: Docker | None
    scale: float = 1.0
    exactly: int | None = None
    size: int | None = None

    def count(self, full: int) -> int:
        """How many of `full` to take at this scale, at least one."""
        return max(1, round(full * self.scale))


Case = Callable[[Bench], list[Result]]


def ms(act: Callable[[], object]) -> float:
    """How long `act` takes, in milliseconds."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def beside_docker(mine: Figure, name: str, samples: list[float]) -> list[Result]:
    """`mine`, Docker's figure and the ratio; without samples a word that Docker is not there."""
    if not samples:
        return [mine, Absent(name, "docker not available")]
    theirs = Figure(name, mine.unit, tuple(samples))
    return [mine, theirs, Ratio(mine, theirs)]


@contextmanager
def running_box(client: Client) -> Generator[Box, None, None]:
    """A sandbox that has answered a command, deleted afterwards."""
    with client.sandbox() as box:
        box.run(["true"], check=True)
        yield box


def create_and_run(
    client: Client, profile: str | None = None, image: str | None = None, template: str | None = None
) -> Box:
    """A new sandbox that has answered `true`."""
    box = client.sandboxes.create(profile=profile, image=image, template=template)
    box.run(["true"], timeout_s=60, check=True)
    return box


def delete_all(client: Client) -> None:
    """Remove every sandbox of the key's owner."""
    for box in list(client.sandboxes.list(limit=200)):
        box.delete()


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    """Return as soon as `true` holds, looked at every 10 ms. Raises TimeoutError with `what` in it."""
    deadline = time.monotonic() + timeout_s
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.01)
