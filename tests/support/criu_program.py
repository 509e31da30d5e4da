"""CRIU as docs/memory.md says: the distribution's, with the preload where this kernel is too new for it."""

import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bay.drivers.oci.criu import criu_version

_SOURCE = Path(__file__).parents[2] / "deploy/criu/passcred.c"
_KERNEL, _CRIU = (6, 16), (4, 2)


class CriuMissing(Exception):
    """This host has no CRIU that works on its kernel; the text says which part is missing."""


@pytest.fixture(scope="session")
def criu_program() -> Generator[str]:
    """The path of a CRIU that works on this kernel."""
    with ExitStack() as stack:
        try:
            program = stack.enter_context(working_criu())
        except CriuMissing as error:
            pytest.skip(str(error))
        yield program


@contextmanager
def working_criu() -> Generator[str]:
    """The same where there is no pytest. Raises CriuMissing."""
    version = criu_version("criu")
    if version is None:
        raise CriuMissing("there is no criu: `apt install criu`")
    if _numbers(platform.release()) < _KERNEL or _numbers(version) >= _CRIU:
        yield "criu"
        return
    if shutil.which("gcc") is None:
        raise CriuMissing("CRIU needs its preload on this kernel, and there is no gcc to build it")
    with tempfile.TemporaryDirectory(prefix="bay-criu-") as made:
        library, program = Path(made, "passcred.so"), Path(made, "criu")
        subprocess.run(["gcc", "-shared", "-fPIC", "-Werror", "-o", library, _SOURCE], check=True, timeout=60)
        program.write_text(f'#!/bin/sh\nLD_PRELOAD={library} exec criu "$@"\n')
        program.chmod(0o755)
        yield str(program)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))
