"""A Ship like a pod's: it starts without a secret that lasts, is reached over TLS, and has no more rights
than its programs.
"""

import hashlib
import json
import os
import signal
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from ship_harness import (
    BOOTSTRAP_TOKEN,
    PATIENCE_S,
    SOURCE,
    TOKEN,
    FirstShip,
    Ship,
    any_certificate,
    configure,
    connect_tcp,
    connect_tls,
    eventually,
    read_to_end,
    running,
    waiting,
)

from ship_protocol import BOOTSTRAP_BYTES, hello_proof

pytestmark = pytest.mark.host

NONCE = "5f" * 32


@pytest.fixture(scope="module")
def ship() -> Iterator[Ship]:
    """One Ship for the tests that do not harm it."""
    with running(pod=True) as found:
        yield found


def asked(address: str, method: str, target: str, **more: Any) -> httpx.Response:
    with httpx.Client(verify=any_certificate(), timeout=PATIENCE_S) as client:
        return client.request(method, f"https://{address}{target}", **more)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def certificate_of(address: str) -> str:
    with connect_tls(address) as link:
        der = link.getpeercert(binary_form=True)
    assert der is not None
    return hashlib.sha256(der).hexdigest()


# Before it has settings


def test_it_proves_that_it_knows_its_token_for_the_certificate_that_it_shows() -> None:
    with waiting() as (_, address):
        answer = asked(address, "GET", f"/hello?nonce={NONCE}")
        assert answer.json() == {"proof": hello_proof(BOOTSTRAP_TOKEN, NONCE, certificate_of(address))}
        other = asked(address, "GET", f"/hello?nonce={'60' * 32}")
        assert other.json() != answer.json()


@pytest.mark.parametrize("nonce", ["", "5f" * 15, "5f" * 65, "5F" * 32, "xy" * 32])
def test_a_nonce_that_is_none_is_refused(nonce: str) -> None:
    with waiting() as (_, address):
        assert code(asked(address, "GET", f"/hello?nonce={nonce}")) == (400, "validation_error")


def test_it_answers_nothing_else_before_it_has_settings() -> None:
    with waiting() as (_, address):
        for method, target in (
            ("GET", "/healthz"),
            ("GET", "/meta"),
            ("POST", "/execs"),
            ("PUT", "/bootstrap"),
        ):
            answer = asked(address, method, target, headers={"Authorization": f"Bearer {TOKEN}"})
            assert code(answer) == (404, "not_found")
            assert "X-Ship-Session" not in answer.headers


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"SHIP_TOKEN": TOKEN, "SHIP_LOCAL": "1"}, "SHIP_LOCAL"),
        ({"SHIP_TOKEN": TOKEN, "SHIP_SOCKET": "/tmp/x"}, "SHIP_SOCKET"),
        ({"SHIP_TOKEN": TOKEN, "PATH": "/"}, "PATH"),
        ({"SHIP_WORKSPACE": "/workspace"}, "SHIP_TOKEN"),
        ({"SHIP_TOKEN": ""}, "invalid value"),
        ({"SHIP_TOKEN": 1}, "SHIP_TOKEN"),
        ({"SHIP_TOKEN": TOKEN, "SHIP_ENV": "[1]"}, "invalid value"),
        ({"SHIP_TOKEN": TOKEN, "SHIP_KERNEL_ENV": "{" * 5}, "invalid value"),
        ({"SHIP_TOKEN": TOKEN, "SHIP_GROUPS": "x"}, "invalid value"),
    ],
)
def test_unusable_settings_are_refused_by_name_and_others_may_follow(
    settings: dict[str, Any], said: str
) -> None:
    with waiting() as (process, address):
        refused = configure(address, settings)
        assert code(refused) == (400, "validation_error")
        assert said in refused.json()["error"]["message"]
        assert TOKEN not in refused.text
        assert configure(address, {"SHIP_TOKEN": TOKEN, "SHIP_WORKSPACE": "/tmp"}).status_code == 200
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"


def test_another_token_than_its_own_configures_nothing() -> None:
    with waiting() as (_, address):
        for token in ("x", TOKEN):
            assert code(configure(address, {"SHIP_TOKEN": "theirs"}, token)) == (403, "forbidden")
        assert asked(address, "GET", f"/hello?nonce={NONCE}").status_code == 200


