"""A real registry, Debian's docker-registry, on the loopback of the tests' own network."""

import json
import shutil
import socket
import ssl
import subprocess
import time
from base64 import b64encode
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from image_files import ImageFile

USER, PASSWORD = "ann", "correct horse battery"
WAIT_S = 30.0


@dataclass(frozen=True)
class Registry:
    """A registry that runs. `host` is what references begin with."""

    host: str
    client: httpx.Client

    def push(self, image: ImageFile, repository: str, tag: str) -> str:
        """Push an image; gives its reference."""
        for digest, blob in image.blobs().items():
            self.push_blob(repository, digest, blob)
        self.push_manifest(repository, tag, image.manifest_bytes, image.media_type)
        return f"{self.host}/{repository}:{tag}"

    def push_blob(self, repository: str, digest: str, blob: bytes) -> None:
        begun = self.client.post(f"/v2/{repository}/blobs/uploads/").raise_for_status()
        place = httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": digest})
        headers = {"Content-Type": "application/octet-stream"}
        self.client.put(place.raw_path.decode(), content=blob, headers=headers).raise_for_status()

    def push_manifest(self, repository: str, tag: str, manifest: bytes, media_type: str) -> None:
        path = f"/v2/{repository}/manifests/{tag}"
        self.client.put(path, content=manifest, headers={"Content-Type": media_type}).raise_for_status()


def is_installed() -> bool:
    return all(map(shutil.which, ("docker-registry", "htpasswd", "openssl")))


@contextmanager
def registry(
    directory: Path,
    *,
    password: bool = False,
    ca: Path | None = None,
    address: str = "127.0.0.1",
    port: int | None = None,
) -> Generator[Registry]:
    """A registry with its files in `directory`, which may be those of one before, at a free port unless it is
    given; with `ca` (see `authority`) it speaks TLS.
    """
    port = port or _free_port(address)
    shown = f"[{address}]" if ":" in address else address
    http: dict[str, object] = {"addr": f"{shown}:{port}", "secret": "x"}
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "registry")}},
        "http": http,
    }
    if ca is not None:
        http["tls"] = {"certificate": str(ca / "server.crt"), "key": str(ca / "server.key")}
    if password:
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(_htpasswd(directory))}}
    (directory / "registry.yml").write_text(json.dumps(config))  # JSON is YAML
    command = ["docker-registry", "serve", str(directory / "registry.yml")]
    with (directory / "registry.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        base = f"{'http' if ca is None else 'https'}://{shown}:{port}"
        pair = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {pair}"} if password else {}
        verify = ssl.create_default_context(cafile=str(ca / "ca.crt")) if ca is not None else False
        with httpx.Client(base_url=base, headers=headers, verify=verify, trust_env=False) as client:
            _wait(process, address, port)
            yield Registry(f"{shown}:{port}", client)
    finally:
        process.kill()
        process.wait()


def authority(directory: Path, *names: str) -> Path:
    """A private authority, and its certificate for `names`: the files ca.crt, server.crt and server.key."""
    directory.mkdir()
    alternatives = ",".join(f"{'IP' if name[-1].isdigit() else 'DNS'}:{name}" for name in names)
    openssl = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2")
    signs = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")  # Python 3.13 trusts no authority without
    _run(directory, *openssl, "-subj", "/CN=test authority", *signs, "-keyout", "ca.key", "-out", "ca.crt")
    more = ("-CA", "ca.crt", "-CAkey", "ca.key", "-addext", f"subjectAltName={alternatives}")
    plain = ("-addext", "basicConstraints=critical,CA:FALSE")
    files = ("-keyout", "server.key", "-out", "server.crt")
    _run(directory, *openssl, "-subj", "/CN=registry", *more, *plain, *files)
    return directory


def _run(directory: Path, *command: str) -> None:
    subprocess.run(command, cwd=directory, check=True, capture_output=True, timeout=60)


def _htpasswd(directory: Path) -> Path:
    command = ["htpasswd", "-Bbn", "-C", "4", USER, PASSWORD]
    done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    (directory / "htpasswd").write_bytes(done.stdout)
    return directory / "htpasswd"


def _free_port(address: str) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _wait(process: "subprocess.Popen[bytes]", address: str, port: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((address, port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("the registry does not come up")
