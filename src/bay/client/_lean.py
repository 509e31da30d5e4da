"""Loads httpx without its command line, whose rich and pygments take longer than all the rest."""

import sys
from types import ModuleType
from typing import cast

if "httpx" not in sys.modules:
    _modules = cast("dict[str, ModuleType | None]", sys.modules)
    _modules["httpx._main"] = None
    import httpx

    del httpx, _modules["httpx._main"]
