"""Relays: connections that a fetch makes inside its namespace go on from the host to one fixed place.

The relay hands on bytes and looks at none of them. It is how a fetch reaches a registry on the host's
loopback or on a private address, which its own network policy keeps from it. Threads let the kernel move the
bytes (splice); on the event loop a gigabyte took a second from all calls.
"""

import os
import socket
import struct
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, suppress

from bay.errors import DriverUnavailable
from bay.images.registries import RelayWay
from bay.linux import namespaces
from bay.linux.netlink import CREATE, REPLACE, Netlink, NetlinkRequest, attribute
from bay.linux.processes import closing_fd
from bay.linux.threads import in_new_thread
from bay.network.reserved_ranges import Address

_PIECE = 1 << 16
_MAX_CONNECTIONS = 32
_CONNECT_S = 15.0
_JOIN_S = 10.0
_NEWADDR, _IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _NODAD = 20, 1, 2, 8, 0x2
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


class RegistryRelay:
    """The relays of one fetch, from `open` to `aclose`."""

    def __init__(self, ways: Sequence[RelayWay]) -> None:
        self._ways = ways
        self._listeners: list[tuple[RelayWay, socket.socket]] = []
        self._lock = threading.Lock()  # guards all below; held for no call that waits
        self._sockets: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._is_closed = False

    async def open(self, netns_fd: int) -> None:
        """Listen inside the namespace. Raises DriverUnavailable; `aclose` is due in any case."""
        if not self._ways:
            return
        try:
            await in_new_thread(lambda: namespaces.inside(netns_fd, self._listen))
        except OSError as error:
            raise DriverUnavailable(f"this host cannot relay to a registry: {error.strerror}") from error
        for way, listener in self._listeners:
            self._start(self._accept, way, listener)

    async def aclose(self) -> None:
        """Close the listeners and every connection, and wait for their threads."""
        with self._lock:
            self._is_closed = True
            threads = list(self._threads)
            for one in (*self._sockets, *(listener for _, listener in self._listeners)):
                _shut(one)  # wakes the thread that waits for it
        if threads:
            await in_new_thread(lambda: [thread.join(_JOIN_S) for thread in threads])
        for _, listener in self._listeners:
            listener.close()

    def _listen(self) -> None:
        for way in self._ways:
            self._listeners.append((way, _listener(way)))

    def _start(
        self, work: Callable[[RelayWay, socket.socket], None], way: RelayWay, one: socket.socket
    ) -> bool:
        """Begin a thread for a socket, unless there are too many or it is over."""
        thread = threading.Thread(target=work, args=(way, one), name="bay-relay", daemon=True)
        with self._lock:
            if self._is_closed or len(self._threads) > _MAX_CONNECTIONS:
                return False
            self._threads.add(thread)
            thread.start()
        return True

    def _accept(self, way: RelayWay, listener: socket.socket) -> None:
        with suppress(OSError):  # it was closed
            while True:
                inside, _ = listener.accept()
                if not self._start(self._carry, way, inside):
                    inside.close()

    def _carry(self, way: RelayWay, inside: socket.socket) -> None:
        try:
            with self._known(inside), suppress(OSError):
                for target in way.targets:
                    outside = socket.socket(_FAMILY[target.version], socket.SOCK_STREAM)
                    with self._known(outside):
                        if _connects(outside, target, way.port):
                            _copy_both(inside, outside)
                            break
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    @contextmanager
    def _known(self, one: socket.socket) -> Generator[None]:
        """A socket that `aclose` ends, and that is closed at the end. Raises OSError when that has been."""
        with closing(one):
            with self._lock:
                if self._is_closed:
                    raise ConnectionAbortedError
                self._sockets.add(one)
            try:
                yield
            finally:
                with self._lock:
                    self._sockets.discard(one)


def _connects(outside: socket.socket, target: Address, port: int) -> bool:
    outside.settimeout(_CONNECT_S)
    try:
        outside.connect((str(target), port))
    except OSError:
        return False
    outside.settimeout(None)
    return True


def _copy_both(inside: socket.socket, outside: socket.socket) -> None:
    back = threading.Thread(target=_copy, args=(outside, inside), name="bay-relay-back", daemon=True)
    back.start()
    _copy(inside, outside)
    back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Hand on bytes until their end; an error ends both sides, so that no one waits for the other."""
    out, into = os.pipe2(os.O_CLOEXEC)
    with closing_fd(out), closing_fd(into):
        try:
            while count := os.splice(source.fileno(), into, _PIECE):
                while count:
                    count -= os.splice(out, target.fileno(), count)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            _shut(source)
            _shut(target)


def _shut(one: socket.socket) -> None:
    with suppress(OSError):  # it has ended by itself
        one.shutdown(socket.SHUT_RDWR)


def _listener(way: RelayWay) -> socket.socket:
    if not way.inside.is_loopback:
        _add_to_loopback(way.inside)
    listener = socket.socket(_FAMILY[way.inside.version], socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(way.inside), way.port))
        listener.listen(_MAX_CONNECTIONS)
    except OSError:
        listener.close()
        raise
    return listener


def _add_to_loopback(address: Address) -> None:
    """Give `lo` of the calling thread's namespace the address, so that it leads to a listener there."""
    index = socket.if_nametoindex("lo")
    body = struct.pack("=BBBBI", _FAMILY[address.version], address.max_prefixlen, 0, 0, index)
    body += attribute(_IFA_LOCAL, address.packed) + attribute(_IFA_ADDRESS, address.packed)
    body += attribute(_IFA_FLAGS, _NODAD)
    with closing(Netlink()) as netlink:
        netlink.send([NetlinkRequest(f"give lo {address}", _NEWADDR, CREATE | REPLACE, body)])
