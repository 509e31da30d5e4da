"""Network policies, ports, and the state of a network."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

NetworkMode = Literal["none", "allowlist", "open"]
"""The egress of a sandbox: nothing, only allowed destinations, or every public address but the denied."""

NetworkProtocol = Literal["tcp", "udp", "icmp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderInjection:
    """A header that Bay adds to HTTPS requests outside of the sandbox: `format` with the secret for `{}`."""

    header: str
    secret: str
    """The name of a secret of the sandbox's owner."""
    format: str = "{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRule:
    """One rule of a network policy: `domain` (`api.example.com`, `*.example.com`, `*`) or `cidr`, not both.

    `ports` are numbers or ranges such as ``"8000-8100"``; None is every port. `protocol` None is TCP, UDP and
    ICMP, and with `ports` TCP and UDP. With `inject` it allows HTTPS to one domain, by Bay's broker.
    """

    action: Literal["allow", "deny"]
    domain: str | None = None
    cidr: str | None = None
    ports: tuple[int | str, ...] | None = None
    protocol: NetworkProtocol | None = None
    inject: HeaderInjection | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPolicy:
    """A sandbox's egress rules. The most specific rule decides, and of two equally specific ones the deny."""

    mode: NetworkMode = "open"
    rules: tuple[NetworkRule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentPolicy(NetworkPolicy):
    """The policy that a sandbox has: its own, or its profile's. `version` grows with each change.

    `enforced` False: this host cannot hold sandboxes to its mode. They have no network instead; but with
    mode `open` on a cluster that holds pods to nothing they reach all that it lets them reach.
    """

    version: int
    source: Literal["sandbox", "profile"]
    enforced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkCounter:
    """How often a rule decided since the session began.

    `rule` is its place in the policy, or None when no rule did. `reason` then says what did: `default` (the
    mode), `reserved` (never reachable addresses), `flood`, `protocol`. Counted are connections (for UDP and
    ICMP their first packets), and for rules with a domain the names asked for as well.
    """

    rule: int | None
    reason: str | None
    allowed_connections: int
    refused_connections: int
    allowed_names: int
    refused_names: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedName:
    """A name that was not answered.

    `reason`: `policy`, `private_answer`, `rate`, `entropy`, `type`, `upstream` or `loop`.
    """

    name: str
    type: str
    reason: str
    rule: int | None
    count: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerRefusal:
    """Connections or requests by the broker to a `domain` that went nowhere, for one `reason`.

    `pinned`: the program does not accept the broker's certificate. `unused`: it ended the connection before a
    request, as some do that pin a key. `other_host`: it asked for another host on the connection, or none.
    `untrusted`, `upstream`: the host's certificate is not valid, or it could not be reached. `refused`: the
    policy allows no address of it. `secret`: the secret is not there, or no header's value. `malformed`,
    `method`: no request that is passed on. `limit`: too many connections. `port`: a program in the sandbox
    has the broker's port.
    """

    domain: str
    reason: str
    count: int
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkState:
    """A sandbox's network and its traffic since the session began.

    Counters and names are empty without a session. `enforced` False: this host cannot hold a network back,
    and `mode` is what was asked for. Bytes count what crossed the boundary of the sandbox, as seen from
    inside.
    """

    mode: NetworkMode
    enforced: bool
    counters: tuple[NetworkCounter, ...]
    refused: tuple[RefusedName, ...]
    """Newest last, 200 at most."""
    received_bytes: int
    sent_bytes: int
    proxied: bool = False
    """Whether the sandbox reaches nothing but Bay's egress proxy, and programs that do not use the proxy of
    their environment reach nothing.
    """
    broker: tuple[BrokerRefusal, ...] = ()
    """Brokered connections that went nowhere, newest last, 64 at most."""


PortAccess = Literal["owner", "public"]
"""The access to a port through Bay: its owner (a key, a link, or the link's cookie), or everybody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortSettings:
    """Who may reach one port."""

    port: int
    access: PortAccess = "owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxUrl:
    """Where a sandbox is reached by HTTP: `href` leads to `port`; null while there is none."""

    href: str | None
    port: int | None
    access: PortAccess = "owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A TCP port on which something in the sandbox listens. `addresses` are local ones, as seen inside.

    `process` and `pid` are of a program that listens there, None when unknown; `url` leads there.
    """

    port: int
    addresses: tuple[str, ...]
    pid: int | None = None
    process: str | None = None
    access: PortAccess = "owner"
    url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PortLink:
    """A URL that opens a port to its bearer, until `expires_at`; with `once` only the first time."""

    url: str
    expires_at: datetime
    once: bool
