# pyright: reportUnknownMemberType=false
# (IPython has hardly any types.)
"""The Python kernel runs the cells that Ship sends, one after another."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import sys
from collections.abc import Generator, Mapping
from typing import Any

import IPython

from ship_kernel import packages, streams
from ship_kernel import shell as shells
from ship_kernel.channel import Channel, take_connection
from ship_kernel.figures import InlineFigures
from ship_kernel.interrupts import Interrupts
from ship_kernel.shell import Shell


class Kernel:
    def __init__(self, channel: Channel, interrupts: Interrupts) -> None:
        self._channel = channel
        self._interrupts = interrupts
        self._attribution = streams.Attribution()
        self._pid = os.getpid()
        self._shell: Shell = shells.make(self._publish, channel.settle)
        streams.install(channel, self._attribution)

    def run(self, cell: str, code: str, environment: Mapping[str, str], *, describe: bool) -> None:
        packages.look_again()
        self._shell.descriptions.enable(describe)
        self._attribution.enter(cell)
        count = self._shell.cell_count = self._shell.execution_count
        status = "interrupted"
        with _variables(environment):
            with contextlib.suppress(KeyboardInterrupt):
                # Armed before the message that the cell has begun: its reader may interrupt at once.
                self._interrupts.armed = True
                self._channel.send({"type": "start", "cell": cell, "execution_count": count})
                status = self._run_code(code)
            self._interrupts.armed = False  # no interrupt keeps the variables from being put back
        self._leave_if_child(1)
        self._interrupts.listen()
        self._channel.send({"type": "end", "cell": cell, "status": status, "execution_count": count})

    def _run_code(self, code: str) -> str:
        done = self._shell.run_cell(code, store_history=True)
        error: BaseException | None = done.error_before_exec or done.error_in_exec
        self._leave_if_child(_exit_code(error))
        if isinstance(error, KeyboardInterrupt):
            return "interrupted"
        if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
            return "ok"
        return "error"

    def _leave_if_child(self, code: int) -> None:
        """A child that the cell forked is done when it comes to the cell's end."""
        if os.getpid() != self._pid:
            os._exit(code)

    def _publish(self, kind: str, fields: dict[str, Any]) -> None:
        if os.getpid() != self._pid:
            if kind == "error":
                sys.stderr.write("\n".join([*fields["traceback"], ""]))
            return
        self._channel.send({"type": kind, "cell": self._attribution.current(), **fields})


def main(_kind: str) -> None:
    """Serve until Ship sends `exit` or has ended."""
    connection = take_connection()
    faulthandler.enable(2)  # the last words of a crash in C, on the pipe
    interrupts = Interrupts()
    interrupts.listen()
    channel = Channel(connection, interrupts)
    kernel = Kernel(channel, interrupts)
    InlineFigures().install()
    streams.settle_before_programs(channel)
    sys.argv = [""]
    packages.take_up_users()
    sys.path.insert(0, "")
    gc.freeze()
    gc.enable()
    python = ".".join(str(part) for part in sys.version_info[:3])
    channel.send({"type": "ready", "language": "python", "python": python, "ipython": IPython.__version__})
    for message in channel.receive():
        if message["type"] == "exit":
            return
        described = bool(message.get("describe"))
        kernel.run(message["cell"], message["code"], message.get("env") or {}, describe=described)


def _exit_code(error: BaseException | None) -> int:
    """Of a program that ends with `error`."""
    if error is None or (isinstance(error, SystemExit) and error.code is None):
        return 0
    return error.code & 0xFF if isinstance(error, SystemExit) and isinstance(error.code, int) else 1


@contextlib.contextmanager
def _variables(wanted: Mapping[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
