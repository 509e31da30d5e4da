"""A stand-in for the WebSocket side of Bay: real pseudo-terminals and pipes of this machine, and faults on
demand.

It answers GET of one sandbox and its execs, `…/execs/{id}/attach` and `…/terminal`; `Faults` says what goes
wrong.

It stays beside the tests of a real Bay (`test_sdk_real.py`, `test_sdk_output_real.py`, `test_exec_lines.py`
with a proxy that cuts connections), since it does on demand what Bay never does: a first frame that is none,
frames of a newer server, a close with any code, a reset within the upgrade, a line that is silent but for
pings.
"""

import fcntl
import itertools
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import termios
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

import canned
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

Json = dict[str, Any]
EXEC_ID = f"exec-{'a' * 24}"
PING_S = 0.1
SCREEN = b"\x1b[H\x1b[2Jwhat was there"


@dataclass
class Faults:
    """What is to go wrong, each once unless it says otherwise."""

    refusals: list[tuple[int, bytes, Json]] = field(default_factory=list[tuple[int, bytes, Json]])
    """Plain HTTP answers in place of the next upgrades."""
    resets: int = 0
    """So many of the next connections are reset in place of the upgrade."""
    cuts: list[int] = field(default_factory=list[int])
    """The next connections break after so many bytes of output."""
    closes: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """The next connections are closed so, at once after `attached`."""
    mutes: list[int] = field(default_factory=list[int])
    """The next connections say nothing after `attached` but so many pings; with none, they stay so until the
    client hangs up.
    """
    first: list[str | bytes] = field(default_factory=list[str | bytes])
    """What the next connections say in place of `attached`."""
    then: list[str | bytes] = field(default_factory=list[str | bytes])
    """What the next connections say after `attached`."""
    first_offset: int = 0
    """Output before it is gone; stays."""


