"""The supervisor starts a broker for each sandbox whose policy adds headers, answers it, and restarts it.

Bay opens the sockets in the sandbox's network namespace and keeps them: while a broker is not there, clients
wait. A broker has certificates for the policy's domains; it asks for addresses, which are opened by the
policy as for any answered name, and for headers, which are read from the secrets at that moment.
"""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from bay.backoff import Backoff
from bay.clock import Clock, utc_now
from bay.errors import BayError
from bay.linux import namespaces
from bay.linux.threads import in_new_thread
from bay.meters import Meters
from bay.models import BrokerRefusal, HeaderInjection, NetworkPolicy
from bay.network import domains
from bay.network.broker.authority import Authority, open_authority
from bay.network.broker.control import LINE_BYTES, REASONS
from bay.network.dns.sandbox_resolver import BROKER
from bay.network.reserved_ranges import Address
from bay.network.slots import NetworkSlot

log = structlog.get_logger("bay.network.broker")

FIRST_UID = 1_878_982_656
"""The user of the broker of slot 0: the block below the default range of sandboxes' ids."""

_BACKOFF = Backoff(0.2, 30.0)
_MAX_REFUSALS = 64
_MAX_HEADER = 48 * 1024

SecretValues = Callable[[str, Collection[str]], Awaitable[Mapping[str, str]]]
"""The values of secrets, by the id of a session of their owner and their names; those that are there."""

Addresses = Callable[[int, str], Awaitable[Sequence[Address]]]
"""The addresses of a name for the sandbox with that slot, opened for it. Raises HostError."""


async def no_secrets(_session_id: str, _names: Collection[str]) -> Mapping[str, str]:
    """The values of a Bay without secrets."""
    return {}


@dataclass(slots=True)
class Site:
    """A domain with its ports, and the headers that its requests get."""

    ports: tuple[int, ...] = ()
    headers: tuple[HeaderInjection, ...] = ()


Sites = dict[str, Site]


def sites_of(policy: NetworkPolicy) -> Sites:
    """The domains to whose requests a policy adds headers."""
    found: Sites = {}
    for rule in policy.rules if policy.mode != "none" else ():
        if rule.inject is not None and rule.domain is not None:
            site = found.setdefault(rule.domain, Site())
            more = tuple(port for port in rule.ports or () if isinstance(port, int))
            site.ports = tuple(sorted({*site.ports, *more}))
            site.headers = (*site.headers, rule.inject)
    return found


@dataclass(slots=True, eq=False)
class _Served:
    """One sandbox's broker."""

    slot: NetworkSlot
    netns: int
    sites: Sites
    authority: Authority
    listeners: list[socket.socket] = field(default_factory=list[socket.socket])
    task: asyncio.Task[None] | None = None
    refusals: dict[tuple[str, str], BrokerRefusal] = field(
        default_factory=dict[tuple[str, str], BrokerRefusal]
    )

    @property
    def ports(self) -> list[int]:
        return sorted({port for site in self.sites.values() for port in site.ports})

    def note(self, domain: str, reason: str, now: datetime) -> None:
        """Count a refusal; the newest is the last, and there are not many."""
        known = self.refusals.pop((domain, reason), None)
        self.refusals[domain, reason] = BrokerRefusal(
            domain=domain, reason=reason, count=known.count + 1 if known else 1,
            first_at=known.first_at if known else now, last_at=now,
        )  # fmt: skip
        if len(self.refusals) > _MAX_REFUSALS:
            del self.refusals[next(iter(self.refusals))]


