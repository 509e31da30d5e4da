"""`bay serve` as a process, on a real port: how it frames, starts, ends, is killed, and takes over."""

import asyncio
import base64
import json
import logging
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import httpx
import pytest
from server_harness import Json, clear, create, shell, ships, short_dir, within, world
from serving import KEY, WAIT_S, Server, command, environment, read_line, run_to_its_end, serving, talk

from bay.drivers.fake import FakeDriver
from bay.errors import Conflict, DriverUnavailable
from bay.server import logs, main
from bay.server.web.replies import AnswerCut

pytestmark = [pytest.mark.host, pytest.mark.anyio, pytest.mark.long]

AUTH = f"Authorization: Bearer {KEY}\r\n".encode()
TOO_LARGE = (64 << 20) + 1


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    """One server for the tests that leave it as it was."""
    with short_dir() as path, serving(path) as running:
        yield running


def status(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]


# Framing


@pytest.mark.parametrize(
    "begun", [b"GET /health HTTP/1.1\r\nHost: x\r\n", b"POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"]
)  # fmt: skip
@pytest.mark.parametrize("piece", [b"x" * 65536, b"X-A: b\r\n" * 8192], ids=["one", "many"])
def test_headers_and_trailers_without_an_end_are_cut_off(server: Server, begun: bytes, piece: bytes) -> None:
    first = begun + (b"X-A: " if piece[:1] == b"x" else b"")
    with socket.create_connection(("127.0.0.1", server.port), WAIT_S) as link:
        link.sendall(first)
        with pytest.raises(ConnectionError):
            link.sendall(piece * 1000)
    assert talk(server.port, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 200"
    )


def test_a_plain_request_is_answered(server: Server) -> None:
    answer = talk(server.port, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert status(answer) == [200]
    assert b"x-request-id: req-" in answer.lower()
    assert b"\r\nserver:" not in answer.lower()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nhOST: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.0\r\n\r\n",
        b"POST /v1/sandboxes HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/sandboxes HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
        b"POST /v1/sandboxes HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /v1/sandboxes HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Content-Length: -1\r\n\r\n",
        b"POST /v1/sandboxes HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Content-Length: 0x2\r\n\r\n{}",
        b"POST /v1/sandboxes HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Content-Length: 9999999999999999999999\r\n\r\n",
        b"POST /v1/sandboxes HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Transfer-Encoding: identity\r\nContent-Length: 2\r\n\r\n{}",
        b"GET /health HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
        b"GET  /health\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\xff" * 100 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/sandboxes HTTP/1.0\r\nHost: a\r\n" + AUTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/sandboxes HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/sandboxes HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /health HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET http://victim/health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a:81/health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://victim/v1/sandboxes/x/attach HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
    ids=range(26),
)  # fmt: skip
def test_a_request_that_two_readers_could_read_in_two_ways_is_refused(server: Server, head: bytes) -> None:
    smuggled = b"GET /health HTTP/1.1\r\nHost: smuggled\r\n\r\n"
    answer = talk(server.port, head, end=True)
    assert status(answer) == [400], answer
    answered = status(talk(server.port, head + smuggled, end=True))
    assert answered[:1] in ([400], []), "the first is refused"
    with server.client() as client:
        assert client.get("/v1/sandboxes").json()["items"] == []


@pytest.mark.parametrize(
    "head",
    [b"GET http://A/health HTTP/1.1\r\nHost: a\r\n", b"GET http://a:80/health HTTP/1.1\r\nHost: a\r\n"],
)
def test_a_target_that_is_a_whole_url_is_answered_when_it_names_the_host(server: Server, head: bytes) -> None:
    assert status(talk(server.port, head + b"Connection: close\r\n\r\n")) == [200]


def test_what_is_no_request_gets_the_one_error_shape(server: Server) -> None:
    for head in (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"nonsense\r\n\r\n"):
        answer = talk(server.port, head, end=True)
        assert status(answer) == [400]
        error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert error["code"] == "validation_error"
        assert f"x-request-id: {error['request_id']}".encode() in answer.lower()


def test_a_chunked_body_with_a_smuggled_request_behind_it_is_two_requests_at_most(server: Server) -> None:
    head = b"POST /v1/nothing HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Transfer-Encoding: chunked\r\n\r\n"
    answer = talk(server.port, head + b"zz\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n", end=True)
    assert 200 not in status(answer)


