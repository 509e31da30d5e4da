"""Host id ranges: 65,536 ids for each live session on this host, across all Bays.

Two sessions in one range would share the kernel's per-user accounts (a pipe's buffer shrinks when the other
has many) and could signal one another if a namespace ever leaked. A claim is a file named after the range's
number, holding the path of its directory; it is free without that directory, so no killed Bay leaks one.
"""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bay.drivers.oci.userns import IDS
from bay.errors import DriverUnavailable
from bay.linux.processes import closing_fd

_LONGEST_PATH = 4096


@dataclass(frozen=True, slots=True)
class IdRanges:
    """The claims in `directory`, which all Bays here share. Range n begins at `start + n * 65536`."""

    directory: Path
    start: int
    count: int

    def claim(self, holder: Path) -> int:
        """Claim a range for `holder`, an existing directory, and return its first id; again gives the same.
        Raises DriverUnavailable when all ranges are taken by directories that exist.
        """
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        name = str(holder)
        with self._locked():
            claims = self._claims()
            number = next((n for n, path in claims.items() if path == name), None)
            if number is None:
                number = self._free(claims)
                self._file(number).write_text(name)
        return self.start + number * IDS

    def release(self, holder: Path) -> None:
        """Release the range of `holder`; without one, nothing happens."""
        if not self.directory.is_dir():
            return
        name = str(holder)
        with self._locked():
            for number, path in self._claims().items():
                if path == name:
                    self._file(number).unlink()

    def number_of(self, first: int) -> int:
        """The number of the range that begins there."""
        return (first - self.start) // IDS

    def holders(self) -> dict[int, Path]:
        """The directory that each range that is claimed is for, also those of other Bays."""
        if not self.directory.is_dir():
            return {}
        with self._locked():
            return {number: Path(path) for number, path in self._claims().items()}

    def _free(self, claims: dict[int, str]) -> int:
        free = next((n for n in range(self.count) if n not in claims), None)
        if free is not None:
            return free
        stale = next((n for n, path in claims.items() if not Path(path).exists()), None)
        if stale is None:
            taken = f"all {self.count} id ranges of this host are in use"
            raise DriverUnavailable(f"{taken}; stop some sandboxes")
        return stale

    def _claims(self) -> dict[int, str]:
        names = [name for name in os.listdir(self.directory) if name.isdecimal()]
        # Every start and end reads all of them, so each is read in the fewest calls there are.
        claims = {int(name): _content(f"{self.directory}/{name}") for name in sorted(names, key=int)}
        # An empty file is a claim whose Bay was killed while writing it, before anyone used it.
        return {number: path for number, path in claims.items() if path}

    def _file(self, number: int) -> Path:
        return self.directory / str(number)

    @contextmanager
    def _locked(self) -> Generator[None]:
        # Guards the directory against every other Bay; held for a few file operations only.
        file = self.directory / ".lock"
        with closing_fd(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)) as fd:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield


def _content(file: str) -> str:
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.fsdecode(os.read(fd, _LONGEST_PATH))
    finally:
        os.close(fd)
