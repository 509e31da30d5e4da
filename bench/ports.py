"""The proxy of ports beside nginx as a reverse proxy to the same app: requests, a large download, WebSocket
messages.

The app is nginx too (messages come back from a few lines of Python). Bay reaches the one in a sandbox, the
nginx beside it one on this host, since there is no way into a sandbox but Bay's. `wrk` asks, on this machine:
all of them share its cores.
"""

import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from urllib.parse import urlsplit

from websockets.sync.client import connect

from bay.client import Box
from bench.base import Bench, ms, running_box
from bench.figures import Absent, Figure, Ratio, Result

SECONDS, ECHOES, DOWNLOADS, GIB = 6, 2000, 3, 1 << 30
CONNECTIONS = (1, 16, 64)

_APP = """
daemon off; worker_processes 1; error_log stderr; pid {folder}/app.pid;
events {{ worker_connections 1024; }}
http {{ access_log off; sendfile on; {paths}
  server {{ listen 127.0.0.1:{port}; root {folder}; keepalive_requests 1000000; location = / {{ return 200 "hello"; }} }} }}
"""
_FRONT = """
daemon off; worker_processes 1; error_log stderr; pid {folder}/front.pid;
events {{ worker_connections 1024; }}
http {{ access_log off; {paths}
  upstream app {{ server 127.0.0.1:{app}; keepalive 64; keepalive_requests 1000000; }}
  upstream echo {{ server 127.0.0.1:{echo}; }}
  server {{ listen 127.0.0.1:{port}; keepalive_requests 1000000; proxy_http_version 1.1; proxy_set_header Host $host;
    proxy_max_temp_file_size 0;
    location / {{ proxy_pass http://app; proxy_set_header Connection ""; }}
    location /echo {{ proxy_pass http://echo; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }} }} }}
"""
_PATHS = "".join(
    f"{kind}_temp_path {{folder}}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)
_ECHO = """
import base64, hashlib, socket, sys, threading

def serve(link):
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    file = link.makefile("rb")
    head = b"".join(iter(file.readline, b"\\r\\n"))
    key = next(l for l in head.split(b"\\r\\n") if l.lower().startswith(b"sec-websocket-key:")).split(b":")[1].strip()
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    link.sendall(b"HTTP/1.1 101 x\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\nSec-WebSocket-Accept: " + accept + b"\\r\\n\\r\\n")
    while frame := file.read(2):
        size = frame[1] & 127  # of short messages
        mask, data = file.read(4), file.read(size)
        link.sendall(bytes((frame[0], size)) + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to the app: where it is asked, and what has to be said."""

    name: str
    port: int
    headers: dict[str, str]
    echo_headers: dict[str, str]


def ports(bench: Bench) -> list[Result]:
    """Requests a second and p99, the download of 1 GiB, and the p99 of a WebSocket message that
    comes back.
    """
    if not which("nginx") or not which("wrk"):
        return [Absent("the proxy of ports", "nginx or wrk is not installed")]
    with running_box(bench.client) as box, _ways(bench, box) as (direct, front, mine):
        found: list[Result] = []
        for connections in CONNECTIONS:
            found += _requests(bench, (direct, front, mine), connections)
        found += _both(bench, (front, mine), "download of 1 GiB", "MB/s", lambda way: _downloads(bench, way))
        found += _both(bench, (front, mine), "WebSocket echo", "ms", lambda way: _echoes(bench, way))
    return found


def _requests(bench: Bench, ways: tuple[Way, ...], connections: int) -> list[Result]:
    found: list[Result] = []
    rates: list[Figure] = []
    for way in ways:
        rate, p50, p99 = _wrk(way, connections, max(1, round(SECONDS * bench.scale)))
        note = f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"
        rates.append(Figure(f"{way.name}, {connections} at once", "requests/s", (rate,), note))
        found += [rates[-1], Figure(f"{way.name}, {connections} at once, p99", "ms", (p99,))]
    return [*found, Ratio(rates[-1], rates[-2])]


def _both(
    bench: Bench, ways: tuple[Way, Way], what: str, unit: str, measure: Callable[[Way], list[float]]
) -> list[Result]:
    theirs, mine = (Figure(f"{way.name}, {what}", unit, tuple(measure(way))) for way in ways)
    return [theirs, mine, Ratio(mine, theirs)]


def _wrk(way: Way, connections: int, seconds: int) -> tuple[float, float, float]:
    """Requests a second, and the milliseconds of the median and the 99th percentile."""
    headers = [word for name, value in way.headers.items() for word in ("-H", f"{name}: {value}")]
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", *headers, f"http://127.0.0.1:{way.port}/"],
        capture_output=True, text=True, check=True, timeout=seconds + 60,
    )  # fmt: skip
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise RuntimeError(f"{way.name}: {done.stdout}")
    rate = re.search(r"Requests/sec: +([0-9.]+)", done.stdout)
    ranks = dict(re.findall(r"(50|99)% +([0-9.]+[a-z]+)", done.stdout))
    return float(rate[1]) if rate else 0.0, _to_ms(ranks["50"]), _to_ms(ranks["99"])


