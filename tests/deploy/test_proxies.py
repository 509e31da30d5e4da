"""The examples of deploy/ for nginx and Caddy, with a real one in front of a real Bay."""

import json
import os
import socket
import ssl
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import proxies
import pytest
from proxies import DOMAIN, Place
from registry import authority
from serving import KEY, Server, serving

import bay

pytestmark = pytest.mark.docs

CLIENT = "127.0.0.2"
"""The address that clients have here: loopback too, and not that of the proxy."""
FORGED = {
    "X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "evil.example",
    "Forwarded": "for=6.6.6.6;host=evil.example", "X-Real-IP": "6.6.6.6",
}  # fmt: skip
MORE_THAN_NGINX_TAKES = 3 << 20
KEYED = {"Authorization": f"Bearer {KEY}"}


class SeenHeaders(BaseHTTPRequestHandler):
    """An app that answers with the headers it got, and with orders to a proxy. At `/stream` it says one line,
    and waits for its client to leave.
    """

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path == "/stream":
            self.end_headers()
            self.wfile.write(b"one\n")
            with suppress(ConnectionResetError):
                self.rfile.read(1)
            assert isinstance(self.server, HeadersApp)
            self.server.left.set()
            return
        body = json.dumps(dict(self.headers.items())).encode()
        for name, value in (("Content-Length", str(len(body))), ("X-Accel-Redirect", "/v1/sandboxes")):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """A test has no log."""


class HeadersApp(ThreadingHTTPServer):
    """It listens at a free port. A sandbox of the driver `fake` has this host's network."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SeenHeaders)
        self.left = threading.Event()


@pytest.fixture(scope="module")
def app() -> Generator[HeadersApp]:
    with HeadersApp() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True, slots=True)
class Front:
    """A proxy in front of a Bay with the sandbox `web`."""

    ports: proxies.Ports
    trust: ssl.SSLContext
    box: bay.Box

    def http(self, host: str = DOMAIN) -> httpx.Client:
        """A client of its own, from another address."""
        transport = httpx.HTTPTransport(verify=self.trust, local_address=CLIENT)
        return httpx.Client(transport=transport, base_url=f"https://{host}:{self.ports.https}", timeout=60)


@pytest.fixture(scope="module")
def ports() -> proxies.Ports:
    return proxies.free_ports()


@pytest.fixture(scope="module")
def certificate() -> Generator[Path]:
    with tempfile.TemporaryDirectory(prefix="bay-p-", dir="/tmp") as root:
        yield authority(Path(root, "ca"), DOMAIN, f"*.{DOMAIN}")


@pytest.fixture(scope="module")
def server(ports: proxies.Ports) -> Generator[Server]:
    """One Bay for both proxies, which listen at the same place one after the other."""
    with (
        tempfile.TemporaryDirectory(prefix="bay-p-", dir="/tmp") as root,
        serving(Path(root), BAY_PUBLIC_URL=f"https://{DOMAIN}:{ports.https}") as made,
    ):
        yield made
        with bay.Client(made.url, KEY) as client:
            for info in client.sandboxes.list():
                client.sandboxes.get(info.id).delete()


@pytest.fixture(scope="module", autouse=True)
def names() -> Iterator[None]:
    """Every name below the domain leads here, as its wildcard record would lead to the proxy."""
    asked = socket.getaddrinfo

    def answered(host: Any, *rest: Any, **named: Any) -> Any:
        return asked("127.0.0.1" if str(host).endswith(DOMAIN) else host, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", answered)
        yield


@pytest.fixture(scope="module", params=sorted(proxies.COMMANDS))
def front(
    request: pytest.FixtureRequest, ports: proxies.Ports, certificate: Path, server: Server
) -> Generator[Front]:
    folder = certificate.parent / request.param
    trust = ssl.create_default_context(cafile=str(certificate / "ca.crt"))
    with (
        proxies.proxy(request.param, Place(folder, ports, server.port, certificate)),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("SSL_CERT_FILE", str(certificate / "ca.crt"))
        with bay.Client(f"https://{DOMAIN}:{ports.https}", KEY) as client:
            yield Front(ports, trust, client.sandboxes.get_or_create("web"))


def test_http_leads_to_https(front: Front) -> None:
    answer = httpx.get(f"http://127.0.0.1:{front.ports.http}/v1/x?y=1", headers={"Host": DOMAIN}, timeout=60)
    assert answer.status_code in (301, 308)
    assert answer.headers["Location"].startswith(f"https://{DOMAIN}")
    assert answer.headers["Location"].endswith("/v1/x?y=1")


def test_a_file_passes_that_is_larger_than_proxies_take_by_default(front: Front) -> None:
    data = os.urandom(MORE_THAN_NGINX_TAKES)
    front.box.files.write("large", data)
    assert front.box.files.read("large") == data


def test_output_arrives_while_the_command_runs(front: Front) -> None:
    script = "echo one; read line; echo $line"
    begun = front.box.spawn(["sh", "-c", script], stdin_open=True)
    path = f"/v1/sandboxes/{front.box.id}/execs/{begun.id}"
    with front.http() as http, http.stream("GET", f"{path}/output?follow=true", headers=KEYED) as output:
        lines = output.iter_lines()
        first = next(line for line in lines if line)
        begun.write(b"two\n")  # it waits for this: so the first line came before the end
        rest = [line for line in lines if line]
    assert "b25lCg==" in first
    assert any("dHdvCg==" in line for line in rest)


def test_a_terminal_is_attached_through_a_websocket(front: Front) -> None:
    with front.box.terminal() as terminal:
        terminal.write(b"echo a-$((6 * 7))\nexit\n")
        said = b"".join(chunk.data for chunk in terminal)
    assert b"a-42" in said


def test_an_app_has_a_host_name_and_sees_the_client_that_asks_and_not_what_it_claims(
    front: Front, app: HeadersApp
) -> None:
    port = app.server_address[1]
    with front.http(f"{port}-web.{DOMAIN}") as http:
        answer = http.get("/", headers={**KEYED, **FORGED})
        assert answer.status_code == 200, answer.text
        seen = {name.lower(): value for name, value in answer.json().items()}
        assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == (CLIENT, "https")
        assert seen["x-forwarded-host"] == seen["host"] == f"{port}-web.{DOMAIN}:{front.ports.https}"
        assert not {"forwarded", "x-real-ip"} & {*seen}
        assert "6.6.6.6" not in answer.text
        assert "evil" not in answer.text


def test_a_client_that_leaves_a_stream_is_gone_for_the_app_too(front: Front, app: HeadersApp) -> None:
    app.left.clear()
    with (
        front.http(f"{app.server_address[1]}-web.{DOMAIN}") as http,
        http.stream("GET", "/stream", headers=KEYED) as answer,
    ):
        assert next(answer.iter_lines()) == "one"
    assert app.left.wait(60)


def test_a_host_name_of_others_does_not_reach_bay(front: Front) -> None:
    with front.http() as http:
        answer = http.get("/v1/sandboxes", headers={**KEYED, "Host": "evil.example"})
    assert "items" not in answer.text