@pytest.mark.parametrize(
    "value", [b"chunked, gzip", b"gzip", b"xchunked", b"chunked\x0b", b"chunked, chunked"]
)
def test_transfer_encodings_other_than_chunked_are_refused(server: Server, value: bytes) -> None:
    head = b"POST /v1/sandboxes HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Transfer-Encoding: " + value + b"\r\n\r\n"
    answer = talk(server.port, head + b"2\r\n{}\r\n0\r\n\r\n", end=True)
    assert status(answer)[:1] in ([400], [501], []), answer
    with server.client() as client:
        assert client.get("/v1/sandboxes").json()["items"] == []


def test_a_body_too_large_is_413_before_it_has_come(server: Server) -> None:
    head = b"POST /v1/sandboxes HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Content-Length: %d\r\n\r\n" % TOO_LARGE
    answer = talk(server.port, head)
    assert status(answer) == [413]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "payload_too_large"


def test_a_body_that_grows_too_large_is_413(server: Server) -> None:
    head = b"POST /v1/sandboxes HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), WAIT_S) as link:
        link.sendall(head)
        for _ in range(65):
            link.sendall(chunk)
        assert status(link.recv(65536)) == [413]


def test_a_slow_client_is_served_and_delays_nobody(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), WAIT_S) as slow:
        request = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        for offset in range(0, len(request), 10):
            slow.sendall(request[offset : offset + 10])
            with server.client() as client:
                assert client.get("/health").status_code == 200
        assert status(slow.recv(65536)) == [200]


def test_a_client_that_leaves_in_the_middle_of_its_body_harms_nobody(server: Server) -> None:
    head = b"POST /v1/sandboxes HTTP/1.1\r\nHost: a\r\n" + AUTH + b"Content-Length: 100\r\n\r\n{"
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", server.port), WAIT_S) as link:
            link.sendall(head)
    with server.client() as client:
        assert client.get("/v1/sandboxes").json()["items"] == []


def test_a_path_or_a_header_of_any_length_is_answered(server: Server) -> None:
    with server.client() as client:
        assert client.get("/v1/sandboxes/" + "x" * 30_000).status_code in (400, 404, 414)
        assert client.get("/health", headers={"X-Long": "x" * 30_000}).status_code in (200, 400, 431)
        assert client.get("/health").status_code == 200


# Start and end


def test_it_says_where_it_serves_and_shows_a_new_key_once(root: Path) -> None:
    with serving(root, BAY_API_KEY="") as first:
        key = read_line(first.process).split()[-1]
        assert key.startswith("bay_")
        kept = root / "data" / "admin.key"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert kept.read_text() == f"{key}\n"
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{first.url}/v1/sandboxes", headers=headers).status_code == 200
        assert first.end() == 0
        assert key not in (root / "log").read_text()
    with serving(root, BAY_API_KEY="") as second:
        assert httpx.get(f"{second.url}/v1/sandboxes", headers=headers).status_code == 200
        assert second.end(signal.SIGINT) == 0
        said = [read_line(second.process) for _ in range(4)]
        assert said[0] == f"  export BAY_URL={second.url}\n"
        assert said[1] == f'  export BAY_API_KEY="$(cat {kept})"\n'
        assert said[2].startswith(f"The API is at {second.url}/docs.")
        assert said[3] == ""
        assert not any("shown once" in line or key in line for line in said)


def test_a_new_key_is_not_shown_to_the_journal_which_would_keep_it(root: Path) -> None:
    reading, writing = os.pipe()
    own = os.fstat(writing)
    settings = environment(root, BAY_API_KEY="", JOURNAL_STREAM=f"{own.st_dev}:{own.st_ino}")
    with subprocess.Popen(command(), env=settings, stdout=writing, stderr=subprocess.DEVNULL) as process:
        os.close(writing)
        with os.fdopen(reading) as journal:
            first, second = journal.readline(), journal.readline()
            process.send_signal(signal.SIGTERM)
            rest = journal.read()
    kept = root / "data" / "admin.key"
    assert first.startswith("Bay serves at ")
    assert second == f"API key: in {kept}\n"
    assert kept.read_text().strip() not in rest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_with_its_first_word_ends_it_as_any_later_one(
    root: Path, number: signal.Signals
) -> None:
    with serving(root) as running:
        assert running.end(number) == 0


