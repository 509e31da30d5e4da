"""The check `bay admin cargo check`: whether the storage of the files on this machine is sound."""

from pathlib import Path

from bay.cargo import fsck
from bay.cargo.fsck import Finding
from bay.errors import DriverUnavailable
from bay.server.data_dir import configured


def check(data_dir: Path | None) -> list[Finding]:
    """Look at `data_dir` (None: BAY_DATA_DIR or the default), whether its Bay runs or not. Blocks.
    Raises DriverUnavailable when it is not there or the host refuses.
    """
    there = configured(data_dir)
    if not there.is_dir():
        raise DriverUnavailable(f"there is no data directory {there}; name it with --data-dir")
    try:
        return fsck.check(there)
    except OSError as error:
        raise DriverUnavailable(
            f"cannot read {error.filename or there}: {error.strerror}; run it as root"
        ) from error
