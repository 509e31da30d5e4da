"""Finds packages that are installed while the kernel runs, without a restart."""

from __future__ import annotations

import site
import sys


def take_up_users() -> None:
    """Add the user's package folder to the path, which `site` leaves out while it does not exist."""
    if not site.ENABLE_USER_SITE:
        return
    folder = site.getusersitepackages()
    if folder not in sys.path:
        others = (at for at, path in enumerate(sys.path) if path.endswith(("site-packages", "dist-packages")))
        sys.path.insert(next(others, len(sys.path)), folder)


def look_again() -> None:
    """Forget which folders were not there."""
    for path, finder in list(sys.path_importer_cache.items()):
        if finder is None:
            sys.path_importer_cache.pop(path, None)