def complaint(ended: "subprocess.CompletedProcess[str]") -> str:
    """The one line with which it ended."""
    assert ended.returncode == 1, ended
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert "Traceback" not in line
    return line


def test_a_port_that_is_taken_is_one_clear_line(root: Path, server: Server) -> None:
    line = complaint(run_to_its_end(root, "--port", str(server.port)))
    assert str(server.port) in line
    assert "--port" in line
    assert not (root / "data").exists()


def test_a_port_is_taken_from_the_moment_it_is_bound() -> None:
    """SO_REUSEADDR alone would let a second Bay bind it until the first one listens."""
    with main._listen("127.0.0.1", 0) as first, pytest.raises(Conflict, match="--port"):
        main._listen("127.0.0.1", first.getsockname()[1])


def test_the_kernel_asks_silent_clients_whether_they_are_there() -> None:
    with main._listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60


Complain = Callable[..., str]


@pytest.fixture
def complain(
    root: Path, own_logs: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Complain:
    """What `bay serve` does, in this process, since it is expected to end at once; gives its one line."""

    def run(
        host: str | None = None, data_dir: Path | None = None, config: Path | None = None, **extra: str
    ) -> str:
        for name, value in environment(root, BAY_LOG_LEVEL="error", **extra).items():
            if name.startswith("BAY_"):
                monkeypatch.setenv(name, value)
        # Should it serve after all, it is told to end, and the test fails by its exit code.
        alarm = threading.Timer(WAIT_S, os.kill, (os.getpid(), signal.SIGTERM))
        alarm.start()
        code = main.serve(host, None, data_dir, config)
        alarm.cancel()
        said = capsys.readouterr()
        return complaint(subprocess.CompletedProcess([], code, said.out, said.err))

    return run


def test_a_host_that_is_none_is_one_clear_line(complain: Complain) -> None:
    assert "no-such-host.invalid" in complain(host="no-such-host.invalid")


@pytest.mark.parametrize("where", ["file/data", "file"])
def test_a_data_directory_that_cannot_be_is_one_clear_line(
    root: Path, complain: Complain, where: str
) -> None:
    (root / "file").touch()
    assert "--data-dir" in complain(data_dir=root / where)


def test_a_second_bay_on_one_data_directory_is_one_clear_line(root: Path) -> None:
    with serving(root) as first:
        assert "another Bay" in complaint(run_to_its_end(root))
        with first.client() as client:
            assert client.get("/v1/sandboxes").status_code == 200


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"port = ", "TOML"), (b"max_body_mb = 0", "max_body_mb"), (b"\xff\xfe", "TOML"), (b"prot = 1", "prot"),
     (b"[profiles.a]\ncpus = -1", "profiles.a.cpus"), (None, "bay.toml")],
    ids=range(6),
)  # fmt: skip
def test_a_broken_configuration_is_one_clear_line(
    root: Path, complain: Complain, content: bytes | None, says: str
) -> None:
    path = root / "bay.toml"
    if content is not None:
        path.write_bytes(content)
    assert says in complain(config=path)
    assert not (root / "data").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("BAY_PORT", "many"), ("BAY_PROFILES", "{"), ("BAY_DRIVER", "lxd")]
)
def test_a_broken_environment_is_one_clear_line(complain: Complain, name: str, value: str) -> None:
    assert name.removeprefix("BAY_").lower() in complain(**{name: value})


def test_a_damaged_database_is_one_clear_line(root: Path, complain: Complain) -> None:
    (root / "data").mkdir()
    (root / "data" / "bay.db").write_bytes(b"no database" * 1000)
    assert "bay.db" in complain()


def test_a_run_directory_that_cannot_be_is_one_clear_line(root: Path, complain: Complain) -> None:
    (root / "run").touch()
    assert str(root / "run") in complain()


def test_the_address_of_ipv6_is_shown_as_one_can_use_it(root: Path) -> None:
    with serving(root, "--host", "::1") as running:
        assert running.url.startswith("http://[::1]:")
        assert httpx.get(f"{running.url}/health").status_code == 200


# Ending, being killed, and taking over


