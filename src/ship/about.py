"""Ship's report on itself and on the image around it."""

import sys

from ship import __version__
from ship.files.provisions import skill_path
from ship.process.identity import find_shell
from ship.process.table import read_file
from ship.settings import Settings
from ship_protocol import Feature

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
        "features": list(Feature),
        "exec_trees": "whole" if settings.switches else "best_effort",
        "built_in_skills": [
            {
                "name": skill.name,
                "description": skill.description,
                "path": skill_path(settings.workspace, skill),
            }
            for skill in settings.skills
        ],
        "user": settings.user.name,
        "uid": settings.user.uid,
        "workspace": settings.workspace,
        "python": sys.version.split()[0],
        "image": {"os": _pretty_name(), "shell": find_shell()},
    }


def _pretty_name() -> str | None:
    found = next((data for path in _OS_RELEASE if (data := read_file(path, _MAX_BYTES))), b"")
    for line in found.decode("utf-8", "replace").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip("\"'")[:256]
    return None