def test_settings_come_once(ship: Ship) -> None:
    assert code(configure(ship.address, {"SHIP_TOKEN": "theirs"})) == (403, "forbidden")
    assert asked(ship.address, "GET", f"/hello?nonce={NONCE}").status_code == 403
    as_bay = ship.http.post("/bootstrap", json={"SHIP_TOKEN": "theirs"})
    assert code(as_bay) == (404, "not_found")
    assert ship.http.get("/healthz").json() == {"status": "ok"}


def test_a_body_beyond_the_bound_is_refused_and_one_without_the_token_is_not_read() -> None:
    with waiting() as (_, address):
        large = {"SHIP_TOKEN": TOKEN, "SHIP_ENV": json.dumps({"X": "x" * BOOTSTRAP_BYTES})}
        with suppress(httpx.HTTPError):  # it may close before all is sent
            assert code(configure(address, large)) == (413, "payload_too_large")
        with connect_tls(address) as raw:
            raw.sendall(b"POST /bootstrap HTTP/1.1\r\nHost: ship\r\nContent-Length: 4000000\r\n\r\n")
            assert raw.recv(4096).startswith(b"HTTP/1.1 403 ")
        assert asked(address, "GET", f"/hello?nonce={NONCE}").status_code == 200


def test_it_speaks_tls_1_3_and_nothing_else() -> None:
    with waiting() as (_, address):
        older = any_certificate(ssl.TLSVersion.TLSv1_2)
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        with connect_tcp(address) as raw, pytest.raises(ssl.SSLError):
            older.wrap_socket(raw)
        with connect_tcp(address) as raw:
            raw.sendall(f"GET /hello?nonce={NONCE} HTTP/1.1\r\nHost: ship\r\n\r\n".encode())
            assert b"HTTP" not in read_to_end(raw)
        with connect_tls(address) as made:
            assert made.version() == "TLSv1.3"


def test_a_thousand_connections_that_say_nothing_do_not_keep_bay_out() -> None:
    with waiting() as (process, address), ExitStack() as open_ones:
        for number in range(1000):
            raw = open_ones.enter_context(connect_tcp(address))
            if number % 4 == 0:
                raw.sendall(b"\x16\x03\x01")  # the beginning of a handshake
        assert eventually(lambda: asks(address))
        child = FirstShip(process, Path(), Path(), "", address).pid
        assert len(os.listdir(f"/proc/{child}/fd")) < 120


def asks(address: str) -> bool:
    """Whether it answers; one of many strangers may be shown out."""
    try:
        return asked(address, "GET", f"/hello?nonce={NONCE}").status_code == 200
    except (httpx.HTTPError, OSError):
        return False


def test_a_half_open_connection_is_closed_in_a_while() -> None:
    with waiting() as (_, address), connect_tcp(address) as silent, connect_tls(address) as shaken:
        shaken.sendall(b"GET /hello")
        silent.settimeout(PATIENCE_S)
        assert read_to_end(silent) == b""
        shaken.settimeout(PATIENCE_S)
        with suppress(ssl.SSLError):
            assert read_to_end(shaken) == b""


