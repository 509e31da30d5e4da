"""Attributes of files that users set: extended attributes of the namespace `user` (xattr(7))."""

import errno
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import cast

from ship.errors import InvalidArgument

_SPACE = "user."
_MAX_COUNT = 64
_MAX_BYTES = 4096
_MAX_NAME = 200


def read_attributes(given: str) -> dict[str, str]:
    """The attributes in a JSON object. Raises InvalidArgument."""
    try:
        found: object = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("attributes must be a JSON object", field="attributes") from error
    if not isinstance(found, dict):
        raise InvalidArgument("attributes must be a JSON object", field="attributes")
    pairs = cast("dict[str, object]", found)
    texts = {name: value for name, value in pairs.items() if isinstance(value, str)}
    try:
        size = sum(len(name.encode()) + len(value.encode()) for name, value in texts.items())
    except UnicodeEncodeError as error:
        raise InvalidArgument("attributes have an unpaired surrogate", field="attributes") from error
    if len(texts) < len(pairs) or len(texts) > _MAX_COUNT or size > _MAX_BYTES:
        problem = f"attributes may be up to {_MAX_COUNT} texts of {_MAX_BYTES} bytes together"
        raise InvalidArgument(problem, field="attributes")
    if any(not name or "\0" in name or len(os.fsencode(name)) > _MAX_NAME for name in texts):
        problem = f"the name of an attribute has 1 to {_MAX_NAME} bytes and no NUL"
        raise InvalidArgument(problem, field="attributes")
    return texts


def set_attribute(descriptor: int, name: str, value: str) -> None:
    """Set one. Raises InvalidArgument where the file system keeps none, or not so many, and OSError."""
    try:
        os.setxattr(descriptor, _SPACE + name, os.fsencode(value))
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.E2BIG, errno.ERANGE):
            problem = f"the file system does not keep these attributes ({error.strerror})"
            raise InvalidArgument(problem, field="attributes") from error
        raise


def attributes_of(descriptor: int) -> Mapping[str, str]:
    """Those of an open file (O_PATH suffices) that the thread's user may read, within the bounds of `set`.
    Bytes that are no UTF-8 are replaced, in names as in values: clients reject JSON that has them.
    """
    path = f"/proc/self/fd/{descriptor}"
    found: dict[str, str] = {}
    room = _MAX_BYTES
    with suppress(OSError):
        for name in os.listxattr(path)[: 4 * _MAX_COUNT]:
            if name.startswith(_SPACE) and len(found) < _MAX_COUNT:
                value = os.getxattr(path, name)
                if (room := room - len(value) - len(name)) < 0:
                    break
                bare = os.fsencode(name.removeprefix(_SPACE))
                found[bare.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
    return found
