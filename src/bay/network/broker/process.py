"""The program of a broker: `python -m bay.network.broker.process CONTROL LISTENER…`, in a sandbox's network.

It begins as root, to enter a namespace without files and to become a user of its own, and handles nothing of
a stranger before that. It has certificates for its domains, and asks Bay for the host's addresses and the
headers of a request. It ends when Bay does.
"""

import asyncio
import contextlib
import encodings.idna
import encodings.latin_1
import json
import os
import resource
import socket
import ssl
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import h11

from bay.linux import mounts
from bay.network.broker.control import LINE_BYTES
from bay.network.broker.relay import HttpRelay, RelayLimits
from bay.network.http_passage import HEAD_BYTES, PIECE, Header, NotPassedOn, Stream
from bay.token_bucket import TokenBucket

_CONNECTIONS = 256
_NEW_S, _NEW_BURST = 50, 200
"""New connections a second: each costs a handshake, which Bay pays for."""
_LOADED = (encodings.idna, encodings.latin_1)
"""Codecs that the library looks for when it needs them first, which is when there are no files any more."""
_HANDSHAKE_S = 10.0
_CONNECT_S = 10.0
_FRESH_S = 2.0
"""How long an answer of Bay is used: a changed secret reaches a request after that at the latest."""
_ALPN = ["http/1.1"]
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_DISTRUST = (
    "UNKNOWN_CA",
    "BAD_CERTIFICATE",
    "CERTIFICATE_UNKNOWN",
    "UNSUPPORTED_CERTIFICATE",
    "ACCESS_DENIED",
)
"""Alerts of a client that does not accept the broker's certificate."""


@dataclass(frozen=True, slots=True)
class SiteAnswer:
    """Bay's answer for a domain, and until when it is used."""

    addresses: tuple[str, ...]
    headers: tuple[Header, ...]
    until: float


class Control:
    """The broker's side of the pair of sockets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._lock = asyncio.Lock()
        self._lines: asyncio.Queue[bytes] = asyncio.Queue(1)
        self._answers: dict[str, SiteAnswer] = {}

    async def run(self) -> None:
        """Hear Bay, and end the process when it ends."""
        while line := await self._reader.readline():
            await self._lines.put(line)
        _end()

    async def answer(self, domain: str) -> SiteAnswer:
        """The host's addresses and the headers of now. Raises NotPassedOn."""
        # It may not be cancelled, and no caller is: the next question would get the answer that is left.
        async with self._lock:
            known = self._answers.get(domain)
            if known is None or known.until <= time.monotonic():
                known = self._answers[domain] = await self._ask(domain)
        return known

    async def _ask(self, domain: str) -> SiteAnswer:
        self._writer.write(_line({"ask": domain}))  # however many notes wait: there is one question at a time
        said = json.loads(await self._lines.get())
        if "refused" in said:
            refused = said["refused"]
            raise NotPassedOn(refused["status"], refused["reason"], refused["message"])
        headers = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in said["headers"])
        return SiteAnswer(tuple(said["addresses"]), headers, time.monotonic() + _FRESH_S)

    def note(self, domain: str, reason: str) -> None:
        """Have Bay show that a connection went nowhere."""
        line = _line({"note": [domain[:253], reason]})
        if len(line) <= LINE_BYTES and self._writer.transport.get_write_buffer_size() < 64 * LINE_BYTES:
            self._writer.write(line)


def _line(message: Mapping[str, object]) -> bytes:
    return json.dumps(message).encode() + b"\n"


