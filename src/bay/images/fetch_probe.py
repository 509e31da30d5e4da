"""The trial of a fetch, for `bay doctor`: skopeo says its version in a cage as a pull makes it."""

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from bay.drivers.oci.idrange import ID_RANGES
from bay.drivers.oci.userns import IDS
from bay.errors import DriverUnavailable
from bay.images import fetch_cage
from bay.images.fetch_cage import FetchCagePlan
from bay.images.skopeo import SkopeoRun
from bay.images.spool_watch import SpoolLimits, SpoolUse
from bay.units import MIB

T = TypeVar("T")

_LONGEST_S = 20.0
_MOST_SAID = 200


def caged_version(scratch: Path, id_base: int) -> str:
    """The version of skopeo, as it says from a cage without a network; `scratch` holds its spool meanwhile.
    Blocks. Raises OSError, TimeoutError or DriverUnavailable.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".bay-fetch-") as directory:
        stage, spool = Path(directory, "stage"), Path(directory, "spool")
        for made in (stage, spool):
            made.mkdir()
        user = id_base + ID_RANGES * IDS  # above all ranges: no claim is needed, which a kill would leave
        plan = FetchCagePlan(stage=stage, user=user, spool=spool, source=None, files={}, private={})
        cage = _in_thread(lambda: fetch_cage.make(plan))
        try:
            return _version(SkopeoRun(cage, ("--version",), None, _limits(), _unseen))
        finally:
            cage.close()


def _version(run: SkopeoRun) -> str:
    end = _in_thread(run.run)
    if end.code or end.passed:
        why = end.passed or end.said.decode(errors="replace")[:_MOST_SAID].strip()
        raise DriverUnavailable(f"skopeo ended with code {end.code}: {why}")
    return end.out.decode(errors="replace").strip().removeprefix("skopeo version ")


def _limits() -> SpoolLimits:
    return SpoolLimits(stall_s=_LONGEST_S, deadline=time.monotonic() + _LONGEST_S, max_bytes=MIB)


def _unseen(_use: SpoolUse) -> None:
    pass


def _in_thread(act: Callable[[], T]) -> T:
    """The result of `act`, in a thread that may go into other namespaces, and ends."""
    with ThreadPoolExecutor(1, "bay-probe-fetch") as thread:
        return thread.submit(act).result()
