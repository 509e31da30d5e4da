"""Fetchers for tests, which share the id ranges of a directory of their own."""

from pathlib import Path
from typing import Any, Protocol

from workers import worker_number

from bay.backoff import Backoff
from bay.drivers.oci.idrange import IdRanges
from bay.images.fetching import Fetcher, FetchLimits
from bay.images.registries import Registries, RegistryAccess
from bay.linux.processes import owned_by

RANGES = 16
# Each file of tests counts the processes with these ids, and two files may run at a time.
FIRST_ID = 1_500_000_000 + worker_number() * RANGES * 65_536


class MakeFetcher(Protocol):
    """Makes a fetcher for the registries that an operator named; without a network, if nothing is said."""

    def __call__(self, *named: RegistryAccess, limits: FetchLimits = ..., **more: Any) -> Fetcher: ...


def ranges_in(directory: Path) -> IdRanges:
    return IdRanges(directory / "ids", FIRST_ID, RANGES)


def fetcher_in(
    directory: Path, *named: RegistryAccess, limits: FetchLimits | None = None, **more: Any
) -> Fetcher:
    """A fetcher whose things on the host are below `directory`, and which tries again at once."""
    options: dict[str, Any] = {"network": None, "online": False, "backoff": Backoff(0.01, 0.02), **more}
    return Fetcher(
        run_dir=directory / "run",
        ids=ranges_in(directory),
        registries=Registries(named),
        limits=limits or FetchLimits(stall_s=20),
        **options,
    )


def processes() -> list[int]:
    """The processes of all fetches of this run of the tests."""
    return owned_by(range(FIRST_ID, FIRST_ID + RANGES * 65_536))


def assert_nothing_left(directory: Path) -> None:
    """No claim, directory or process of a fetch is left."""
    fetches = directory / "run" / "fetches"
    assert ranges_in(directory).holders() == {}, ranges_in(directory).holders()
    assert not fetches.is_dir() or list(fetches.iterdir()) == []
    assert processes() == []
