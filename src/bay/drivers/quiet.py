"""Asks a Ship for the quiet in which its memory can be saved, and holds its connections meanwhile.

The descriptors come from a process that may be hostile. Bay neither reads nor writes these files; to close
one may block for ever, as with a file of FUSE, so a thread of its own does that, and nobody waits for it.
"""

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

from bay.drivers.base import Endpoint, MemoryNotSaved
from bay.drivers.ship_call import LIMIT, exchange, status_of
from bay.drivers.ship_socket import connect, open_connection
from bay.errors import DriverUnavailable, SandboxNotReady, ShipError
from bay.linux.threads import in_new_thread
from ship_protocol import SESSION_HEADER, handover, session_proof
from ship_protocol.handover import HANDED, HANDED_ALL, HANDED_AT_ONCE, HANDED_OVER

_CONFLICT = 409


class RestRefused(SandboxNotReady):
    """Ship answered that it does not come to rest; it goes on as before."""

    def __init__(self, answer: int, message: str) -> None:
        super().__init__(message)
        self.answer = answer


class RequestsUnderWay(MemoryNotSaved):
    """Ship does not come to rest while requests are under way that must be answered; it goes on as before."""


@dataclass(slots=True)
class HeldConnections:
    """The open files of a quiet Ship's connections, in the order in which Ship handed them over."""

    descriptors: list[int] = field(default_factory=list[int])

    def close(self) -> None:
        """Begin to close them, in a thread. Idempotent. Raises DriverUnavailable when the host refuses
        threads; then they are still held.
        """
        if not self.descriptors:
            return
        closed = list(self.descriptors)
        try:
            threading.Thread(target=_close_all, args=(closed,), name="bay-held", daemon=True).start()
        except RuntimeError as error:
            refused = f"the host refuses more threads to Bay ({error}); raise its pids limit"
            raise DriverUnavailable(refused) from error
        self.descriptors.clear()


async def become_quiet(endpoint: Endpoint, token: str, timeout_s: float = 5.0) -> HeldConnections:
    """Have Ship hand over every other connection, and return when this one, the last, is closed on its side
    as well. The caller closes the connections that are held, or gives them back by `end_quiet`. Raises
    SandboxNotReady; then Ship's connections go on, or end with the next request.
    """
    held = HeldConnections()
    try:
        with _told("Ship does not come to rest"):
            await _in_thread(endpoint, timeout_s, lambda asked: _take(asked, token, held.descriptors))
    except BaseException:
        held.close()
        raise
    return held


async def end_quiet(endpoint: Endpoint, token: str, held: HeldConnections, timeout_s: float = 5.0) -> None:
    """Give Ship its connections back, which then go on where they stood. `held` is closed, also on an error.
    Raises SandboxNotReady; then Ship's connections have ended, or end with the next request.
    """
    try:
        with _told("Ship does not go on"):
            await _in_thread(endpoint, timeout_s, lambda asked: _give_back(asked, token, held.descriptors))
    finally:
        held.close()


async def drain(endpoint: Endpoint, token: str, timeout_s: float = 5.0) -> None:
    """Have Ship end all its connections, this one last, and listen no more until a USR1. Raises
    RequestsUnderWay or RestRefused, with nothing changed, and SandboxNotReady; then Ship may still listen.
    """
    with _told("Ship does not come to rest"):
        await _in_thread(endpoint, timeout_s, lambda asked: _drain(asked, token))


async def adopt(endpoint: Endpoint, token: str, new_token: str, timeout_s: float = 5.0) -> None:
    """Have Ship, a copy of the one that `token` was made for, take `new_token` in its place: 32 to 1024
    characters of ASCII without spaces. All its connections end. Raises SandboxNotReady.
    """
    body = json.dumps({"token": new_token}).encode("ascii")
    head = f"POST /adopt HTTP/1.1\r\nAuthorization: Bearer {token}\r\n"
    with _told("Ship does not take its new token"):
        async with asyncio.timeout(timeout_s):
            reader, writer = await open_connection(endpoint, LIMIT)
            status, headers, _body = await exchange(reader, writer, head, body)
    if status != 200:
        raise SandboxNotReady(f"Ship answered {status} to /adopt")
    _check_session(headers, new_token)


