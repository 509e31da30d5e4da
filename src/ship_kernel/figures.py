"""Shows matplotlib's figures inline; not by MPLBACKEND, which a cell's scripts would inherit, and fail."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType

BACKEND = "module://matplotlib_inline.backend_inline"


class InlineFigures(importlib.abc.MetaPathFinder):
    """Waits for the first `import matplotlib`."""

    def install(self) -> None:
        if importlib.util.find_spec("matplotlib_inline") is not None:
            sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "matplotlib":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("matplotlib")
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenInline(spec.loader)
        return spec


class _ThenInline(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        spec = module.__spec__
        if spec is not None:
            spec.loader = self._loader  # later requests for the module's files go to its own loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        if not os.environ.get("MPLBACKEND"):
            module.use(BACKEND)
