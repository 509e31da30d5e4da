"""The line to Ship: one JSON object a line, both ways, over a socket.

What is printed is gathered for a few milliseconds, so that a loop of prints is no loop of system calls. The first line after
a pause goes at once.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from ship_kernel.interrupts import Interrupts

_GATHER_S = 0.01
_GATHER_CHARS = 16 * 1024
_READ_BYTES = 64 * 1024
_STREAMS = {"stdout": 1, "stderr": 2}


class Channel:
    """Safe in threads. In a forked child it is cut: what the child prints goes to the pipes, the rest nowhere."""

    def __init__(self, connection: socket.socket, interrupts: Interrupts) -> None:
        self._socket = connection
        self._interrupts = interrupts
        self._lock = threading.Lock()
        self._printed: list[
            tuple[str, str, str]
        ] = []  # stream, cell, text; guarded by _lock, as is what follows
        self._chars = 0
        self._sent_at = 0.0
        self._work = threading.Event()
        self._flusher: threading.Thread | None = None
        self._cut = False
        self._incoming = self._receive()
        os.register_at_fork(before=self.flush, after_in_child=self._cut_in_child)

    def receive(self) -> Iterator[dict[str, Any]]:
        """The messages of Ship, until it closes."""
        return self._incoming

    def settle(self) -> None:
        """Return when Ship has taken what was sent. What goes through the pipes after that comes after it."""
        if self._cut or threading.current_thread() is not threading.main_thread():
            return
        self.send({"type": "sync"})
        with self._interrupts:
            next(self._incoming, None)

    def _receive(self) -> Iterator[dict[str, Any]]:
        waiting = b""
        while data := self._socket.recv(_READ_BYTES):
            *lines, waiting = (waiting + data).split(b"\n") if b"\n" in data else [waiting + data]
            for line in lines:
                yield json.loads(line)

    def send(self, message: dict[str, Any]) -> None:
        """Send one message, after what was printed before it."""
        line = json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with self._interrupts, self._lock:
            self._send_now(self._take_printed() + line)

    def write(self, stream: str, cell: str, text: str) -> None:
        """Send what was printed on a stream, now or very soon."""
        if self._cut:
            _write_all(_STREAMS[stream], text.encode("utf-8", "replace"))
            return
        with self._interrupts, self._lock:
            self._printed.append((stream, cell, text))
            self._chars += len(text)
            due = time.monotonic() - self._sent_at > _GATHER_S and "\n" in text
            if due or self._chars > _GATHER_CHARS:
                self._sent_at = time.monotonic()
                self._send_now(self._take_printed())
            else:
                self._flush_soon()

    def flush(self) -> None:
        """Send what was printed."""
        with self._interrupts, self._lock:
            if self._printed:
                self._sent_at = time.monotonic()
                self._send_now(self._take_printed())

    def _flush_soon(self) -> None:
        if self._flusher is None:
            self._flusher = threading.Thread(target=self._flush_for_ever, daemon=True)
            threading.Thread.start(self._flusher)
        self._work.set()

    def _flush_for_ever(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            time.sleep(_GATHER_S)
            self.flush()

    def _take_printed(self) -> bytes:
        printed, self._printed, self._chars = self._printed, [], 0
        joined: list[tuple[str, str, list[str]]] = []
        for stream, cell, text in printed:
            if joined and joined[-1][:2] == (stream, cell):
                joined[-1][2].append(text)
            else:
                joined.append((stream, cell, [text]))
        return b"".join(_text_lines(*part) for part in joined)

    def _send_now(self, data: bytes) -> None:
        if self._cut:
            return
        try:
            self._socket.sendall(data)
        except OSError:  # Ship is gone, and the sandbox with it
            os._exit(1)

    def _cut_in_child(self) -> None:
        self._cut = True
        self._lock = threading.Lock()
        self._printed = []
        self._socket.close()


def take_connection() -> socket.socket:
    """The socket to Ship, taken away from the programs that will be started."""
    # It came as stdin, the one way through every interpreter that tried before; programs must not inherit it.
    taken = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return socket.socket(fileno=taken)


def _text_lines(stream: str, cell: str, texts: list[str]) -> bytes:
    text = "".join(texts)
    parts = [text[i : i + _GATHER_CHARS] for i in range(0, len(text), _GATHER_CHARS)]
    return b"".join(
        json.dumps({"type": stream, "cell": cell, "text": part}, separators=(",", ":")).encode() + b"\n"
        for part in parts
    )


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
