"""A real object store with the S3 API, SeaweedFS, for the tests, and a proxy before it that injects faults.

The server listens on loopback alone. It ends with this process, also when that is killed. A bucket is made
for each test. `bay` may use that bucket only, as a careful operator would have it.
"""

import atexit
import contextlib
import ctypes
import http.client
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

WAIT_S = 90.0
ACCESS, SECRET = "bay-access", "bay-secret-0123456789"
_ROOT, _ROOT_SECRET = "root-access", "root-secret-0123456789"
_PR_SET_PDEATHSIG = 1
_PROGRAM = Path(sys.executable).with_name("weed")
_IN_MEMORY = Path("/dev/shm")
_NUMBERS = itertools.count(1)

Json = dict[str, Any]


class ObjectServer:
    """A server that runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        names = ("master", "volume", "filer", "s3")
        free = iter(_free_ports(2 * len(names)))
        self._ports = {name: (next(free), next(free)) for name in names}
        self.port = self._ports["s3"][0]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        (directory / "data").mkdir()
        self.admin: Any = client(self.endpoint, _ROOT, _ROOT_SECRET)

    def start(self) -> None:
        """Start it, also again after `kill`, and return once it takes objects."""
        actions = ["Read", "Write", "List", "Tagging"]
        people = [
            {"name": "root", "credentials": [_pair(_ROOT, _ROOT_SECRET)], "actions": ["Admin"]},
            {
                "name": "bay",
                "credentials": [_pair(ACCESS, SECRET)],
                "actions": [f"{a}:bay-*" for a in actions],
            },
        ]
        config = self.directory / "s3.json"
        config.write_text(json.dumps({"identities": people}))
        ports = [
            part
            for name, (port, grpc) in self._ports.items()
            for part in (f"-{name}.port={port}", f"-{name}.port.grpc={grpc}")
        ]
        command = [
            str(_PROGRAM), "server", f"-dir={self.directory / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *ports,
            "-filer", "-s3", f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false",
            "-master.telemetry=false", "-master.volumeSizeLimitMB=64",
            "-volume.max=20000",  # each bucket takes seven
        ]  # fmt: skip
        libc = ctypes.CDLL(None)
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={"PATH": os.defpath, "HOME": str(self.directory)},
                start_new_session=True,
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
            )
        self._wait_until_ready(self._process)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def bucket(self) -> str:
        """A new bucket that `bay` may use."""
        name = f"bay-{os.getpid()}-{next(_NUMBERS)}"
        self.admin.create_bucket(Bucket=name)
        return name

    def settings(self, bucket: str, **given: Any) -> Json:
        """The settings of a Bay that uses it."""
        values = {"url": f"s3://{bucket}/some/prefix", "endpoint": self.endpoint, "region": "us-east-1"}
        return {**values, "access_key_id": ACCESS, "secret_access_key": SECRET, "timeout": 5, **given}

    def objects(self, bucket: str) -> dict[str, int]:
        """Sizes of all objects, by key."""
        pages = self.admin.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {one["Key"]: one["Size"] for page in pages for one in page.get("Contents", ())}

    def read(self, bucket: str, key: str) -> bytes:
        return self.admin.get_object(Bucket=bucket, Key=key)["Body"].read()

    def write(self, bucket: str, key: str, data: bytes) -> None:
        self.admin.put_object(Bucket=bucket, Key=key, Body=data)

    def remove(self, bucket: str, key: str) -> None:
        self.admin.delete_object(Bucket=bucket, Key=key)

    def _wait_until_ready(self, process: "subprocess.Popen[bytes]") -> None:
        ends_at = time.monotonic() + WAIT_S
        while time.monotonic() < ends_at and process.poll() is None:
            with contextlib.suppress(BotoCoreError, ClientError):
                if self.admin.list_buckets()["ResponseMetadata"]["HTTPStatusCode"] == 200:
                    name = "bay-ready"
                    with contextlib.suppress(ClientError):  # it is there since the start before
                        self.admin.create_bucket(Bucket=name)
                    self.write(name, "x", b"x")
                    assert self.read(name, "x") == b"x"
                    return
            time.sleep(0.05)
        raise AssertionError((self.directory / "log").read_text(errors="replace")[-4000:])


def client(endpoint: str, access: str, secret: str) -> Any:
    """A client of boto3 that retries nothing."""
    config = Config(
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"},
        connect_timeout=5,
        read_timeout=20,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    session: Any = boto3.Session()
    return session.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        config=config,
    )


@contextlib.contextmanager
def running() -> Generator[ObjectServer]:
    """A server in the block, and nothing of it afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="bay-s3-", dir=_IN_MEMORY if _IN_MEMORY.is_dir() else "/tmp"))
    server = ObjectServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(directory, ignore_errors=True)


@cache
def shared() -> ObjectServer:
    """The server of this process, which ends with it."""
    held, own = running(), os.getpid()
    server = held.__enter__()

    def end() -> None:
        if os.getpid() == own:  # and in no process that was forked from it
            held.__exit__(None, None, None)

    atexit.register(end)
    return server


Fault = Callable[[str, str], str | None]
"""What happens to a request, by its method and path: None for nothing, or one of

    500, 503   that status instead of an answer        stall   no answer
    cut        half of the body of the answer, or the connection is closed once the request's body is here
"""


class FaultyFront:
    """A proxy before the server."""

    def __init__(self, server: ObjectServer) -> None:
        self.fault: Fault = lambda method, path: None
        self.seen: list[tuple[str, str]] = []
        self.let_go = threading.Event()
        self._to = server.port
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, method: str, part: str) -> int:
        """How many requests of that method had that in their path."""
        return sum(seen == method and part in path for seen, path in self.seen)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 — the base class calls it so
                pass

            def handle_expect_100(self) -> bool:
                return super().handle_expect_100()

            def do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                front.seen.append((self.command, self.path))
                fault = front.fault(self.command, self.path)
                if fault == "stall":
                    front.let_go.wait(WAIT_S)
                    self.close_connection = True
                elif fault in ("500", "503"):
                    self._answer(int(fault), {}, b"")
                elif fault == "cut" and self.command == "PUT":
                    self.close_connection = True
                else:
                    self._pass(body, is_cut=fault == "cut")

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = do

            def _pass(self, body: bytes, *, is_cut: bool) -> None:
                upstream = http.client.HTTPConnection("127.0.0.1", front._to, timeout=WAIT_S)
                try:
                    upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        if name.lower() != "expect":
                            upstream.putheader(name, value)
                    upstream.endheaders(body)
                    answer = upstream.getresponse()
                    data = answer.read()
                except (OSError, http.client.HTTPException):
                    self.close_connection = True
                    return
                finally:
                    upstream.close()
                skipped = {"content-length", "transfer-encoding", "connection", "date", "server"}
                kept = {name: value for name, value in answer.getheaders() if name.lower() not in skipped}
                self._answer(answer.status, kept, data, is_cut=is_cut)

            def _answer(
                self, status: int, headers: dict[str, str], data: bytes, *, is_cut: bool = False
            ) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data[: len(data) // 2] if is_cut else data)
                if is_cut:
                    self.close_connection = True

        return Handler


@contextlib.contextmanager
def faulty(server: ObjectServer) -> Generator[FaultyFront]:
    """A proxy before the server, in the block."""
    front = FaultyFront(server)
    try:
        yield front
    finally:
        front.close()


def _pair(access: str, secret: str) -> dict[str, str]:
    return {"accessKey": access, "secretKey": secret}


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
