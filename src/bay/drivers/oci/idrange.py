"""Host id ranges: 65,536 ids for each live session on this host, across all Bays.

Two sessions in one range would share the kernel's per-user accounts (a pipe's buffer shrinks when the other
has many) and could signal one another if a namespace ever leaked. A claim is a file named after the range's
number, holding the path of its directory; it is free without that directory, so no killed Bay leaks one.
Who knows the number reads that one file; to read all of them takes 7 ms where a thousand sandboxes run.
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

IDS_DIR = Path("/run/bay/ids")
"""Where the claims of all Bays on this host are."""
ID_RANGES = 4094
"""How many ranges there are: as many as sandboxes that can have a network."""

_LONGEST_PATH = 4096


@dataclass(frozen=True, slots=True)
class IdRanges:
    """The claims in `directory`, which all Bays here share. Range n begins at `start + n * 65536`."""

    directory: Path
    start: int
    count: int

    def claim(self, holder: Path) -> int:
        """Claim a range for `holder`, an existing directory without one, and return its first id.
        Raises DriverUnavailable when all ranges are taken by directories that exist.

        No claim is read, unless ranges are short. One that a killed Bay left for a directory of the same path
        stays beside the new one, until `release`.
        """
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        with self._locked():
            number = self._free()
            self._file(number).write_text(str(holder))
        return self.first_of(number)

    def release(self, holder: Path) -> None:
        """Release all ranges of `holder`; without one, nothing happens. All claims are read: one that a
        killed Bay left for the same path goes with it.
        """
        if not self.directory.is_dir():
            return
        with self._locked():
            for one in self._numbers(holder, None):
                self._file(one).unlink()

    def number_of(self, first: int) -> int:
        """The number of the range that begins there."""
        return (first - self.start) // IDS

    def first_of(self, number: int) -> int:
        """The first id of the range of that number."""
        return self.start + number * IDS

    def numbers(self, holder: Path, number: int | None = None) -> list[int]:
        """The numbers of the ranges of `holder`: none, one, or more where a Bay was killed.
        Where `number` is one of them, no other claim is read, and it is the answer.
        """
        if not self.directory.is_dir():
            return []
        with self._locked():
            return self._numbers(holder, number)

    def holders(self) -> dict[int, Path]:
        """The directory that each range that is claimed is for, also those of other Bays."""
        if not self.directory.is_dir():
            return {}
        with self._locked():
            return {number: Path(path) for number, path in self._claims().items()}

    def _numbers(self, holder: Path, number: int | None) -> list[int]:
        if number is not None and _content(f"{self.directory}/{number}") == str(holder):
            return [number]
        return [one for one, path in self._claims().items() if path == str(holder)]

    def _free(self) -> int:
        taken = self._taken()
        free = next((n for n in range(self.count) if n not in taken), None)
        if free is not None:
            return free
        claims = self._claims()
        stale = next((n for n in range(self.count) if n not in claims or not Path(claims[n]).exists()), None)
        if stale is None:
            message = f"all {self.count} id ranges of this host are in use"
            raise DriverUnavailable(f"{message}; stop some sandboxes")
        return stale

    def _taken(self) -> set[int]:
        return {int(name) for name in os.listdir(self.directory) if name.isdecimal()}

    def _claims(self) -> dict[int, str]:
        claims = {number: _content(f"{self.directory}/{number}") for number in sorted(self._taken())}
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
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        return os.fsdecode(os.read(fd, _LONGEST_PATH))
    finally:
        os.close(fd)
