"""What each program does, by the calls that its client gives: nothing here knows a client.

`acts.mjs` says the same in JavaScript. Asynchronous clients run on a plain loop: `asyncio.Runner` spends
seconds on the representation of what a call gave, when that is 100 MiB.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SIZE = 100 << 20


@dataclass(frozen=True)
class Acts:
    """The calls of one client; `create` gives what the others take."""

    create: Callable[[], Any]
    run: Callable[[Any], object]
    write: Callable[[Any, bytes], object]
    read: Callable[[Any], bytes | bytearray]
    destroy: Callable[[Any], object]


class _Program:
    def __init__(self, acts: Acts) -> None:
        self._acts = acts
        self._data = os.urandom(1 << 20) * (SIZE >> 20)
        self._box: Any = None

    def open(self) -> None:
        self._box = self._acts.create()
        self.exec()

    def life(self) -> None:
        box = self._acts.create()
        try:
            self._acts.run(box)
        finally:
            self._acts.destroy(box)

    def exec(self) -> None:
        self._acts.run(self._box)

    def up(self) -> None:
        self._acts.write(self._box, self._data)

    def down(self) -> bytes | bytearray:
        return self._acts.read(self._box)

    def close(self) -> None:
        self._acts.destroy(self._box)

    def took(self, act: str) -> tuple[float, float]:
        began, own = time.perf_counter(), time.process_time()
        given = getattr(self, act)()
        wall, own = time.perf_counter() - began, time.process_time() - own
        if given is not None and given != self._data:
            raise AssertionError("the file came back changed")
        return wall * 1000, own * 1000


def serve(acts: Acts) -> None:
    """Do the acts that standard input names, until it ends."""
    program = _Program(acts)
    for line in sys.stdin:
        print(json.dumps(program.took(line.strip())), flush=True)
