"""Checks a frozen root before it becomes a layer.

The driver's overlay writes below `machine/root/upper`. A restore may have brought that from an archive, and
no session may have looked at it since: a link there could lead the adoption to files of this host. Redirects
inside of it are not followed in layers that a stranger made.
"""

import stat
from pathlib import Path

from bay.errors import ImageInvalid

CHANGES = "machine/root/upper"


def has_changes(directory: Path) -> bool:
    """Whether a copy of a sandbox's files has changes to its root. Blocks; raises ImageInvalid for anything
    else than directories on the way to them.
    """
    place = directory
    for name in Path(CHANGES).parts:
        place /= name
        try:
            mode = place.lstat().st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISDIR(mode):
            raise ImageInvalid(
                "the root file system of the sandbox is damaged: a directory of its layer is a link or a file; "
                "restore a checkpoint of it"
            )
    return True
