"""The kernel's channel to Ship: one JSON object a line, both ways, over a socket.

Output is gathered for milliseconds: a loop of prints is no loop of system calls. A first line goes at once.
"""

from __future__ import annotations

import _thread
import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import Any

from ship_kernel.interrupts import Interrupts

_GATHER_S = 0.01
_GATHER_CHARS = 16 * 1024
_READ_BYTES = 64 * 1024
_STREAMS = {"stdout": 1, "stderr": 2}


class Channel:
    """Safe in threads and finalizers, which wait; cut in a forked child: output to the pipes, no messages."""

    def __init__(self, connection: socket.socket, interrupts: Interrupts) -> None:
        self._socket = connection
        self._interrupts = interrupts
        self._lock = threading.RLock()  # guards the fields below, down to _flushes
        self._acts: deque[Callable[[], None]] = deque()
        self._acting = 0  # the thread that is at it, by its identifier
        self._torn = False  # a handler raised in the middle of a line
        self._printed: list[tuple[str, str, str]] = []  # stream, cell, text
        self._chars = 0
        self._sent_at = 0.0
        self._flush_wanted = False
        self._flushes = False  # the thread that does is there
        self._wanted: SimpleQueue[None] = SimpleQueue()  # an Event must not be set in the middle of its wait
        self._settling = False
        self._cut = False
        self._waiting = b""  # the beginning of a message
        self._received: deque[dict[str, Any]] = deque()
        self._syncs = 0  # asked for, each with its number
        os.register_at_fork(before=self.flush, after_in_child=self._cut_in_child)

    def receive(self) -> Iterator[dict[str, Any]]:
        """The messages of Ship, until it closes."""
        while (message := self._next()) is not None:
            if message["type"] != "sync":  # a handler raised while it was waited for
                yield message

    def settle(self) -> None:
        """Return when Ship has received all of it. Later output of the pipes is later in the transcript."""
        self.flush()
        if self._cut or self._settling or threading.current_thread() is not threading.main_thread():
            return
        if self._acting == threading.get_ident():  # the question could not be sent before we return
            return
        self._settling = True
        try:
            with self._interrupts:
                self._syncs += 1
                self.send({"type": "sync", "number": self._syncs})
                while (answer := self._next()) is not None and answer.get("number") != self._syncs:
                    pass  # the answer to an earlier one, as above
        finally:
            self._settling = False

    def _next(self) -> dict[str, Any] | None:
        while not self._received:
            data = self._socket.recv(_READ_BYTES)
            if not data:
                return None
            both = self._waiting + data
            *lines, self._waiting = both.split(b"\n") if b"\n" in data else [both]
            self._received.extend(json.loads(line) for line in lines)
        return self._received.popleft()

    def send(self, message: dict[str, Any]) -> None:
        """Send one message, after the output before it."""
        self._act(partial(self._send_line, _line(message)))

    def write(self, stream: str, cell: str, text: str) -> None:
        """Send output of a stream, now or very soon."""
        if self._cut:
            _write_all(_STREAMS[stream], text.encode("utf-8", "replace"))
            return
        self._act(partial(self._gather, stream, cell, text))

    def flush(self) -> None:
        self._act(self._flush)

    def _act(self, act: Callable[[], None]) -> None:
        with self._interrupts, self._lock:
            self._acts.append(act)
            while self._acts and not self._acting:
                self._acting = threading.get_ident()
                try:
                    self._act_all()
                finally:
                    self._acting = 0

    def _act_all(self) -> None:
        while self._acts:
            self._acts.popleft()()

    def _send_line(self, line: bytes) -> None:
        self._send_now(self._take_printed() + line)

    def _gather(self, stream: str, cell: str, text: str) -> None:
        self._printed.append((stream, cell, text))
        self._chars += len(text)
        due = time.monotonic() - self._sent_at > _GATHER_S and "\n" in text
        if due or self._chars > _GATHER_CHARS:
            self._flush()
        elif not self._flush_wanted:
            self._flush_soon()

    def _flush(self) -> None:
        if self._printed:
            self._sent_at = time.monotonic()
            self._send_now(self._take_printed())

    def _flush_soon(self) -> None:
        if not self._flushes:
            # Not by threading: when a handler raises in the middle of a start there, the thread is half there
            # for ever.
            _thread.start_new_thread(self._flush_for_ever, ())
            self._flushes = True
        self._wanted.put(None)
        self._flush_wanted = True

    def _flush_for_ever(self) -> None:
        while True:
            self._wanted.get()
            time.sleep(_GATHER_S)
            self._act(self._flush_as_wanted)

    def _flush_as_wanted(self) -> None:
        self._flush_wanted = False
        self._flush()

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
        whole, self._torn = b"\n" + data if self._torn else data, True
        try:
            self._socket.sendall(whole)
        except OSError:  # Ship has ended, and the sandbox with it
            os._exit(1)
        self._torn = False

    def _cut_in_child(self) -> None:
        self._cut = True
        self._lock = threading.RLock()
        self._acts.clear()
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
    return b"".join(_line({"type": stream, "cell": cell, "text": part}) for part in parts)


def _line(message: dict[str, Any]) -> bytes:
    # An error's value may be long and in any script, which escapes would make three times as long.
    ascii_only = message["type"] != "error"
    text = json.dumps(message, separators=(",", ":"), allow_nan=False, ensure_ascii=ascii_only)
    return text.encode("utf-8", "replace") + b"\n"


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