class Brokers:
    """The brokers of one Bay's sandboxes, all on the event loop; a slot's number names a sandbox.
    `directory` keeps their authorities, so that a sandbox trusts its broker after a restart of Bay; `trust`
    are files of certificates that hosts are verified by, besides those of this machine.
    """

    def __init__(
        self,
        *,
        directory: Path,
        trust: Sequence[Path] = (),
        first_uid: int = FIRST_UID,
        clock: Clock = utc_now,
        meters: Meters | None = None,
    ) -> None:
        self._refusals = (meters or Meters()).broker_refusals
        self.values: SecretValues = no_secrets
        self.addresses: Addresses | None = None
        self._directory, self._trust, self._first_uid, self._clock = directory, trust, first_uid, clock
        self._served: dict[int, _Served] = {}

    async def aclose(self) -> None:
        """End every broker."""
        await asyncio.gather(*map(self._end, list(self._served)))

    async def serve(self, slot: NetworkSlot, netns_fd: int, policy: NetworkPolicy) -> None:
        """Have the sandbox behind `netns_fd` be served as its policy says; idempotent. Its sockets are there
        when this returns, unless a program in the sandbox has their ports: then it is tried again.
        """
        sites, before = sites_of(policy), self._served.get(slot.number)
        if before is not None and before.slot == slot and before.sites == sites:
            return
        refusals = before.refusals if before is not None and before.slot == slot else {}
        await self._end(slot.number)
        if not sites:
            return
        authority = await in_new_thread(lambda: open_authority(self._file(slot), slot.session_id))
        served = _Served(slot, os.dup(netns_fd), sites, authority, refusals=refusals)
        self._served[slot.number] = served
        await self._listen(served)
        served.task = asyncio.create_task(self._keep(served))

    async def stop(self, slot: NetworkSlot) -> None:
        """End a sandbox's broker, and forget its authority; one without is fine."""
        await self._end(slot.number)
        self._file(slot).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are in it, or it never was
            self._directory.rmdir()

    async def certificate(self, slot: NetworkSlot) -> str | None:
        """The certificate that the sandbox has to trust, as PEM; None while it never had a broker.
        Also before a Bay that starts has taken the sandbox over: the broker will have the same.
        """
        served = self._served.get(slot.number)
        if served is not None and served.slot == slot:
            return served.authority.pem
        file = self._file(slot)
        known = await in_new_thread(lambda: open_authority(file, slot.session_id) if file.exists() else None)
        return None if known is None else known.pem

    def refused(self, slot: NetworkSlot) -> tuple[BrokerRefusal, ...]:
        """The connections and requests that went nowhere, newest last."""
        served = self._served.get(slot.number)
        return () if served is None else tuple(served.refusals.values())

    def _file(self, slot: NetworkSlot) -> Path:
        return self._directory / f"{slot.session_id}.pem"

    async def _end(self, number: int) -> None:
        served = self._served.pop(number, None)
        if served is None:
            return
        if served.task is not None:
            served.task.cancel()
            await asyncio.wait((served.task,))
        for listener in served.listeners:
            listener.close()
        os.close(served.netns)

    def _note(self, served: _Served, domain: str, reason: str) -> None:
        self._refusals.labels(reason).inc()
        served.note(domain, reason, self._clock())

    async def _listen(self, served: _Served) -> bool:
        """Open the sockets that are not open yet; whether all are."""
        missing = set(served.ports) - {one.getsockname()[1] for one in served.listeners}
        made: list[socket.socket] = []
        try:
            await in_new_thread(lambda: namespaces.inside(served.netns, lambda: _listeners(missing, made)))
        except OSError as error:
            self._note(served, "*", "port")
            log.warning("broker.no_port", session=served.slot.session_id, error=str(error))
        served.listeners += made
        return len(served.listeners) == len(served.ports)

    async def _keep(self, served: _Served) -> None:
        """Have a broker run until cancelled."""
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                if await self._listen(served):
                    await self._run(served)
            except (OSError, BayError) as error:
                log.warning("broker.failed", session=served.slot.session_id, error=str(error))
            except Exception:
                log.exception("broker.defect", session=served.slot.session_id)
            lasted = asyncio.get_running_loop().time() - began
            failures = 1 if lasted > _BACKOFF.longest_s else failures + 1
            await asyncio.sleep(_BACKOFF.pause(failures))

    async def _run(self, served: _Served) -> None:
        """One process, to its end."""
        ours, theirs = socket.socketpair()
        started: list[subprocess.Popen[bytes]] = []
        try:
            with theirs:
                await in_new_thread(
                    lambda: namespaces.inside(
                        served.netns, lambda: started.append(_spawn(theirs, served.listeners))
                    )
                )
            await self._attend(served, ours)
        finally:
            for process in started:  # also one that was started while this was cancelled
                process.kill()
                await in_new_thread(process.wait)

    async def _attend(self, served: _Served, control: socket.socket) -> None:
        """Tell a broker its settings, and answer it to its end."""
        control.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=control, limit=LINE_BYTES)
        try:
            writer.write(json.dumps(self._settings(served)).encode() + b"\n")
            await self._answer(served, reader, writer)
        finally:
            writer.transport.abort()

    def _settings(self, served: _Served) -> dict[str, Any]:
        sites = {
            domain: {"pem": served.authority.issue(domain), "ports": site.ports}
            for domain, site in served.sites.items()
        }
        uid = self._first_uid + served.slot.number
        return {"sites": sites, "trust": list(map(str, self._trust)), "uid": uid}

    async def _answer(
        self, served: _Served, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                said = _said(line)
                match said:
                    case {"ask": str(domain)} if domain in served.sites:
                        writer.write(json.dumps(await self._answer_to(served, domain)).encode() + b"\n")
                        await writer.drain()
                    case {"note": [str(name), str(reason)]} if reason in REASONS:
                        self._note(served, _shown(name), reason)
                    case _:
                        log.warning("broker.unexpected", session=served.slot.session_id)
                        return

    async def _answer_to(self, served: _Served, domain: str) -> dict[str, Any]:
        try:
            headers = await self._headers(served, domain)
            addresses = await self.addresses(served.slot.number, domain) if self.addresses else ()
        except _Unusable as error:
            return _refused(502, "secret", str(error))
        except BayError:
            return _refused(502, "upstream", f"{domain} is not resolved; try again")
        if not addresses:
            return _refused(502, "refused", f"{domain} does not resolve to an address that the policy allows")
        return {"addresses": list(map(str, addresses)), "headers": headers}

    async def _headers(self, served: _Served, domain: str) -> list[tuple[str, str]]:
        wanted = served.sites[domain].headers
        values = await self.values(served.slot.session_id, {one.secret for one in wanted})
        return [(one.header, _filled(one, values.get(one.secret))) for one in wanted]


class _Unusable(Exception):
    """A secret is not there, or is no value of a header."""


def _filled(wanted: HeaderInjection, value: str | None) -> str:
    if value is None:
        raise _Unusable(f"there is no secret {wanted.secret}, which the network policy names; set it")
    text = wanted.format.replace("{}", value.strip())
    if len(text) > _MAX_HEADER or not all(" " <= one <= "~" for one in text):
        raise _Unusable(f"the secret {wanted.secret} is not a value that the header {wanted.header} can have")
    return text


def _refused(status: int, reason: str, message: str) -> dict[str, Any]:
    return {"refused": {"status": status, "reason": reason, "message": message}}


def _said(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _shown(name: str) -> str:
    """A name that a client sent, if it could be one."""
    return (domains.lookup_form(name) or "*")[:253]


def _listeners(ports: Collection[int], made: list[socket.socket]) -> None:
    for port in ports:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((BROKER, port))
            listener.listen(64)
        except OSError:
            listener.close()
            raise
        made.append(listener)


def _spawn(control: socket.socket, listeners: Sequence[socket.socket]) -> subprocess.Popen[bytes]:
    descriptors = [control.fileno(), *(one.fileno() for one in listeners)]
    return subprocess.Popen(
        [sys.executable, "-I", "-m", "bay.network.broker.process", *map(str, descriptors)],
        pass_fds=descriptors, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={}, cwd="/", start_new_session=True,
    )  # fmt: skip
