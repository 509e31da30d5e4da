"""Ship's own interpreter, as a command line."""

import os
import sys

CLOSURE = sys.prefix
_LOADERS = ("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1")
SOURCES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def own_interpreter(local: bool) -> list[str]:
    """How Ship's own interpreter is started: by its own loader where it has one, since the image need not."""
    lib = os.path.join(CLOSURE, "lib")
    loaders = (os.path.join(lib, name) for name in _LOADERS)
    loader = next((found for found in loaders if os.path.isfile(found)), None)
    if local or loader is None:
        return [sys.executable]
    return [loader, "--library-path", lib, os.path.join(CLOSURE, "bin/python3"), "-I", "-S", "-B"]


def tool_command(tool: str, local: bool) -> list[str]:
    """How a module of `ship.tools` is run, its argument behind. It imports nothing of its directory."""
    # Not `-m`, which loads as much again as a tool needs.
    code = f"import sys; sys.path.insert(0, {SOURCES!r}); from ship.tools.{tool} import main; main()"
    return [*own_interpreter(local), "-I", "-S", "-B", "-X", "utf8", "-c", code]
