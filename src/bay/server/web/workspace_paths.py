"""Parses workspace paths as the API takes them: relative, resolved lexically, never escaping.

The first of two checks, with the better message; Ship's open with RESOLVE_BENEATH is the second.
"""

import os
import posixpath

from bay.errors import InvalidPath

MAX_PATH = 4096


def workspace_path(text: str, field: str = "path") -> str:
    """`text`, normalized. Raises InvalidPath with `details {field, reason}`."""
    if not text.strip():
        raise _invalid(field, "empty_path", "is empty")
    if "\0" in text:
        raise _invalid(field, "null_byte", "has a NUL in it")
    if text.startswith("/"):
        raise _invalid(field, "absolute_path", "is absolute; give a path relative to /workspace")
    normal = posixpath.normpath(text)
    if normal == ".." or normal.startswith("../") or len(normal.encode("utf-8", "replace")) >= MAX_PATH:
        raise _invalid(field, "path_traversal", "leaves the workspace")
    return normal


def sandbox_path(text: str, field: str = "path") -> str:
    """`text`, if any path of a sandbox can look so: the kernel says where it leads. Raises InvalidPath."""
    if not text:
        raise _invalid(field, "empty_path", "is empty")
    if "\0" in text:
        raise _invalid(field, "null_byte", "has a NUL in it")
    if len(os.fsencode(text)) >= MAX_PATH:
        raise _invalid(field, "path_too_long", f"has more than {MAX_PATH - 1} bytes")
    return text


def working_directory(text: str, field: str = "cwd") -> str:
    """Where a program begins: any directory of the sandbox, one of the workspace, or with a first part `~`
    one below the home of the program's user. Raises InvalidPath.
    """
    is_anywhere = text.startswith("/") or text.partition("/")[0] == "~"
    return sandbox_path(text, field) if is_anywhere else workspace_path(text, field)


def _invalid(field: str, reason: str, fact: str) -> InvalidPath:
    return InvalidPath(f"{field} {fact}", details={"field": field, "reason": reason})