def _to_ms(text: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)([a-z]+)", text).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit]


def _downloads(bench: Bench, way: Way) -> list[float]:
    return [_download(way) for _ in range(bench.count(DOWNLOADS))]


def _download(way: Way) -> float:
    """Megabytes a second, of whatever length it says it has and has."""
    lines = [f"{name}: {value}" for name, value in ({"Host": "x"} | way.headers).items()]
    buffer = bytearray(1 << 20)
    with socket.create_connection(("127.0.0.1", way.port), timeout=120) as link:
        link.sendall("\r\n".join(["GET /large HTTP/1.1", *lines, "Connection: close", "", ""]).encode())
        began, received = time.perf_counter(), 0
        while count := link.recv_into(buffer):
            received += count
    if received < GIB:
        raise RuntimeError(f"{way.name}: a download of {received} bytes")
    return received / 1e6 / (time.perf_counter() - began)


def _echoes(bench: Bench, way: Way) -> list[float]:
    headers = {name: value for name, value in way.echo_headers.items() if name != "Host"}
    host = way.echo_headers.get("Host", "127.0.0.1")
    url = f"ws://{host}:{way.port}/echo" if ":" not in host else f"ws://{host}/echo"
    with (
        socket.create_connection(("127.0.0.1", way.port)) as link,
        connect(url, sock=link, additional_headers=headers, compression=None) as client,
    ):
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def once() -> None:
            client.send("x" * 64)
            assert client.recv() == "x" * 64

        return [ms(once) for _ in range(bench.count(ECHOES))]


@contextmanager
def _ways(bench: Bench, box: Box) -> Generator[tuple[Way, Way, Way]]:
    with tempfile.TemporaryDirectory(prefix="bay-bench-ports-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        app, front, echo = (_free_port() for _ in range(3))
        (folder / "app.conf").write_text(
            _APP.format(folder=folder, port=app, paths=_PATHS.format(folder=folder))
        )
        texts = {
            "folder": folder,
            "port": front,
            "app": app,
            "echo": echo,
            "paths": _PATHS.format(folder=folder),
        }
        (folder / "front.conf").write_text(_FRONT.format(**texts))
        (folder / "echo.py").write_text(_ECHO)
        (folder / "large").touch()
        with (folder / "large").open("wb") as file:
            file.truncate(GIB)
        (folder / "large").chmod(0o644)
        programs = [
            ["nginx", "-p", name, "-c", str(folder / "app.conf")],
            ["nginx", "-p", name, "-c", str(folder / "front.conf")],
            ["python3", str(folder / "echo.py"), str(echo)],
        ]
        started = [subprocess.Popen(argv, stderr=subprocess.DEVNULL) for argv in programs]
        try:
            for port in (app, front, echo):
                _wait_for(port)
            yield Way("straight", app, {}, {}), Way("nginx", front, {}, {}), _inside(bench, box)
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(30)


def _inside(bench: Bench, box: Box) -> Way:
    """The same app in the sandbox."""
    folder = "/workspace"
    conf = _APP.format(folder=folder, port=8000, paths=_PATHS.format(folder=folder))
    box.files.write("app.conf", conf)
    box.files.write("echo.py", _ECHO)
    box.run(["truncate", "-s", str(GIB), "large"], check=True)
    box.spawn(["nginx", "-p", folder, "-c", f"{folder}/app.conf"])
    box.spawn(["python3", "echo.py", "8001"])
    port = urlsplit(bench.server.url).port or 0
    key = {"Authorization": f"Bearer {bench.server.api_key}"}
    hosts = [f"{number}-{box.id}.localhost:{port}" for number in (8000, 8001)]
    way = Way("Bay", port, {"Host": hosts[0], **key}, {"Host": hosts[1], **key})
    _wrk(way, 1, 1)  # until it listens
    return way


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