async def test_sandboxes_outlive_a_graceful_end_and_the_next_bay_takes_them_over(root: Path) -> None:
    try:
        with serving(root) as first:
            made, exec_id = _box_with_a_running_exec(first)
            assert first.end() == 0
        with serving(root) as second, second.client() as client:
            path = f"/v1/sandboxes/{made['id']}"
            assert client.get(path).json()["status"] == "ready"
            (go,) = (root / "data" / "cargo").glob("*/workspace/go")
            go.write_text("two\n")
            ended = client.get(f"{path}/execs/{exec_id}", params={"wait": 15}).json()
            assert (ended["state"], ended["stdout"]) == ("exited", "one\ntwo\n")
            lines = client.get(f"{path}/execs/{exec_id}/output").text.splitlines()
            assert (
                b"".join(base64.b64decode(json.loads(line)["data"]) for line in lines[:-1]) == b"one\ntwo\n"
            )
            assert client.delete(path).status_code == 204
    finally:
        await clear(root)


def _box_with_a_running_exec(server: Server) -> tuple[Json, str]:
    with server.client() as client:
        made = client.post("/v1/sandboxes", params={"wait": 15}).json()
        assert made["status"] == "ready"
        path = f"/v1/sandboxes/{made['id']}/execs"
        ran = client.post(path, json={"command": "mkfifo go; echo one; cat go"}).json()
        client.post(
            f"/v1/sandboxes/{made['id']}/shell/exec", json={"command": "until [ -p go ]; do sleep 0.01; done"}
        )
        return made, ran["id"]


async def test_a_bay_killed_under_a_running_exec_finds_it_again(root: Path) -> None:
    try:
        with serving(root) as first:
            made, exec_id = _box_with_a_running_exec(first)
            first.end(signal.SIGKILL)
        with serving(root) as second, second.client() as client:
            path = f"/v1/sandboxes/{made['id']}/execs/{exec_id}"
            assert client.get(path).json()["state"] == "running"
            assert client.delete(path).json()["state"] == "killed"
    finally:
        await clear(root)


async def test_a_session_that_died_while_bay_was_away_is_noticed_by_the_next(root: Path) -> None:
    try:
        with serving(root) as first:
            made, exec_id = _box_with_a_running_exec(first)
            first.end(signal.SIGKILL)
        await clear(root)
        with serving(root) as second, second.client() as client:
            path = f"/v1/sandboxes/{made['id']}"
            ran = client.post(f"{path}/shell/exec", json={"command": "ls"}).json()
            assert (ran["output"], ran["exit_code"]) == ("go\n", 0)
            assert client.get(f"{path}/execs/{exec_id}").json()["state"] == "lost"
    finally:
        await clear(root)


@pytest.mark.parametrize("step", ["claim", "launch", "ready", "done"])
async def test_a_bay_killed_at_any_step_of_a_start_leaves_one_session_after_the_next_start(
    root: Path, step: str
) -> None:
    try:
        sandbox_id = _killed_at(root, step)
        async with world(root) as bay:
            await bay.settled(sandbox_id, lambda r: r.session is not None and r.session.phase == "running")
            assert await bay.owned() == {(await bay.session(sandbox_id)).id}
            alice = await bay.client()
            assert (await shell(alice, sandbox_id, "echo alive"))["output"] == "alive\n"
            assert await bay.sql("SELECT count(*) FROM sessions") == [(1,)]
            assert len(ships(root)) == 1
            assert (await alice.delete(f"/v1/sandboxes/{sandbox_id}")).status_code == 204
            assert await bay.owned() == set()
        assert ships(root) == []
        assert list((root / "data" / "cargo").glob("ws-*")) == []
    finally:
        await clear(root)


@pytest.mark.parametrize("step", ["launch", "done"])
async def test_what_no_row_owns_is_removed_by_the_next_start(root: Path, step: str) -> None:
    """The rows were lost, say with the disk they were on."""
    try:
        _killed_at(root, step)
        for name in ("bay.db", "bay.db-wal", "bay.db-shm"):
            (root / "data" / name).unlink(missing_ok=True)
        async with world(root) as bay:
            assert await bay.owned() == set()
        assert ships(root) == []
        assert list((root / "data" / "cargo").glob("ws-*")) == []
    finally:
        await clear(root)


