"""What each program does, by the calls that its client gives: nothing here knows a client."""

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
    read: Callable[[Any], bytes]
    destroy: Callable[[Any], object]


def measure(acts: Acts) -> None:
    """Print the samples of the acts, as often as BENCH_LIVES and BENCH_EXECS say."""
    lives = [_ms(lambda: _life(acts)) for _ in range(int(os.environ["BENCH_LIVES"]))]
    box = acts.create()
    try:
        acts.run(box)
        execs = [_ms(lambda: acts.run(box)) for _ in range(int(os.environ["BENCH_EXECS"]))]
        data = os.urandom(1 << 20) * (SIZE >> 20)
        up = _ms(lambda: acts.write(box, data))
        began = time.perf_counter()
        if acts.read(box) != data:
            raise AssertionError("the file came back changed")
        down = (time.perf_counter() - began) * 1000
    finally:
        acts.destroy(box)
    json.dump({"life": lives, "exec": execs, "up": [up], "down": [down]}, sys.stdout)


def _life(acts: Acts) -> None:
    box = acts.create()
    try:
        acts.run(box)
    finally:
        acts.destroy(box)


def _ms(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000