@dataclass(slots=True, eq=False)
class Broker:
    """All that the process serves."""

    control: Control
    contexts: Mapping[str, ssl.SSLContext]
    ports: Mapping[str, Sequence[int]]
    trust: ssl.SSLContext
    limits: RelayLimits = field(default_factory=RelayLimits)
    rate: TokenBucket = field(default_factory=lambda: TokenBucket(_NEW_S, _NEW_BURST))
    tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    async def serve(self, listener: socket.socket) -> None:
        """Take the connections of one socket, for ever."""
        loop, port = asyncio.get_running_loop(), listener.getsockname()[1]
        while True:
            if (wait_s := self.rate.pay(1)) > 0:
                await asyncio.sleep(wait_s)
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:
                await asyncio.sleep(0.05)  # it was given up before it was taken
                continue
            if len(self.tasks) >= _CONNECTIONS:
                connection.close()
                self.control.note("*", "limit")
                continue
            self._start(self._connection(connection, port))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _connection(self, connection: socket.socket, port: int) -> None:
        with connection, contextlib.suppress(OSError, h11.ProtocolError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            accepted = await self._accepted(connection, port)
            if accepted is not None:
                await self._relayed(*accepted, port)

    async def _accepted(self, connection: socket.socket, port: int) -> tuple[Stream, str] | None:
        """The client's side after the handshake, and the domain that it named."""
        asked: list[str] = []
        context = self._doorman(port, asked.append)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=PIECE)
        protocol = asyncio.StreamReaderProtocol(reader)
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, connection, ssl=context, ssl_handshake_timeout=_HANDSHAKE_S
            )
        except ssl.SSLError as error:
            self._note_handshake(asked, str(error.reason))
            return None
        except ConnectionResetError:  # some clients close the connection in place of an alert
            return None
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        return Stream(reader, writer, http), asked[0]

    def _doorman(self, port: int, ask: Callable[[str], None]) -> ssl.SSLContext:
        """A context that has no certificate before the client has named its host."""
        context = _server_context()

        def choose(found: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int | None:
            domain = (name or "").lower().removesuffix(".")
            if domain not in self.contexts or port not in self.ports[domain]:
                self.control.note(domain or "*", "other_host")
                return ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
            ask(domain)
            found.context = self.contexts[domain]
            return None

        context.sni_callback = choose  # type: ignore[assignment] - typeshed says SSLSocket, asyncio has objects
        return context

    def _note_handshake(self, asked: list[str], reason: str) -> None:
        if asked and any(word in reason for word in _DISTRUST):
            self.control.note(asked[0], "pinned")

    async def _relayed(self, client: Stream, domain: str, port: int) -> None:
        relay = HttpRelay(
            client, domain, port,
            connect=lambda: self._connect(domain, port), added=lambda: self._added(domain), limits=self.limits,
        )  # fmt: skip
        reason = "unused"
        try:
            with contextlib.suppress(
                OSError
            ):  # the client has cut the connection, or was silent for too long
                await relay.run()
        except NotPassedOn as refusal:
            reason = refusal.reason
        finally:
            if reason != "unused" or not relay.requests:
                self.control.note(domain, reason)
            client.writer.close()
            with contextlib.suppress(OSError):
                async with asyncio.timeout(_HANDSHAKE_S):
                    await client.writer.wait_closed()
            client.writer.transport.abort()

    async def _added(self, domain: str) -> tuple[Header, ...]:
        return (await self.control.answer(domain)).headers

    async def _connect(self, domain: str, port: int) -> Stream:
        """A verified connection to the domain's host. Raises NotPassedOn."""
        addresses = (await self.control.answer(domain)).addresses
        why = NotPassedOn(502, "upstream", f"{domain} has no address")
        for address in addresses[:4]:
            try:
                async with asyncio.timeout(_CONNECT_S):
                    reader, writer = await asyncio.open_connection(
                        str(ip_address(address)), port, ssl=self.trust, server_hostname=domain, limit=PIECE
                    )
            except ssl.SSLCertVerificationError as error:
                message = f"the certificate of {domain} is not to be trusted: {error.verify_message}"
                raise NotPassedOn(502, "untrusted", message) from error
            except OSError:  # TimeoutError and ssl.SSLError are some
                why = NotPassedOn(502, "upstream", f"{domain} could not be reached on port {port}")
                continue
            return Stream(reader, writer, h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES))
        raise why


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    return context


def _site_context(pem: str) -> ssl.SSLContext:
    context, file = _server_context(), os.memfd_create("bay-broker")
    try:
        os.write(file, pem.encode())
        context.load_cert_chain(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    return context


def _trust(more: Sequence[str]) -> ssl.SSLContext:
    """Verifies hosts by the authorities of this machine, and those in the files `more`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    if (bundle := next(filter(os.path.isfile, _BUNDLES), None)) is not None:
        context.load_verify_locations(bundle)
    for path in more:
        context.load_verify_locations(path)
    return context


def _confine(uid: int) -> None:
    """Leave all files behind, and all rights: the sandbox's network is left."""
    mounts.unshare(mounts.CLONE_NEWNS | mounts.CLONE_NEWUTS | mounts.CLONE_NEWIPC)
    mounts.make_all_private()
    attributes = mounts.NOSUID | mounts.NODEV | mounts.NOEXEC
    root = mounts.new_mount("tmpfs", [("size", "4k"), ("mode", "0555")], attributes)
    directory = mounts.open_directory("/proc")
    mounts.attach(root, directory)
    os.close(root)
    os.close(directory)
    mounts.change_root("/proc")
    mounts.make_read_only("/")
    for kind, most in (
        (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_NOFILE, 2 * _CONNECTIONS + 64),
        (resource.RLIMIT_AS, 1 << 30), (resource.RLIMIT_MEMLOCK, 0),
    ):  # fmt: skip
        resource.setrlimit(kind, (most, most))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)  # no capability outlives this
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    mounts.no_new_privileges()


def _end() -> bytes:
    """Bay has ended, or wants this to end."""
    os._exit(0)


def _first_line(control: socket.socket) -> dict[str, Any]:
    """The settings, read byte by byte: what follows belongs to the event loop."""
    with control.makefile("rb", buffering=0) as file:
        return json.loads(file.readline() or _end())


async def _run(
    control: socket.socket, listeners: Sequence[socket.socket], broker: Callable[[Control], Broker]
) -> None:
    reader, writer = await asyncio.open_connection(sock=control, limit=1 << 20)
    heard = Control(reader, writer)
    served = broker(heard)
    async with asyncio.TaskGroup() as group:
        group.create_task(heard.run())
        for listener in listeners:
            group.create_task(served.serve(listener))


def main(arguments: Sequence[str]) -> None:
    """Serve until Bay closes the control socket."""
    descriptors = list(map(int, arguments))
    control = socket.socket(fileno=descriptors[0])
    listeners = [socket.socket(fileno=one) for one in descriptors[1:]]
    for one in listeners:
        one.setblocking(False)
    given = _first_line(control)
    contexts = {domain: _site_context(site["pem"]) for domain, site in given["sites"].items()}
    ports = {domain: site["ports"] for domain, site in given["sites"].items()}
    trust = _trust(given["trust"])
    os.nice(5)
    _confine(given["uid"])
    control.setblocking(False)
    asyncio.run(_run(control, listeners, lambda made: Broker(made, contexts, ports, trust)))


if __name__ == "__main__":
    main(sys.argv[1:])
