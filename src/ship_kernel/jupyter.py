# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (jupyter_client is an extra, and has few types.)
"""The bridge between Ship and a kernel of any language, started by a Jupyter kernel spec of the image.

It runs in Ship's own Python with jupyter_client, speaks protocol 5 over Unix sockets in a folder of its own,
and ends in the same way as the kernel, so that Ship can report how.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

try:
    from jupyter_client.blocking.client import BlockingKernelClient
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    from jupyter_client.manager import KernelManager
    from zmq import RCVHWM
except ImportError:
    # Not left to the next interpreter: there is none, and this text has the way out.
    sys.exit("this Bay has Python kernels only; install it with the extra `jupyter` for others")

from ship_kernel import bundles
from ship_kernel.channel import Channel, take_connection
from ship_kernel.interrupts import Interrupts

_READY_S = 55
_STREAMS = ("stdout", "stderr")

Message = dict[str, Any]


class Running:
    """The cell that runs, with its events so far."""

    def __init__(self, cell: str, message_id: str) -> None:
        self.cell = cell
        self.message_id = message_id
        self.started = False
        self.count: int | None = None


class Bridge:
    def __init__(self, channel: Channel, manager: KernelManager, client: BlockingKernelClient) -> None:
        self._channel = channel
        self._manager = manager
        self._client = client
        self._interrupted = False
        self._readers: dict[str, Callable[[Running, Message], None]] = {
            "execute_input": self._began,
            "stream": self._printed,
            "display_data": self._displayed,
            "update_display_data": self._displayed,
            "execute_result": self._returned,
            "error": self._raised,
            "clear_output": self._cleared,
        }

    def serve(self) -> None:
        """Run cells until Ship sends `exit` or has ended."""
        signal.signal(signal.SIGINT, lambda _number, _frame: self._interrupt())
        self._channel.send({"type": "ready", **_describe(self._client)})
        for message in self._channel.receive():
            if message["type"] == "exit":
                return
            self._run(message["cell"], message["code"])

    def _run(self, cell: str, code: str) -> None:
        self._interrupted = False
        running = Running(cell, self._client.execute(code, allow_stdin=False, stop_on_error=False))
        while True:
            message = self._client.get_iopub_msg(timeout=None)
            if message["parent_header"].get("msg_id") != running.message_id:
                continue  # of a cell before this one, whose threads go on printing
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                break
            if kind in self._readers:
                self._readers[kind](running, content)
        self._end(running, self._reply(running.message_id))

    def _reply(self, message_id: str) -> Message:
        while True:
            message = self._client.get_shell_msg(timeout=None)
            if message["parent_header"].get("msg_id") == message_id:
                return message["content"]

    def _end(self, running: Running, reply: Message) -> None:
        self._start(running)
        status = "ok" if reply.get("status") == "ok" else "error"
        if self._interrupted and status != "ok":
            status = "interrupted"
        count = reply.get("execution_count", running.count)
        self._channel.send({"type": "end", "cell": running.cell, "status": status, "execution_count": count})

    def _interrupt(self) -> None:
        self._interrupted = True
        if _interrupted_by_signal(self._manager):
            os.killpg(_pid(self._manager), signal.SIGINT)
        else:
            session = self._client.session
            session.send(self._client.control_channel.socket, session.msg("interrupt_request", {}))

    # A kernel's messages on a cell

    def _began(self, running: Running, content: Message) -> None:
        running.count = content.get("execution_count")
        self._start(running)

    def _printed(self, running: Running, content: Message) -> None:
        self._start(running)
        stream = content["name"] if content["name"] in _STREAMS else "stdout"
        self._channel.write(stream, running.cell, content["text"])

    def _displayed(self, running: Running, content: Message) -> None:
        fields = _bundle(content)
        display_id = (content.get("transient") or {}).get("display_id")
        if display_id is not None:
            fields["display_id"] = display_id
        self._send(running, "display", fields)

    def _returned(self, running: Running, content: Message) -> None:
        count = content.get("execution_count", running.count)
        self._send(running, "result", {**_bundle(content), "execution_count": count})

    def _raised(self, running: Running, content: Message) -> None:
        fields: Message = {name: content.get(name) or "" for name in ("ename", "evalue")}
        fields["traceback"] = [str(line) for line in content.get("traceback") or []]
        self._send(running, "error", fields)

    def _cleared(self, running: Running, content: Message) -> None:
        self._send(running, "clear", {"wait": bool(content.get("wait"))})

    def _start(self, running: Running) -> None:
        if not running.started:
            running.started = True
            self._channel.send({"type": "start", "cell": running.cell, "execution_count": running.count})

    def _send(self, running: Running, kind: str, fields: Message) -> None:
        self._start(running)
        self._channel.send({"type": kind, "cell": running.cell, **fields})


def main(kind: str) -> None:
    """Serve the kernel spec of `kind`, which is `jupyter:NAME`, until Ship sends `exit` or has ended."""
    connection = take_connection()
    name = kind.partition(":")[2]
    # A spec's plain `python` means the image's, not the one that Ship brought.
    sys.executable = shutil.which("python3") or sys.executable
    # Of this user only: access to the sockets is access to the kernel.
    folder = tempfile.mkdtemp(prefix="kernel-")
    try:
        manager = _manager(name, folder)
        client = _start(manager)
        Bridge(Channel(connection, Interrupts()), manager, client).serve()
        manager.shutdown_kernel(now=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _manager(name: str, folder: str) -> KernelManager:
    specs = KernelSpecManager(ensure_native_kernel=False)
    specs.kernel_dirs = [*specs.kernel_dirs, *_beside(os.environ.get("PATH", ""))]
    manager = KernelManager(kernel_name=name, kernel_spec_manager=specs, transport="ipc")
    manager.connection_file = str(Path(folder, "kernel.json"))
    manager.ip = str(Path(folder, "socket"))
    try:
        assert manager.kernel_spec is not None  # noqa: S101 - it is looked up here
    except NoSuchKernel:
        sys.exit(f"there is no kernel spec {name} in this image")
    return manager


def _beside(path: str) -> list[str]:
    """The kernel specs beside the programs of a PATH, as Conda has them."""
    prefixes = [os.path.dirname(folder) for folder in path.split(":") if folder.endswith("/bin")]
    return [f"{prefix}/share/jupyter/kernels" for prefix in prefixes if prefix.startswith("/")]


def _start(manager: KernelManager) -> BlockingKernelClient:
    try:
        manager.start_kernel()
    except OSError as error:
        sys.exit(f"the kernel spec {manager.kernel_name} cannot be started: {error}")
    threading.Thread(target=_die_with, args=(manager, _pid(manager)), daemon=True).start()
    client = manager.blocking_client()
    # ZeroMQ drops messages to a slow reader, from 1,000 unread ones on. Ship has bounds of its own.
    client.context.setsockopt(RCVHWM, 0)
    client.start_channels(hb=False)
    client.wait_for_ready(timeout=_READY_S)
    if _interrupted_by_signal(manager):  # else a socket may be needed that is not connected yet
        _remove_sockets(manager)
    return client


def _interrupted_by_signal(manager: KernelManager) -> bool:
    return manager.kernel_spec is None or manager.kernel_spec.interrupt_mode != "message"


def _remove_sockets(manager: KernelManager) -> None:
    shutil.rmtree(Path(manager.connection_file).parent, ignore_errors=True)


def _pid(manager: KernelManager) -> int:
    return manager.provisioner.pid  # type: ignore[union-attr]


def _die_with(manager: KernelManager, pid: int) -> None:
    """Wait for the end of the kernel, and end in the same way."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:  # the main thread was waiting for its start, and reports it
        return
    _remove_sockets(manager)
    if ended is None or ended.si_code == os.CLD_EXITED:
        os._exit(ended.si_status if ended else 1)
    if ended.si_status != signal.SIGINT:  # for which we have a handler
        os.kill(os.getpid(), ended.si_status)
    os._exit(128 + ended.si_status)


def _describe(client: BlockingKernelClient) -> Message:
    asked: Any = client.kernel_info  # made by a wrapper that adds these parameters
    content = asked(reply=True, timeout=_READY_S)["content"]
    language = content.get("language_info") or {}
    described = {"language": language.get("name"), "version": language.get("version")}
    return {name: str(value) for name, value in described.items() if value}


def _bundle(content: Message) -> Message:
    return {name: bundles.clean(content.get(name) or {}) for name in ("data", "metadata")}
