"""Bays and clients in processes of their own, to be killed with -9 at any moment.

A program for `test_exec_lines`, not a test. It has everything imported and forks one process for each order,
so that the next Bay is there in a moment. An order is a line of JSON; the answer is the pid, and for a Bay
its URL.
"""

import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import bay
from bay.backoff import Backoff
from bay.client import _failures
from bay.server import logs, main
from bay.server.settings import Settings

Json = dict[str, Any]
_LONGEST_S = 300
_PAUSES = Backoff(0.01, 0.1)
"""Of a client between its attempts: a tenth of what it is in the field, since it is cut off all the time."""


def serve(order: Json, ready: int) -> None:
    """Be a Bay until killed; its URL goes to `ready`."""
    loaded = Settings.model_validate(order["settings"])
    logs.configure("error", "json")
    main.run(loaded, lambda url, _bay: os.close(ready) if os.write(ready, url.encode()) else None)


def read(order: Json, ready: int) -> None:
    """Be a client that adds the output of an exec to a file until it ends.

    The file's size is the offset to go on from.
    """
    _failures._BACKOFF = _PAUSES
    os.write(ready, b"reading")
    os.close(ready)
    with bay.Client(order["url"], order["key"], retry_s=60) as client, Path(order["file"]).open("ab") as out:
        proc = client.sandboxes.get(order["sandbox"]).execs.get(order["exec"])
        if order["by"] == "output":
            _keep(out.fileno(), proc.output(since=out.tell()))
        else:
            with proc.attach(since=out.tell()) as attachment:
                _keep(out.fileno(), attachment)
    Path(order["file"] + ".ended").touch()


def _keep(file: int, chunks: Any) -> None:
    for chunk in chunks:
        if chunk.offset != os.fstat(file).st_size:
            raise AssertionError(f"expected offset {os.fstat(file).st_size}, got {chunk.offset}")
        os.write(file, chunk.data)  # one call: a kill leaves all of it or nothing


def _child(order: Json, ready: int) -> None:
    """Never returns."""
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for fd, standard in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, standard)
    signal.alarm(_LONGEST_S)
    try:
        {"serve": serve, "read": read}[order["do"]](order, ready)
    except BaseException:  # noqa: BLE001 - a forked process must not return into its parent's code
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _fork(order: Json) -> Json:
    told, ready = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(told)
        _child(order, ready)
    os.close(ready)
    with os.fdopen(told, "rb") as pipe:
        return {"pid": pid, "said": pipe.read().decode()}


def _kill(pid: int) -> Json:
    os.kill(pid, signal.SIGKILL)
    return {"status": os.waitpid(pid, 0)[1]}


def work() -> None:
    """Serve orders until stdin ends; then nothing that was forked is left."""
    assert threading.active_count() == 1, "a fork would lose the other threads"
    for line in sys.stdin:
        order: Json = json.loads(line)
        answer = _kill(order["pid"]) if order["do"] == "kill" else _fork(order)
        print(json.dumps(answer), flush=True)  # noqa: T201


if __name__ == "__main__":
    work()
