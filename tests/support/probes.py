"""Runs inside a sandbox, with `python3 -c`: tries each of a list of ways out, all at once, and prints what
became of them.

Reads a JSON list of `[where, by, port]` from its argument and prints a JSON list of words: `open` (an answer
came back), `refused` (an error did), `silent` (nothing did), `unresolved` (the name has no address).
"""

import json
import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor

WAIT_S = float(sys.argv[2]) if len(sys.argv) > 2 else 1.5
ECHO = {socket.AF_INET: (socket.IPPROTO_ICMP, 8), socket.AF_INET6: (socket.IPPROTO_ICMPV6, 128)}


def attempt(way: list[object]) -> str:
    where, by, port = str(way[0]), way[1], way[2]
    try:
        found = socket.getaddrinfo(where, int(str(port)) or None, type=socket.SOCK_STREAM)
    except OSError:
        return "unresolved"
    family, _, _, _, address = found[0]
    try:
        return {"tcp": tcp, "udp": udp, "icmp": icmp}[str(by)](family, address)
    except TimeoutError:
        return "silent"
    except OSError:
        return "refused"


def tcp(family: int, address: tuple[object, ...]) -> str:
    with socket.socket(family) as sock:
        sock.settimeout(WAIT_S)
        sock.connect(address)
        sock.sendall(b"hello")
        return "open" if sock.recv(5) == b"hello" else "refused"


def udp(family: int, address: tuple[object, ...]) -> str:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(WAIT_S)
        sock.connect(address)
        sock.send(b"hello")
        return "open" if sock.recv(100) == b"hello" else "refused"


def icmp(family: int, address: tuple[object, ...]) -> str:
    protocol, echo = ECHO[socket.AddressFamily(family)]
    with socket.socket(family, socket.SOCK_DGRAM, protocol) as sock:
        sock.settimeout(WAIT_S)
        sock.connect((address[0], 0))
        sock.send(struct.pack("!BBHHH", echo, 0, 0, 0, 1) + b"hello")
        return "open" if sock.recv(100).endswith(b"hello") else "refused"


if __name__ == "__main__":
    ways = json.loads(sys.argv[1])
    with ThreadPoolExecutor(min(64, len(ways))) as pool:
        json.dump(list(pool.map(attempt, ways)), sys.stdout)