def _killed_at(root: Path, step: str) -> str:
    """Let a Bay start a sandbox as far as `step` and kill it there; gives the sandbox's id."""
    program = Path(__file__).parents[2] / "support" / "holding_bay.py"
    process = subprocess.Popen(
        [sys.executable, str(program), str(root), step],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            sandbox_id = read_line(process).strip()
        finally:
            process.kill()
            process.wait(WAIT_S)
    assert sandbox_id.startswith("sandbox-")
    return sandbox_id


async def test_a_bay_that_ends_during_a_start_goes_on_with_it_the_next_time(root: Path) -> None:
    try:
        async with world(root) as first:
            alice = await first.client()
            first.driver.hold_at = "ready"
            made = await create(alice, profile="eager")
            await within(first.driver.held.wait())
        async with world(root) as second:
            await second.settled(made["id"], lambda r: r.session is not None and r.session.phase == "running")
            assert len(await second.owned()) == 1
            assert await second.sql("SELECT count(*) FROM sessions") == [(1,)]
    finally:
        await clear(root)


async def test_a_delete_that_was_not_finished_is_finished_by_the_next_start(root: Path) -> None:
    try:
        async with world(root) as first:
            alice = await first.client()
            made = await create(alice, wait=15)
            first.driver.hold_at = "destroy"
            async with first.bay.store.write() as db:
                await db.exec_driver_sql("UPDATE sandboxes SET target = 'deleted'")
            first.bay.reconciler.queue.put(made["id"])
            await within(first.driver.held.wait())
        async with world(root) as second:
            await second.settled(made["id"], lambda r: r.deleted_at is not None)
            assert await second.owned() == set()
    finally:
        await clear(root)


async def test_a_driver_that_cannot_tell_what_it_owns_is_told_in_one_error_and_nothing_is_touched(
    root: Path,
) -> None:
    driver = FakeDriver(run_dir=root / "run", fail_at="list_owned")
    with pytest.raises(DriverUnavailable):
        async with world(root, driver):
            raise AssertionError("it started")


def test_a_signal_ends_it_also_while_a_client_follows_output(root: Path) -> None:
    with serving(root) as running, running.client() as client:
        made = client.post("/v1/sandboxes", params={"wait": 15}).json()
        path = f"/v1/sandboxes/{made['id']}/execs"
        ran = client.post(path, json={"command": "echo one; sleep 1000"}).json()
        with client.stream("GET", f"{path}/{ran['id']}/output", params={"follow": "true"}) as answer:
            items = answer.iter_lines()
            next(items)
            began = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            follower = threading.Thread(target=_drain, args=(items,))
            follower.start()
            assert running.process.wait(WAIT_S) == 0
            assert time.monotonic() - began < 12
            follower.join(WAIT_S)
    assert len(ships(root)) == 1  # and the sandbox goes on
    asyncio.run(clear(root))
    assert ships(root) == []


def _drain(items: Iterator[str]) -> None:
    try:
        for _ in items:
            pass
    except httpx.HTTPError:
        return


def test_an_answer_that_is_cut_on_purpose_is_no_error_in_the_log(
    own_logs: None, caplog: pytest.LogCaptureFixture
) -> None:
    logs.configure("info", "json")
    for error, logged in ((AnswerCut("the sandbox is gone"), 0), (ZeroDivisionError(), 1)):
        caplog.clear()
        logging.getLogger("uvicorn.error").error("Exception in ASGI application", exc_info=error)
        assert len(caplog.records) == logged


@pytest.mark.parametrize("stderr", [">(:)", "/dev/full"], ids=["whose reader has gone", "on a full disk"])
def test_a_log_that_cannot_be_written_fails_no_call(root: Path, stderr: str) -> None:
    through = ["bash", "-c", f'exec "$@" 2>{" " if stderr[0] == ">" else ""}{stderr}', "bash"]
    with serving(root, through=through, BAY_LOG_LEVEL="debug") as server, server.client() as client:
        for _ in range(3):
            assert client.get("/v1/sandboxes").status_code == 200
        made = client.post("/v1/sandboxes", params={"wait": WAIT_S}).json()
        assert client.delete(f"/v1/sandboxes/{made['id']}").status_code == 204
        assert server.end() == 0
