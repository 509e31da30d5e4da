"""Proxies as operators have them, with the files of deploy/: nginx and Caddy, on loopback, with a private
authority. Only addresses and paths of the files are put in place of their own.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"
DOMAIN = "bay.example.com"
WAIT_S = 60.0

_NGINX = """
daemon off; master_process off; error_log stderr; pid {folder}/pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    {paths}
    include {folder}/bay.conf;
}}
"""
_PATHS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a proxy listens, for http and for https, and for orders."""

    http: int
    https: int
    admin: int


@dataclass(frozen=True, slots=True)
class Place:
    """A proxy's folder and ports, Bay's port, and the folder of the certificate."""

    folder: Path
    ports: Ports
    bay: int
    certificate: Path

    def fitted(self, text: str, more: Mapping[str, str]) -> str:
        """The text of a file with this place's addresses and paths. Each must be there."""
        everywhere = {
            "127.0.0.1:8700": f"127.0.0.1:{self.bay}",
            "/etc/ssl/bay/fullchain.pem": str(self.certificate / "server.crt"),
            "/etc/ssl/bay/privkey.pem": str(self.certificate / "server.key"),
        }
        for old, new in {**everywhere, **more}.items():
            assert old in text, old
            text = text.replace(old, new)
        return text


def free_ports() -> Ports:
    """Three ports of loopback that nothing listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    found = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return Ports(*found)


def nginx(place: Place) -> list[str]:
    """The command that starts nginx there."""
    own = {"listen 80;": f"listen {place.ports.http};", "listen 443 ssl;": f"listen {place.ports.https} ssl;"}
    text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    (place.folder / "bay.conf").write_text(place.fitted(text, own))
    paths = "".join(f"{kind}_temp_path {place.folder}/{kind};" for kind in _PATHS)
    (place.folder / "nginx.conf").write_text(_NGINX.format(folder=place.folder, paths=paths))
    return ["nginx", "-p", str(place.folder), "-c", str(place.folder / "nginx.conf"), "-e", "stderr"]


def caddy(place: Place) -> list[str]:
    """The command that starts Caddy there."""
    own = {
        "admin localhost:2019": f"admin localhost:{place.ports.admin}",
        "http_port 80": f"http_port {place.ports.http}",
        "https_port 443": f"https_port {place.ports.https}",
    }
    text = (DEPLOY / "Caddyfile").read_text(encoding="utf-8")
    (place.folder / "Caddyfile").write_text(place.fitted(text, own))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(place.folder / "Caddyfile")]


COMMANDS: dict[str, Callable[[Place], list[str]]] = {"nginx": nginx, "caddy": caddy}


@contextmanager
def proxy(name: str, place: Place) -> Generator[None]:
    """Run the proxy until the block is left."""
    place.folder.mkdir()
    path = f"{os.environ['PATH']}:/usr/sbin"
    assert shutil.which(name, path=path), f"{name} is not installed"
    files = {
        "HOME": str(place.folder),
        "XDG_DATA_HOME": str(place.folder),
        "XDG_CONFIG_HOME": str(place.folder),
    }
    with (place.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            COMMANDS[name](place), stdout=log, stderr=log, env={**os.environ, **files, "PATH": path}
        )
    try:
        for port in (place.ports.http, place.ports.https):
            _wait(process, port, place.folder / "log")
        yield
    finally:
        process.kill()
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + WAIT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(f"it does not come up: {log.read_text()[-2000:]}")
