"""How errors about files look to clients of Sprites: `{error, code, path}`, with the code of an errno."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from bay.errors import BayError, Conflict, FileMissing, Forbidden, InvalidArgument

_ABOUT = "about_file"
"""The detail that has the path which the caller named."""

_BY_REASON = {
    "exists": "EEXIST",
    "is_directory": "EISDIR",
    "not_directory": "ENOTDIR",
    "not_empty": "ENOTEMPTY",
}
_BY_CLASS: tuple[tuple[type[BayError], str], ...] = (
    (FileMissing, "ENOENT"),
    (Forbidden, "EACCES"),
    (Conflict, "EEXIST"),
    (InvalidArgument, "EINVAL"),
)


@contextmanager
def about(path: str) -> Generator[None]:
    """Errors in the block are about that path of the caller's."""
    try:
        yield
    except BayError as error:
        error.details.setdefault(_ABOUT, path)
        raise


def file_error(error: BayError) -> dict[str, Any] | None:
    """The fields of an error about a file; None for any other."""
    path = error.details.get(_ABOUT)
    if path is None or not isinstance(error, (FileMissing, *(cls for cls, _ in _BY_CLASS[1:]))):
        return None
    return {"code": code_of(error), "path": str(path).encode("utf-8", "replace").decode()}


def code_of(error: BayError) -> str:
    """The name of the errno that the error stands for."""
    if isinstance(error, Forbidden) and error.details.get("field") == "user":
        return "EPERM"  # it needs root; what the sandbox's user or root may not open is EACCES
    reason = error.details.get("reason")
    # A path through a file is missing (ENOENT) to those who only compare the status.
    if isinstance(reason, str) and reason in _BY_REASON:
        return _BY_REASON[reason]
    return next((code for cls, code in _BY_CLASS if isinstance(error, cls)), "EIO")
