"""Extended attributes of a sandbox's files are read and restored.

Those are kept that a sandbox can set itself. Capabilities of files are void inside, and `trusted` is not a
sandbox's to set, but for overlayfs's mark that hides the directory below: a redirect could lead anywhere.
"""

import errno
import os
from collections.abc import Iterator

from tree_tar.reader import Records
from tree_tar.xattr_records import of_records

MAX_BYTES = 1 << 20
_KEPT = ("user.", "system.posix_acl_access", "system.posix_acl_default")
_OPAQUE = "trusted.overlay.opaque"
_OPAQUE_VALUES = (b"y", b"x")


def read(file: int | str, *, system: bool) -> Iterator[tuple[str, bytes]]:
    """The kept attributes of an open file, or of a path itself; `system`: overlayfs's mark as well."""
    by_name = {"follow_symlinks": False} if isinstance(file, str) else {}
    try:
        for name in os.listxattr(file, **by_name):
            value = os.getxattr(file, name, **by_name)
            if _is_kept(name, value, system=system):
                yield name, value
    except OSError:
        return  # a file system without them


def restore(file: int | str, records: Records, *, system: bool) -> None:
    """Set the attributes that the pax records of a member have, as far as they are kept."""
    for name, value in of_records(records):
        if _is_kept(name, value, system=system):
            try:
                os.setxattr(file, name, value, follow_symlinks=isinstance(file, int))
            except OSError as error:
                if error.errno != errno.ENOTSUP:  # a file system without them
                    raise


def _is_kept(name: str, value: bytes, *, system: bool) -> bool:
    return name.startswith(_KEPT) or (system and name == _OPAQUE and value in _OPAQUE_VALUES)
