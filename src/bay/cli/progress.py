"""A progress bar of a transfer on stderr, on a terminal and after the first second."""

import importlib
import sys
import time
from typing import Any, Self, TextIO

AFTER_S = 1.0
"""How long a transfer takes before it is worth a bar; rich, which draws it, is not loaded before."""


class Bar:
    """A `progress` callback for transfers, in a `with` block. Silent where stderr is no terminal."""

    def __init__(self, label: str, after_s: float = AFTER_S, stream: TextIO | None = None) -> None:
        self._label = label
        self._stream = sys.stderr if stream is None else stream
        self._wanted = self._stream.isatty()
        self._from = time.monotonic() + after_s
        self._drawing: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawing is not None:
            self._drawing.stop()

    def __call__(self, done: int, total: int | None) -> None:
        if self._drawing is None and self._wanted and time.monotonic() >= self._from:
            self._begin()
        if self._drawing is not None:
            self._drawing.update(self._task, completed=done, total=total)

    def _begin(self) -> None:
        progress = importlib.import_module("rich.progress")
        console = importlib.import_module("rich.console").Console(file=self._stream, markup=False)
        columns = (
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(binary_units=True),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        self._drawing = progress.Progress(*columns, console=console, transient=True)
        self._task = self._drawing.add_task(self._label, total=None)
        self._drawing.start()
