"""`bay` for blocks of the documentation, forked by a process that has it loaded. A program, not a test;
`page_door` is where it asks.

    page_cli.py SOCKET ARGUMENTS...

Servers, and commands on a terminal, are the executable's own: their processes must be those of the block.
"""

import json
import os
import signal
import socket
import sys

MESSAGE_BYTES = 1 << 17
_NUMBER_BYTES = 8
_OWN_PROCESS = ("mcp", "proxy", "run", "serve", "ssh-proxy")


def main(door: str, *arguments: str) -> int:
    """Have the command forked, and give its exit code."""
    if os.isatty(0) or {*_OWN_PROCESS} & {*arguments[:1]}:
        os.execv(os.path.join(os.path.dirname(sys.executable), "bay"), ["bay", *arguments])  # noqa: S606
    told, status = os.pipe()
    order = {"arguments": arguments, "environment": {**os.environ}, "folder": os.getcwd(), "dies": None}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES * 2)
        link.connect(door)
        socket.send_fds(link, [json.dumps(order).encode()], [0, 1, 2, status])
    os.close(status)
    pid = int(os.read(told, _NUMBER_BYTES))
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    code = int(os.read(told, _NUMBER_BYTES))
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
