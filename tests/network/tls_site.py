"""An HTTPS server in a place of the world, with an authority of its own, which tells what came."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from world import Place

_SIGNS = x509.KeyUsage(
    key_cert_sign=True, crl_sign=False, digital_signature=False, content_commitment=False, key_encipherment=False,
    data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
)  # fmt: skip


@dataclass(slots=True)
class TlsSite:
    """The server: the requests that came, each as its line and its headers."""

    trust: Path
    came: list[tuple[str, list[tuple[str, str]]]] = field(
        default_factory=list[tuple[str, list[tuple[str, str]]]]
    )

    def values(self, header: str) -> list[str]:
        """What a header was in each request that had it."""
        return [value for _, pairs in self.came for name, value in pairs if name.lower() == header.lower()]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: TlsSite

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the library names it
        """Say nothing."""

    def do_GET(self) -> None:
        self.site.came.append((self.requestline, list(self.headers.items())))
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self._websocket()
        elif self.path == "/stream":
            self._stream()
        elif self.path == "/dies":
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        else:
            self._answer(b"hello\n")

    def do_POST(self) -> None:
        self.site.came.append((self.requestline, list(self.headers.items())))
        self._answer(str(len(self._body())).encode())

    do_PUT, do_TRACE, do_HEAD = do_POST, do_GET, do_GET

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Alt-Svc", 'h3=":443"')
        self.send_header("X-Seen", "yes")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(3):
            piece = json.dumps([number, time.time()]).encode() + b"\n"
            self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.flush()
            time.sleep(0.4)
        self.wfile.write(b"0\r\n\r\n")

    def _websocket(self) -> None:
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", "x")
        self.end_headers()
        self.close_connection = True
        while data := self.connection.recv(1024):
            self.connection.sendall(data.upper())


@contextmanager
def tls_site(
    place: Place, address: str, names: list[str], directory: Path, port: int = 443, stem: str = "site"
) -> Generator[TlsSite]:
    """Serve `names` at a new public address of `place`."""
    place.ip(f"addr replace {address}/32 dev lo")
    site = TlsSite(directory / f"{stem}-ca.pem")
    chain = directory / f"{stem}.pem"
    _make(names, site.trust, chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    context.set_alpn_protocols(["http/1.1"])
    handler = type("Handler", (_Handler,), {"site": site})

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Clients of these tests leave as they like."""

        def finish_request(self, request: Any, client_address: Any) -> None:
            request.settimeout(30)
            with suppress(OSError), context.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)

    server = place.inside(lambda: Quiet((address, port), handler))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def _make(names: list[str], trust: Path, chain: Path) -> None:
    """An authority, and a certificate of it with its key, with what a strict client wants of both."""
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "The test's own authority")])
    ca = (
        _begun(root, root, authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNS, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA256())
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    leaf = (
        _begun(subject, root, key)
        .add_extension(alternatives, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
        )
        .sign(authority, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    trust.write_bytes(ca.public_bytes(pem))
    chain.write_bytes(private + leaf.public_bytes(pem))


def _begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