class _Asked:
    """A blocking connection to Ship. Every call raises OSError when `timeout_s` is over."""

    def __init__(self, link: socket.socket, timeout_s: float) -> None:
        self._link = link
        self._until = time.monotonic() + timeout_s

    def upgrade(self, protocol: str, token: str) -> None:
        """Raises RestRefused, and SandboxNotReady for what is no answer."""
        head = f"POST /{protocol} HTTP/1.1\r\nHost: ship\r\nAuthorization: Bearer {token}\r\n"
        self._wait()
        self._link.sendall(f"{head}Connection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n".encode("ascii"))
        answered = bytearray()
        while not answered.endswith(b"\r\n\r\n"):
            # No byte more, since descriptors come with the next.
            byte = self.receive()
            if not byte or len(answered) > LIMIT:
                raise SandboxNotReady("Ship ended its answer early")
            answered += byte
        line, _, headers = answered.decode("latin-1").lower().partition("\r\n")
        if (status := status_of(line)) != 101:
            again = "a restart of the sandbox brings one that can"
            raise RestRefused(status, f"Ship answered {status} to /{protocol}; {again}")
        _check_session(f"\r\n{headers}", token)

    def receive(self) -> bytes:
        """The next byte; none at the end."""
        self._wait()
        return self._link.recv(1)

    def receive_files(self, files: list[int]) -> bytes:
        """The next byte, whose descriptors are added to `files`. Raises SandboxNotReady if some are lost."""
        self._wait()
        message = handover.receive(self._link, files)
        if message is None:
            raise SandboxNotReady(
                "Ship sent more descriptors at once than Bay takes, or than it may have open"
            )
        return message

    def send_files(self, message: bytes, files: Sequence[int] = ()) -> None:
        self._wait()
        if files:
            socket.send_fds(self._link, [message], files)
        else:
            self._link.sendall(message)

    def end(self) -> None:
        """End this direction: nothing more is sent."""
        self._link.shutdown(socket.SHUT_WR)

    def _wait(self) -> None:
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._link.settimeout(left_s)


def _take(asked: _Asked, token: str, files: list[int]) -> None:
    asked.upgrade("quiet", token)
    while True:
        count = len(files)
        message = asked.receive_files(files)
        if message == HANDED_ALL and len(files) == count:
            break
        if message != HANDED or len(files) == count:
            raise SandboxNotReady("Ship ended while it handed its connections over")
        if len(files) > HANDED_OVER:
            raise SandboxNotReady(f"Ship handed more than {HANDED_OVER} connections over")
    asked.end()
    if asked.receive_files(files):  # by its end Ship has closed its side
        raise SandboxNotReady("Ship handed more over than it said")
    if not all(map(_is_connection, files)):
        raise SandboxNotReady("Ship handed over what is no connection of its socket")


def _drain(asked: _Asked, token: str) -> None:
    try:
        asked.upgrade("drain", token)
    except RestRefused as refused:
        if refused.answer == _CONFLICT:
            raise RequestsUnderWay("requests to it are under way; let them end first") from refused
        raise
    if asked.receive() != HANDED_ALL or asked.receive():
        raise SandboxNotReady("Ship ended while it ended its connections")


def _is_connection(file: int) -> bool:
    """Whether it may be one to Ship. To hold or to close a file of another kind could cost the host more."""
    try:
        one = socket.socket(fileno=file)
    except OSError:
        return False
    kind = (one.family, one.type)
    one.detach()
    return kind == (socket.AF_UNIX, socket.SOCK_STREAM)


def _give_back(asked: _Asked, token: str, files: Sequence[int]) -> None:
    asked.upgrade("loud", token)
    for start in range(0, len(files), HANDED_AT_ONCE):
        asked.send_files(HANDED, files[start : start + HANDED_AT_ONCE])
    asked.send_files(HANDED_ALL)
    if asked.receive() != HANDED_ALL:
        raise SandboxNotReady("Ship did not take its connections back, which have ended")


async def _in_thread(endpoint: Endpoint, timeout_s: float, act: Callable[[_Asked], None]) -> None:
    with connect(endpoint) as link:

        def stop() -> None:
            with contextlib.suppress(OSError):  # it has ended by itself
                link.shutdown(socket.SHUT_RDWR)

        await in_new_thread(lambda: act(_Asked(link, timeout_s)), stop)


@contextlib.contextmanager
def _told(problem: str) -> Generator[None]:
    try:
        yield
    except (OSError, ShipError) as error:  # TimeoutError is an OSError
        raise SandboxNotReady(f"{problem}: {error or 'timed out'}") from error


def _check_session(headers: str, token: str) -> None:
    if f"\r\n{SESSION_HEADER.lower()}: {session_proof(token)}\r\n" not in headers:
        raise SandboxNotReady("a process that is not this session's Ship answered")


def _close_all(files: Sequence[int]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            os.close(file)
