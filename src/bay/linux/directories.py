"""Directories that may not have been made yet."""

from pathlib import Path


def nearest_directory(path: Path) -> Path:
    """`path`, or the nearest above it that is a directory: what is made at `path` is on its file system."""
    return next(one for one in (path, *path.absolute().parents) if one.is_dir())
