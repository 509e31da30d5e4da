"""The messages by which a Ship hands its connections over and takes them back, over a Unix socket."""

import array
import socket

HANDED_OVER = 1024
"""The most connections that a Ship hands over."""

HANDED_AT_ONCE = 64
"""The most descriptors in one message."""

HANDED, HANDED_ALL, HANDED_WRONG = b"+", b".", b"!"
"""The messages: with descriptors, behind the last of them, and in place of that when they are lost."""


def receive(link: socket.socket, files: list[int]) -> bytes | None:
    """The next message, empty at the end of `link`; None when some of its descriptors are lost. Those that
    came are added to `files`, and no program inherits them. Raises OSError.
    """
    # `socket.recv_fds` ignores its flags.
    size = array.array("i").itemsize
    room = socket.CMSG_SPACE(HANDED_AT_ONCE * size)
    message, ancillary, flags, _address = link.recvmsg(1, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            files.extend(array.array("i", data[: len(data) - len(data) % size]))
    return None if flags & socket.MSG_CTRUNC else message
