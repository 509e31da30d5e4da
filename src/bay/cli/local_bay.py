"""Discovers the Bay that runs on this machine, and its first key, if its data directory is readable.

The key is never sent anywhere else. The server writes its address into the lock that it holds, and the
address is believed only while it holds it: the port of a server that has ended may be another program's.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DATA_DIR = "/var/lib/bay"
LOCK_FILE = "bay.lock"
KEY_FILE = "admin.key"
_LONGEST = 256


@dataclass(frozen=True, slots=True)
class Here:
    """`key` is None when this user may not read it, and when there is no file because it was chosen."""

    url: str
    key: str | None


def bay_here() -> Here | None:
    """The Bay that runs on `BAY_DATA_DIR`, else on `/var/lib/bay`; None when none is known to run."""
    data_dir = Path(os.environ.get("BAY_DATA_DIR") or DATA_DIR)
    with suppress(OSError, UnicodeDecodeError):
        url, inode = _own_file(data_dir / LOCK_FILE)
        if url and _is_locked(inode):
            return Here(url, _key(data_dir / KEY_FILE))
    return None


def _key(path: Path) -> str | None:
    try:
        return _own_file(path)[0] or None
    except (OSError, UnicodeDecodeError):
        return None


def _own_file(path: Path) -> tuple[str, int]:
    """The text and the inode number of a file of this user's that no other user can write. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise PermissionError(f"{path} belongs to another user, or others may write to it")
        return os.read(descriptor, _LONGEST).decode().strip(), found.st_ino
    finally:
        os.close(descriptor)


def _is_locked(inode: int) -> bool:
    """Whether a process holds the file. Taking the lock to see would keep a Bay from starting."""
    locks = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any(
        words[1] == "FLOCK" and words[3] == "WRITE" and words[5].endswith(f":{inode}")
        for words in locks
        if len(words) > 5
    )
