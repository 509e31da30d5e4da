"""The kernels that can be started here: Python, JavaScript where Node is, and the image's Jupyter specs."""

import json
import os
from collections.abc import Iterator
from typing import cast

from ship.kernels.process import JAVASCRIPT, PYTHON, find_node
from ship.process.identity import Identity
from ship.process.table import read_file
from ship.wire import printable

_FOLDERS = ("/usr/share/jupyter/kernels", "/usr/local/share/jupyter/kernels")
_MAX_FOLDERS = 32
_MAX_BYTES = 64 * 1024
_MAX_SPECS = 200

Spec = dict[str, str]


def find(identity: Identity, path: str = "") -> list[Spec]:
    """Name, display name and language of each, ours first. Those beside the programs of `path`, a PATH,
    count too, as Conda has them. Blocks.
    """
    specs: dict[str, Spec] = {PYTHON: _describe(PYTHON, "Python 3", "python")}
    if find_node(identity, path) is not None:
        specs[JAVASCRIPT] = _describe(JAVASCRIPT, "JavaScript (Node)", "javascript")
    with identity.using_files():
        for folder in (f"{identity.home}/.local/share/jupyter/kernels", *_FOLDERS, *_beside(path)):
            for spec in _in_folder(folder):
                specs.setdefault(spec["name"], spec)
    return list(specs.values())[:_MAX_SPECS]


def _beside(path: str) -> list[str]:
    # As `ship_kernel.jupyter` looks for them.
    prefixes = [os.path.dirname(folder) for folder in path.split(":") if folder.endswith("/bin")]
    return [f"{prefix}/share/jupyter/kernels" for prefix in prefixes if prefix.startswith("/")][:_MAX_FOLDERS]


def _in_folder(folder: str) -> Iterator[Spec]:
    try:
        names = sorted(os.listdir(folder))[:_MAX_SPECS]
    except OSError:
        return
    for name in names:
        spec = _read(os.path.join(folder, name, "kernel.json"))
        if spec is not None:
            display_name, language = spec.get("display_name"), spec.get("language")
            # Names are compared without case, as Jupyter does.
            yield _describe(name.lower(), _text(display_name, name), _text(language, name))


def _read(path: str) -> dict[str, object] | None:
    try:
        found = json.loads(read_file(path, _MAX_BYTES))
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, object]", found) if isinstance(found, dict) else None


def _describe(name: str, display_name: str, language: str) -> Spec:
    return {"name": printable(name), "display_name": display_name, "language": language}


def _text(value: object, default: str) -> str:
    return printable(value if isinstance(value, str) else default)[:256]