def test_it_ends_when_it_is_told_to_before_it_has_settings() -> None:
    with waiting() as (process, address):
        os.kill(FirstShip(process, Path(), Path(), "", address).pid, signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0


# Its programs


def test_programs_cannot_end_ship(ship: Ship) -> None:
    for name in ("TERM", "INT", "KILL", "STOP", "HUP", "QUIT", "USR1", "ABRT", "SEGV"):
        ship.run(f"kill -{name} 1")
    queued = textwrap.dedent(f"""
        import ctypes, struct
        libc = ctypes.CDLL(None, use_errno=True)
        # struct siginfo: a number, an error, SI_QUEUE, and the pid 0 of a sender outside
        info = ctypes.create_string_buffer(struct.pack("iiiiiI", 15, 0, -1, 0, 0, 0), 128)
        number = {{"x86_64": 129, "aarch64": 138}}["{os.uname().machine}"]
        print(libc.syscall(number, 1, 15, info))
    """)
    assert ship.run(["python3", "-c", queued]).out == "0\n"
    assert ship.run("echo still").out == "still\n"
    assert ship.process.poll() is None


def test_programs_cannot_read_ship(ship: Ship) -> None:
    for path in ("environ", "maps", "mem", "fd/1", "stack", "auxv"):
        ended = ship.run(f"head -c 1 /proc/1/{path}")
        assert (ended.out, ended.code) == ("", 1), path
    assert ship.run("ls /proc/1/fd").code != 0


def test_programs_see_no_secret_and_no_address_of_the_cluster(ship: Ship) -> None:
    seen = ship.run("env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'").out
    assert "SHIP_EXEC_ID=" in seen
    for secret in (TOKEN, BOOTSTRAP_TOKEN, "KUBERNETES_", "SHIP_LISTEN", "SHIP_SWITCH"):
        assert secret not in seen


def test_a_program_that_connects_to_ship_without_its_token_learns_nothing(ship: Ship) -> None:
    program = textwrap.dedent(f"""
        import socket, ssl
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        raw = socket.create_connection(("127.0.0.1", {ship.address.rpartition(":")[2]}))
        link = context.wrap_socket(raw)
        link.sendall(b"GET /meta HTTP/1.1\\r\\nHost: ship\\r\\n\\r\\n")
        print(link.recv(4096).decode())
    """)
    said = ship.run(["python3", "-c", program]).out
    assert said.startswith("HTTP/1.1 403 ")
    assert "x-ship-session" not in said.lower()


def test_programs_run_as_the_one_user_and_die_before_ship_for_want_of_memory(ship: Ship) -> None:
    own = int(Path(f"/proc/{ship.pid}/oom_score_adj").read_text())
    assert ship.run("id -u; id -G; cat /proc/self/oom_score_adj").out.split() == [
        "1000", "1000", str(max(500, own + 2))
    ]  # fmt: skip
    for user in ("root", "0", "nobody", "1001"):
        answer = ship.http.post("/execs", json={"id": f"exec-as-{user}", "command": "id", "user": user})
        assert answer.status_code in (400, 403)
        assert "one user" in answer.json()["error"]["message"]
    assert ship.http.get("/meta").json()["exec_trees"] == "best_effort"


def test_the_score_of_a_crowded_node_leaves_a_little_room() -> None:
    lowered = ("sh", "-c", 'echo 998 > /proc/self/oom_score_adj; exec "$@"', "sh")
    with running(pod=True, before=lowered) as found:
        assert found.run("cat /proc/self/oom_score_adj").out == "1000\n"
        assert Path(f"/proc/{found.pid}/oom_score_adj").read_text() == "998\n"


def test_an_exec_ends_with_its_descendants_and_sessions(ship: Ship) -> None:
    exec_id = ship.start("setsid sleep 1000 & (setsid sh -c 'sleep 1001 & wait' &); echo on; sleep 1002")
    ship.wait_output(exec_id, "on")
    assert ship.http.delete(f"/execs/{exec_id}").status_code == 200
    commands = [found["command"] for found in ship.http.get("/shell/processes").json()["processes"]]
    assert not [command for command in commands if "sleep" in command]


def test_ship_s_own_port_is_none_of_the_sandbox(ship: Ship) -> None:
    port = int(ship.address.rpartition(":")[2])
    assert port not in [found["port"] for found in ship.http.get("/ports").json()["items"]]
    headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
    answer = ship.http.get("/tunnel", params={"port": str(port)}, headers=headers)
    assert code(answer) == (502, "port_closed")


def test_strangers_do_not_keep_bay_out_once_it_has_its_settings(ship: Ship) -> None:
    with ExitStack() as open_ones:
        for _ in range(300):
            open_ones.enter_context(connect_tcp(ship.address))
        assert eventually(lambda: answers(ship))
        assert ship.http.get("/healthz").status_code == 200  # on a connection that is kept


def answers(ship: Ship) -> bool:
    with suppress(httpx.HTTPError, OSError), ship.client(TOKEN) as client:
        return client.get("/healthz").status_code == 200
    return False


def test_it_ends_in_good_order_when_it_is_told_to_from_outside() -> None:
    with running(pod=True) as found:
        exec_id = found.start("trap 'echo ending; exit 3' TERM; echo on; while :; do sleep 0.1; done")
        found.wait_output(exec_id, "on")
        os.kill(found.pid, signal.SIGTERM)
        assert found.process.wait(PATIENCE_S) == 0


def test_without_an_address_no_tls_is_loaded() -> None:
    program = textwrap.dedent("""
        import sys
        from ship import app, startup
        loaded = {name for name, module in sys.modules.items() if module}
        print(sorted(loaded & {"_ssl", "ssl", "ship.tls", "ship.pod", "ship_protocol.tls"}))
    """)
    environment = {"PYTHONPATH": str(SOURCE), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", "from ship import startup\n" + program]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("[]\n", "")
