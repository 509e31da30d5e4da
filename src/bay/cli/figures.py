"""Saves figures that code showed as files of this machine."""

import binascii
import itertools
from base64 import b64decode
from pathlib import Path
from typing import Any

from bay.cli.output import note

_ENDINGS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/svg+xml": "svg",
}
"""In the order in which one is taken where there are several of one figure."""


def is_figure(bundle: dict[str, Any]) -> bool:
    """Whether a MIME bundle has an image that can be saved."""
    return any(kind in bundle for kind in _ENDINGS)


def save_figure(bundle: dict[str, Any], directory: Path) -> Path | None:
    """Write the image of a MIME bundle to the next free `figure-N` in `directory`, which is made.
    None, with a note, when its bytes are not of its type.
    """
    kind = next(kind for kind in _ENDINGS if kind in bundle)
    data = _bytes(kind, bundle[kind])
    if data is None:
        note(f"a figure was not saved: it says that it is {kind}, and is not")
        return None
    directory.mkdir(parents=True, exist_ok=True)
    taken = {path.stem for path in directory.iterdir()}
    stem = next(name for name in (f"figure-{number}" for number in itertools.count(1)) if name not in taken)
    path = directory / f"{stem}.{_ENDINGS[kind]}"
    with open(path, "xb") as file:
        file.write(data)
    return path


def _bytes(kind: str, value: Any) -> bytes | None:
    text = str(value)
    if kind == "image/svg+xml":
        return text.encode("utf-8", "replace")
    try:
        return b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
