"""Ships of the fake driver without their start, forked from a process that has Ship loaded (`ship_forker`).

A Python that imports Ship takes some sixty milliseconds of processor time, and the tests start thousands.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import forked

from bay.drivers import fake

as_bay_does = fake.start_ship
"""The function that `start` stands in for in all tests but those of the driver itself."""


def start(environment: Mapping[str, str], directory: Path, output: int) -> forked.Forked:
    """As `bay.drivers.fake.start_ship`."""
    order = {"environment": dict(environment), "folder": str(directory)}
    with open(os.devnull, "rb") as null:
        return forked.fork("ship_forker.py", order, [null.fileno(), output, output])
