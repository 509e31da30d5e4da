"""Connects to a session's socket: the one way to Ship, for drivers and for the server.

The sandbox may have replaced the path, so it is opened without following a link, must be a socket, and the
kernel must report the session's own first process as the peer.
"""

import os
import socket
import stat
import struct

from bay.drivers.base import Endpoint
from bay.errors import ShipError

_PEERCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid; see unix(7)


def connect(endpoint: Endpoint) -> socket.socket:
    """A connected, non-blocking socket. Raises OSError without a listener, ShipError for another peer."""
    path = os.open(endpoint.socket_path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(path).st_mode):
            raise ShipError("the sandbox's socket path is not a socket")
        return _connect_checked(f"/proc/self/fd/{path}", endpoint)
    finally:
        os.close(path)


def _connect_checked(path: str, endpoint: Endpoint) -> socket.socket:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        link.connect(path)
        _check_peer(link, endpoint)
    except BaseException:
        link.close()
        raise
    return link


def _check_peer(link: socket.socket, endpoint: Endpoint) -> None:
    pid, uid, _gid = _PEERCRED.unpack(link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    if endpoint.peer_uid not in (None, uid) or endpoint.peer_pid not in (None, pid):
        raise ShipError("the process that listens in the sandbox is not its Ship; stop and start the sandbox")
