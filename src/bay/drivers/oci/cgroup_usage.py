"""The usage of a session, from the files of its control groups: version 2, or each hierarchy of version 1."""

import time
from pathlib import Path

from bay.drivers.base import SessionUsage
from bay.drivers.oci import cgroup_limits
from bay.drivers.oci.cgroups import MOUNT, directories
from ship_protocol import usage


def read(cgroup: str, mount: Path = MOUNT) -> SessionUsage | None:
    """The usage of `cgroup`, frozen or not; None without it. A file that is missing is no error. Blocks."""
    if not (groups := directories(cgroup, mount)):
        return None
    taken_s = time.monotonic()
    figures = usage.read(groups)._asdict()
    return SessionUsage(taken_s=taken_s, limits=cgroup_limits.read(cgroup, mount), **figures)
