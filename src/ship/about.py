"""Ship's report on itself and on the image around it."""

import os
import sys

from ship import __version__
from ship.process.identity import find_shell
from ship.settings import Settings

_OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
_MAX_BYTES = 64 * 1024


def describe(settings: Settings) -> dict[str, object]:
    """The answer of `GET /meta`."""
    return {
        "name": "ship",
        "version": __version__,
        "runtime": {"name": "ship", "version": __version__},
        "protocol": 1,
        "capabilities": ["shell", "filesystem", "exec", "python"],
        "user": settings.user.name,
        "uid": settings.user.uid,
        "workspace": settings.workspace,
        "python": sys.version.split()[0],
        "image": {"os": _pretty_name(), "shell": find_shell()},
    }


def _pretty_name() -> str | None:
    for line in next((text for path in _OS_RELEASE if (text := _read(path))), "").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip("\"'")[:256]
    return None


def _read(path: str) -> str:
    # The sandbox's root may have put anything there: a fifo must not make us wait.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(descriptor, _MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)
