"""Work that is killed with SIGKILL at a chosen line of Bay's, in a child that shares nothing but the disk."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Any

Line = tuple[str, int]
"""The name of a file and a number in it."""


def lines_of(file: str, work: Callable[[], object], functions: Collection[str] = ()) -> list[Line]:
    """Every line of those functions of the file, or of all, that `work` comes by, in order, once each.

    Runs it, to the end.
    """
    seen: dict[Line, None] = {}

    def note(line: Line, function: str) -> None:
        if not functions or function in functions:
            seen.setdefault(line)

    _traced(file, note, work)
    return list(seen)


def run_and_die(line: Line, work: Callable[[], object]) -> None:
    """Run `work` in a child that is killed when it comes to `line`, before that does anything."""

    def die(here: Line, _function: str) -> None:
        if here == line:
            os.kill(os.getpid(), signal.SIGKILL)

    if (child := os.fork()) == 0:
        try:
            _traced(line[0], die, work)
        finally:
            os._exit(0)  # never back into the tests
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"{line} was not reached"


def _traced(file: str, on_line: Callable[[Line, str], object], work: Callable[[], object]) -> None:
    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        path = Path(frame.f_code.co_filename)
        if path.name != file or path.parent.name not in ("cargo", "images", "linux"):
            return None
        if event == "line":
            on_line((file, frame.f_lineno), frame.f_code.co_name)
        return trace

    threading.settrace(trace)
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
