"""The SDK: `Client` for threads and `AsyncClient` for event loops have the same methods.

Each of the two is loaded when one of its names is asked for: few programs need both.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bay.client._async.exports import *
    from bay.client._sync.exports import *

    __all__: list[str]

_HOMES = ("bay.client._async.exports", "bay.client._sync.exports")


def __getattr__(name: str) -> object:
    """The export `name`, from the client that has it; `__all__` loads both."""
    importlib.import_module("bay.client._lean")
    if name == "__all__":
        value: object = _all()
    elif name[0].isupper() or name == "verify_webhook":
        home = importlib.import_module(_HOMES[not name.startswith("Async")])
        if name not in vars(home):
            raise AttributeError(f"module 'bay' has no attribute {name!r}")
        value = getattr(home, name)
    else:  # a submodule, which the import system looks for here first
        raise AttributeError(f"module 'bay.client' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_all()})


def _all() -> list[str]:
    names = {name for home in _HOMES for name in vars(importlib.import_module(home))}
    return sorted(name for name in names if not name.startswith("_"))
