"""What a killed program leaves is gone after a while, and what a living one has stays: the leases of
`client.sandbox()`.
"""

import os
import signal
import subprocess
import sys
import threading
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

import bay
from bay.client import _lease
from bay.client._config import resolve
from bay.ids import new_id

LEAVES = """
import sys, bay
with bay.Client() as client, client.sandbox(name="leak") as box:
    print(box.id, flush=True)
    sys.stdin.read()
"""


def expires_at(box: bay.Box) -> datetime:
    found = box.refresh().expires_at
    assert found is not None
    return found


def until_renewed(box: bay.Box, since: datetime) -> datetime:
    """When it expires once that is later than `since`."""
    waiting = threading.Event()
    for _ in range(200):
        if (found := expires_at(box)) > since:
            return found
        waiting.wait(0.05)
    raise AssertionError(f"it still expires at {since}")


def test_a_killed_program_leaves_a_sandbox_that_expires(client: bay.Client, served: tuple[str, str]) -> None:
    env = {**os.environ, "BAY_URL": served[0], "BAY_API_KEY": served[1]}
    command = [sys.executable, "-c", LEAVES]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        box = client.sandboxes.get(program.stdout.readline().decode().strip())
        program.send_signal(signal.SIGKILL)
    with box:
        lives = expires_at(box) - box.info.created_at
        assert lives == timedelta(seconds=_lease.LEASE_S)


def test_a_block_that_lasts_renews_its_sandbox(client: bay.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lease, "RENEW_S", 1.0)
    with client.sandbox() as box, client.sandbox() as other:
        first = expires_at(box)
        second = until_renewed(box, first)
        third = until_renewed(box, second)
        assert third - first < timedelta(seconds=20)  # by what has passed, and no more
        until_renewed(other, expires_at(other))
    assert not [thread for thread in threading.enumerate() if thread.name == "bay-leases" and _lives(thread)]


def _lives(thread: threading.Thread) -> bool:
    thread.join(10)
    return thread.is_alive()


class Unwell(BaseHTTPRequestHandler):
    """A Bay that is busy once."""

    asked: ClassVar[list[bytes]] = []
    renewed = threading.Event()

    def do_POST(self) -> None:
        self.asked.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(503 if len(self.asked) == 1 else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if len(self.asked) > 1:
            self.renewed.set()


def test_a_renewal_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lease, "RENEW_S", 0.1)
    monkeypatch.setattr(_lease, "_AGAIN_S", 0.1)
    with ThreadingHTTPServer(("127.0.0.1", 0), Unwell) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        leases = _lease.Leases(resolve(f"http://127.0.0.1:{server.server_port}", "k", 1, 1))
        with leases.holding(new_id("sandbox"), _lease.lease_now()):
            assert Unwell.renewed.wait(10)
        server.shutdown()
    assert Unwell.asked[:2] == [b'{"extend_by": 1}'] * 2


class Choosy(BaseHTTPRequestHandler):
    """A Bay that knows one sandbox, and has too much to do when that is asked for first."""

    known: ClassVar[str] = new_id("sandbox")
    asked: ClassVar[list[bool]] = []
    refused, renewed = threading.Event(), threading.Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        is_known = self.known in self.path
        self.asked.append(is_known)
        code, status = ("quota_exceeded", 429) if is_known else ("not_found", 404)
        is_good = self.asked.count(True) > 1
        body = b"" if is_good else b'{"error": {"code": "%s", "message": "no"}}' % code.encode()
        self.send_response(200 if is_good else status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        (self.renewed if is_good else self.refused).set()


def test_a_sandbox_that_is_gone_costs_no_other_its_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lease, "RENEW_S", 0.1)
    monkeypatch.setattr(_lease, "_AGAIN_S", 0.1)
    with ThreadingHTTPServer(("127.0.0.1", 0), Choosy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        leases = _lease.Leases(resolve(f"http://127.0.0.1:{server.server_port}", "k", 1, 1))
        with leases.holding(new_id("sandbox"), _lease.lease_now()):
            assert Choosy.refused.wait(10)
            [thread] = [one for one in threading.enumerate() if one.name == "bay-leases"]
            thread.join(0.5)  # it goes on, with nothing to do
            assert thread.is_alive()
            with leases.holding(Choosy.known, _lease.lease_now()):
                assert Choosy.renewed.wait(10)
        server.shutdown()
    assert Choosy.asked.count(False) == 1


def test_a_ttl_that_is_named_is_kept(client: bay.Client) -> None:
    with client.sandbox(ttl=0) as box:
        assert box.info.expires_at is None
    with client.sandbox(ttl=77) as box:
        assert expires_at(box) - box.info.created_at == timedelta(seconds=77)


@pytest.mark.anyio
async def test_the_async_client_renews_too(
    served: tuple[str, str], client: bay.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lease, "RENEW_S", 1.0)
    async with bay.AsyncClient(*served) as made, made.sandbox() as box:
        seen = client.sandboxes.get(box.id)
        until_renewed(seen, expires_at(seen))  # which holds up the event loop
