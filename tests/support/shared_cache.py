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
    made = Path(tempfile.mkdtemp(prefix="bay-cc-", dir="/tmp"))
    made.chmod(0o711)  # the sandboxes' own users pass through
    os.environ[_NAME] = str(made)


def remove() -> None:
    """Remove it. Nothing that a test mounted there may be left."""
    shutil.rmtree(os.environ.pop(_NAME))


def path() -> Path:
    """The directory, of which all workers know."""
    return Path(os.environ[_NAME])


def filled() -> Path:
    """The directory with what every sandbox needs in it, which the first who asks makes."""
    found = path()
    with (found / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        closure.build(found / "closures")
        host_image.build(found / "images")
    return found