class Program:
    """A process on a terminal or on pipes, with all it ever printed."""

    def __init__(self, argv: list[str], *, tty: bool, rows: int = 24, cols: int = 80) -> None:
        self.info: Json = {
            "id": EXEC_ID,
            "argv": argv,
            "pid": 7,
            "tty": tty,
            "state": "running",
            "exit_code": None,
            "signal": None,
            "started_at": "2030-01-01T00:00:00Z",
            "ended_at": None,
            "output_bytes": 0,
            "first_offset": 0,
        }
        self.pieces: list[tuple[int, bytes]] = []
        self.changed = threading.Condition()
        self._start(argv, tty, rows, cols)

    def _start(self, argv: list[str], tty: bool, rows: int, cols: int) -> None:
        if tty:
            self.input, child = pty.openpty()
            self.resize(rows, cols)
            given = dict.fromkeys(("stdin", "stdout", "stderr"), child)
            self.process = subprocess.Popen(["setsid", "-c", *argv], **given, env={**os.environ, "PS1": "$ "})
            self.open, theirs, sources = {self.input}, [child], [(1, self.input)]
        else:
            (stdin, self.input), (out, stdout), (err, stderr) = (os.pipe() for _ in range(3))
            self.process = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr)
            self.open, theirs, sources = {self.input, out, err}, [stdin, stdout, stderr], [(1, out), (2, err)]
        for end in theirs:
            os.close(end)
        readers = [threading.Thread(target=self._read, args=source, daemon=True) for source in sources]
        for reader in readers:
            reader.start()
        self.waiter = threading.Thread(target=self._wait, args=(readers,), daemon=True)
        self.waiter.start()

    def close_input(self) -> None:
        self.open.discard(self.input)
        os.close(self.input)

    def close(self) -> None:
        """End it and give all back."""
        if self.process.poll() is None:
            self.process.kill()
        self.waiter.join(10)
        while self.open:
            os.close(self.open.pop())

    def _read(self, marker: int, source: int) -> None:
        with suppress(OSError):  # a terminal that nobody holds any more is EIO
            while data := os.read(source, 65536):
                with self.changed:
                    self.pieces.append((marker, data))
                    self.changed.notify_all()

    def _wait(self, readers: list[threading.Thread]) -> None:
        code = self.process.wait()
        for reader in readers:
            reader.join(5)
        killed = code < 0
        with self.changed:
            self.info |= {
                "state": "killed" if killed else "exited",
                "exit_code": None if killed else code,
                "signal": -code if killed else None,
                "ended_at": "2030-01-01T00:00:01Z",
            }
            self.changed.notify_all()

    @property
    def total(self) -> int:
        return sum(len(data) for _, data in self.pieces)

    @property
    def running(self) -> bool:
        return bool(self.info["state"] == "running")

    def after(self, offset: int) -> list[tuple[int, bytes]]:
        """What was printed from `offset` on; waits for it or for the end."""
        with self.changed:
            self.changed.wait_for(lambda: self.total > offset or not self.running, 20)
            found, at = list[tuple[int, bytes]](), 0
            for marker, data in self.pieces:
                if at + len(data) > offset:
                    found.append((marker, data[max(0, offset - at) :]))
                at += len(data)
            return found

    def resize(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self.input, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def end(self) -> Json:
        return {name: self.info[name] for name in ("exit_code", "signal", "state")} | {"timed_out": False}


class World:
    """One sandbox, at most one program in it, and what was asked."""

    def __init__(self) -> None:
        self.program: Program | None = None
        self.faults = Faults()
        self.asked: list[str] = []
        self.heard: list[Json] = []
        self.sockets: list[ServerConnection] = []

    def spawn(self, *argv: str, tty: bool = False) -> Program:
        self.program = Program(list(argv), tty=tty)
        return self.program

    def plain(self, connection: ServerConnection, request: Request) -> Response | None:
        """An answer without an upgrade, None to go on with it."""
        path = urlsplit(request.path).path
        self.asked.append(request.path)
        if "Upgrade" in request.headers:
            if self.faults.resets:
                self.faults.resets -= 1
                _reset(connection.socket)
            if not self.faults.refusals:
                return None
            status, body, headers = self.faults.refusals.pop(0)
            return _response(status, body, headers)
        if self.program is not None and path.endswith(EXEC_ID):
            return _json(self.program.info)
        return _json(canned.SANDBOX)

    def attach(self, connection: ServerConnection) -> None:
        """One attached client."""
        assert connection.request
        parts = urlsplit(connection.request.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path.endswith("/terminal") and "exec" not in query:
            rows, cols = (int(query.get(name, size)) for name, size in (("rows", 24), ("cols", 80)))
            self.program = Program(["sh"], tty=True, rows=rows, cols=cols)
        program = self.program
        assert program is not None
        self.sockets.append(connection)
        with suppress(ConnectionClosed):
            self._serve(connection, program, query)

    def _serve(self, connection: ServerConnection, program: Program, query: dict[str, str]) -> None:
        repaint = "repaint" in query or "exec" in query
        offset = int(query.get("since", program.total if repaint else self.faults.first_offset))
        attached = {"type": "attached", "exec": program.info, "next_offset": offset}
        connection.send(self.faults.first.pop(0) if self.faults.first else json.dumps(attached))
        if self.faults.closes:
            return connection.close(*self.faults.closes.pop(0))
        if self.faults.mutes and _mute(connection, self.faults.mutes.pop(0)):
            return None
        if self.faults.then:
            connection.send(self.faults.then.pop(0))
        if repaint:
            connection.send(b"\x03" + SCREEN)
        threading.Thread(target=self._listen, args=(connection, program), daemon=True).start()
        return self._print(connection, program, offset, self.faults.cuts.pop(0) if self.faults.cuts else None)

    def _print(self, connection: ServerConnection, program: Program, offset: int, cut: int | None) -> None:
        while pieces := program.after(offset):
            for marker, data in pieces:
                if cut is not None and len(data) >= cut:
                    connection.send(bytes([marker]) + data[:cut])
                    return connection.socket.shutdown(2)
                connection.send(bytes([marker]) + data)
                offset += len(data)
                cut = None if cut is None else cut - len(data)
        return connection.send(json.dumps({"type": "exit", **program.end()}))

    def _listen(self, connection: ServerConnection, program: Program) -> None:
        with suppress(ConnectionClosed, OSError):
            for frame in connection:
                if isinstance(frame, str):
                    self._obey(program, json.loads(frame))
                elif frame[0] == 0:
                    os.write(program.input, frame[1:])
                elif program.info["tty"]:
                    os.write(program.input, b"\x04")
                else:
                    program.close_input()

    def _obey(self, program: Program, said: Json) -> None:
        self.heard.append(said)
        if said["type"] == "resize":
            program.resize(said["rows"], said["cols"])
        else:
            os.kill(program.process.pid, getattr(signal, f"SIG{said['signal']}"))

    def clear(self) -> None:
        """End what runs, and forget all."""
        if self.program is not None:
            self.program.close()
        self.__init__()


def _mute(connection: ServerConnection, pings: int) -> bool:
    """Say nothing but `pings`; whether the client has hung up over it."""
    for _ in range(pings):
        connection.ping()
        with suppress(TimeoutError):
            connection.recv(PING_S)
    if pings:
        return False
    with suppress(ConnectionClosed):
        connection.recv(20)
    return True


def _reset(connection: socket.socket) -> None:
    """Close without a goodbye: what is unsent is dropped, and the other end gets an RST (see SO_LINGER in
    socket(7)).
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):  # the other end may be gone already
        connection.shutdown(socket.SHUT_RD)
    connection.close()


def _json(body: Json) -> Response:
    return _response(200, json.dumps(body).encode(), {"Content-Type": "application/json"})


def _response(status: int, body: bytes, headers: Json) -> Response:
    known = Headers({"Content-Length": str(len(body)), "Connection": "close", **headers})
    return Response(status, HTTPStatus(status).phrase, known, body)


@contextmanager
def standing_in() -> Generator[tuple[str, World], None, None]:
    """Serve until the block is left; gives the URL and what happens behind it."""
    world = World()
    with serve(
        world.attach, "127.0.0.1", 0, process_request=world.plain, compression=None, close_timeout=1
    ) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.socket.getsockname()[1]}", world
        finally:
            world.clear()
            server.shutdown()
            thread.join(5)


@contextmanager
def resetting(apart_s: float) -> Generator[str, None, None]:
    """A server that resets every connection, each `apart_s` later in its life than the last;
    gives its URL.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_reset_all, args=(listener, apart_s), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def _reset_all(listener: socket.socket, apart_s: float) -> None:
    never = threading.Event()
    with suppress(OSError):
        for number in itertools.count():
            connection, _ = listener.accept()
            never.wait(number * apart_s)
            _reset(connection)
