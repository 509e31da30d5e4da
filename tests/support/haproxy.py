"""HAProxy as a balancer for plain TCP: each connection goes to the next backend in turn that takes it.

It looks into no request and asks no backend for its health. A backend that refuses is left out, and one that
goes away closes the connections that it had.
"""

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAM = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
_WAIT_S = 20.0
_PAUSE_S = 0.02
_FIRST_PORT, _LAST_PORT = 18_000, 30_000
"""Below those that the kernel gives to connections: a backend that starts again finds its port free."""

_CONFIG = """\
defaults
    mode tcp
    retries 3
    option redispatch 1
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen bay
    bind 127.0.0.1:{port}
"""


def free_ports(count: int) -> list[int]:
    """So many ports of the loopback interface that a server of the test may have, and have again later."""
    found: list[int] = []
    for port in range(_FIRST_PORT, _LAST_PORT):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no ports are free")


@contextmanager
def balancing(port: int, backends: Sequence[int]) -> Generator[None]:
    """Have it listen at `port` and pass connections on to those ports until the block is left."""
    assert PROGRAM is not None, "haproxy is not installed"
    servers = "".join(f"    server bay-{behind} 127.0.0.1:{behind}\n" for behind in backends)
    with tempfile.TemporaryDirectory(prefix="haproxy-") as folder:
        config = Path(folder, "haproxy.cfg")
        config.write_text(_CONFIG.format(port=port) + servers, encoding="utf-8")
        # In the foreground, one process: its end is the end of all of it.
        with subprocess.Popen([PROGRAM, "-db", "-q", "-f", config]) as running:
            try:
                _wait_for(port, running)
                yield
            finally:
                running.kill()


def _wait_for(port: int, running: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _WAIT_S
    while running.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), _WAIT_S):
            return
        time.sleep(_PAUSE_S)
    raise AssertionError(f"haproxy does not listen at port {port}")
