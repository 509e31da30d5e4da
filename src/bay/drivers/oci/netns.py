"""The session's network namespace, made by the host.

The user namespace that creates a network namespace owns it. Made by runc inside the user namespace, root
inside could flush any egress policy; made here, by a thread in the host's user namespace, the same root has
no power over nftables, raw sockets or interfaces. runc cannot join it by path together with a user namespace
(it enters that first and then lacks the right), so the launching thread is in it and runc inherits it.
"""

import fcntl
import os
import socket
import struct
from pathlib import Path

from bay.linux.processes import closing_fd, ends_within, open_process

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1

# Root inside lacks the capabilities for these, so all users have them: ports below 1024, and ping.
_SYSCTLS = {"ipv4/ip_unprivileged_port_start": "0", "ipv4/ping_group_range": "0 2147483647"}


def set_up_loopback() -> None:
    """Bring `lo` up in the network namespace of the calling thread and let its users bind any port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))
    for name, value in _SYSCTLS.items():
        (Path("/proc/sys/net") / name).write_text(value)


def descriptor_of(pid: int, started: int) -> int | None:
    """A descriptor of the network namespace of that process; None if it has ended. Blocks."""
    if (pidfd := open_process(pid, started)) is None:
        return None
    with closing_fd(pidfd):
        try:
            namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # it has ended, and is not reaped yet
            return None
        # The number may have gone to another process since it was looked at.
        if not ends_within(pidfd, 0):
            return namespace
    os.close(namespace)
    return None
