"""A backend without any optional protocol passes the suite of the contract."""

import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
from bare_cargos import BareCargos

from bay.cargo.base import CargoBackend
from bay.testing.cargo import *  # noqa: F403 - the suite is the module's functions

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(os.geteuid() != 0, reason="the suite needs root")]


@pytest.fixture
async def cargo(tmp_path: Path) -> AsyncGenerator[CargoBackend]:
    backend = BareCargos(tmp_path / "cargo")
    await backend.open()
    yield backend
    await backend.aclose()


@pytest.fixture
def reopen(tmp_path: Path) -> Callable[[], CargoBackend]:
    return lambda: BareCargos(tmp_path / "cargo")
