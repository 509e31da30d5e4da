"""The trust of a sandbox in its broker: files of certificates in its memory, and variables that name them.

A program that has its own idea of whom to trust, or pins a host's key, refuses the broker's certificates; the
sandbox's network state counts that.
"""

import os
from pathlib import Path

from bay.drivers.base import HeaderBroker
from bay.errors import BayError
from bay.server.files.ship_client import FileClient, Wanted
from bay.server.sessions.rows import handle_of
from bay.server.ship.connection import Peer
from bay.store.records import SessionRecord

AUTHORITY, BUNDLE = "/dev/shm/bay-ca.pem", "/dev/shm/bay-ca-bundle.pem"  # noqa: S108 - inside, in memory
"""The broker's authority alone, and with those that the image trusts."""

ENV = {
    **dict.fromkeys(
        (
            *("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "AWS_CA_BUNDLE"),
            *("CARGO_HTTP_CAINFO", "DENO_CERT", "PIP_CERT"),
        ),
        BUNDLE,
    ),
    "NODE_EXTRA_CA_CERTS": AUTHORITY,
}

_PLACES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_MAX_BUNDLE = 4 << 20
_MODE = "0644"


async def bring(driver: object, session: SessionRecord, peer: Peer, files: FileClient) -> bool:
    """Write the files; False where the session has no broker, or not yet. Raises Ship's errors."""
    broker = driver if isinstance(driver, HeaderBroker) else None
    certificate = await broker.broker_certificate(handle_of(session)) if broker else None
    if certificate is None:
        return False
    known = await _bundle_inside(peer, files) or _bundle_of_host()
    for path, content in ((AUTHORITY, certificate.encode()), (BUNDLE, known + b"\n" + certificate.encode())):
        await files.upload(peer, path, content, mode=_MODE, mkdir=False)
    return True


async def _bundle_inside(peer: Peer, files: FileClient) -> bytes:
    """The certificates that the image trusts; empty where it has none, or more than any image has."""
    for path in _PLACES:
        found = bytearray()
        try:
            async with files.download(peer, path, Wanted()) as download:
                if download.size > _MAX_BUNDLE:
                    continue
                async for chunk in download.chunks:
                    found += chunk
        except BayError:
            continue
        return bytes(found)
    return b""


def _bundle_of_host() -> bytes:
    found = next(filter(os.path.isfile, _PLACES), None)
    return Path(found).read_bytes() if found else b""
