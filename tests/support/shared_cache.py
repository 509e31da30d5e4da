"""Ship's closure and the image, made once for all workers of a run of the tests."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

from bay.drivers.oci import closure, host_image

_NAME = "TESTS_CACHE"


def make() -> None:
    """Make the directory, empty, and tell the processes that this one starts where it is."""
    path = Path(tempfile.mkdtemp(prefix="bay-cc-", dir="/tmp"))
    path.chmod(0o711)  # the sandboxes' own users pass through
    os.environ[_NAME] = str(path)


def remove() -> None:
    """Remove it. Nothing that a test mounted there may be left."""
    shutil.rmtree(os.environ.pop(_NAME))


def filled() -> Path:
    """The directory with what every sandbox needs in it, which the first who asks makes."""
    path = Path(os.environ[_NAME])
    with (path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        closure.build(path / "closures")
        host_image.build(path / "images")
    return path
