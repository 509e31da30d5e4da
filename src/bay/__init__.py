"""Bay runs sandboxes for programs: lasting names and files, and compute that comes and goes.

    import bay

    with bay.Client() as client, client.sandbox() as box:
        print(box.run("echo hello").stdout)

`import bay` loads none of its exports: each name is fetched from its module at first use (PEP 562), so a
program that only wants `bay.__version__` does not pay for an HTTP client. `__all__` of `bay.errors`,
`bay.models` and the two clients say which names there are.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bay.client import *
    from bay.errors import *
    from bay.models import *

    __all__: list[str]

__version__ = "0.1.0"

_HOMES = ("bay.errors", "bay.models", "bay.client")  # the quickest to load first


def __getattr__(name: str) -> object:
    """The export `name`, from the first module that has it; `__all__` loads all of them."""
    if name == "__all__":
        value: object = _all()
    elif name[:1].isupper() or name == "verify_webhook":
        *others, client = _HOMES
        home = next((one for one in others if name in importlib.import_module(one).__all__), client)
        value = getattr(importlib.import_module(home), name)
    else:  # a submodule, which the import system looks for here first
        raise AttributeError(f"module 'bay' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_all()})


def _all() -> list[str]:
    return sorted({"__version__", *(one for home in _HOMES for one in importlib.import_module(home).__all__)})
