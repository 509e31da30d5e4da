"""Egress classes: one NetworkPolicy for all pods of an installation that may reach the same.

A class is made before its first pod, and a pod never changes its class: plug-ins apply a policy some time
after they hear of it, and cut no connection that is open by then. A policy with rules is held by Bay's egress
proxy, the one place that pods of the class `proxy` reach: so it changes without a word to Kubernetes.
"""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from bay.drivers.kubernetes.pod import (
    EGRESS,
    INSTALL,
    SHIP_PORT,
    EgressClass,
    PodSettings,
    egress_class,
    labels,
)
from bay.errors import SandboxNotReady
from bay.models import NetworkPolicy
from bay.network.reserved_ranges import RESERVED_V4, RESERVED_V6

Network = IPv4Network | IPv6Network


PUBLIC_RESOLVERS = ("1.1.1.1", "8.8.8.8")
"""The resolvers of pods whose egress is held, where the settings name none: the cluster's own tell the names
of its services.
"""


_NO_RESOLVER = "127.0.0.1"
"""Of pods that ask nobody for names. Kubernetes wants one, and nothing listens there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyPlace:
    """Where pods find Bay's egress proxy."""

    host: str
    """An address, or a name that Bay resolves when a session starts: that of a Service."""
    port: int
    listens_on: int
    """The port of Bay's own pods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressSettings:
    """The destinations and clients that the classes of an installation allow."""

    enforced: bool
    """Whether the cluster's network plug-in holds pods to NetworkPolicies: an operator's statement."""
    dns_servers: tuple[str, ...] = ()
    """Resolvers of the names that pods ask for, which they may reach wherever they are."""
    clients: tuple[Network, ...] = ()
    """The networks that reach Ship beside Bay's own pods, for a Bay outside of the cluster."""
    private: tuple[Network, ...] = ()
    """Public addresses of the cluster's nodes and services, which no pod may reach either."""
    proxy: ProxyPlace | None = None

    @property
    def classes(self) -> tuple[EgressClass, ...]:
        """Those that pods of this installation may have."""
        return ("none", "open", "proxy") if self.is_proxied else ("none", "open")

    @property
    def is_proxied(self) -> bool:
        """Whether policies may have rules: a proxy that pods can walk around holds none of them."""
        return self.enforced and self.proxy is not None

    @property
    def capabilities(self) -> dict[str, Any]:
        """The values of `Capabilities` that are about the network."""
        if not self.enforced:
            return {"network": ("open",), "network_rules": False, "egress": "unenforced"}
        if self.is_proxied:
            return {"network": ("none", "allowlist", "open"), "network_rules": True, "egress": "proxy"}
        return {"network": ("none", "open"), "network_rules": False, "egress": "enforced"}


def policy_name(settings: PodSettings, of_class: EgressClass) -> str:
    """The name of the policy of a class."""
    return f"bay-egress-{settings.install}-{of_class}"


def manifest(settings: PodSettings, egress: EgressSettings, of_class: EgressClass) -> dict[str, Any]:
    """The NetworkPolicy of the pods of a class. Ship is reached by Bay alone."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": policy_name(settings, of_class), "labels": labels(settings)},
        "spec": {
            "podSelector": {"matchLabels": {INSTALL: settings.install, EGRESS: of_class}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": _clients(egress), "ports": [{"protocol": "TCP", "port": SHIP_PORT}]}],
            "egress": _egress(egress, of_class),
        },
    }


def resolver(egress: EgressSettings, policy: NetworkPolicy) -> dict[str, Any]:
    """The fields of a pod that say whom it asks for names: never the cluster, where that is filtered, and
    nobody where Bay's proxy resolves them.
    """
    if not egress.enforced:
        return {}
    servers = [_NO_RESOLVER] if egress_class(policy) == "proxy" else list(egress.dns_servers)
    return {"dnsPolicy": "None", "dnsConfig": {"nameservers": servers}}


async def proxy_of(egress: EgressSettings, policy: NetworkPolicy) -> str | None:
    """IP:PORT of the proxy for a session that begins with that policy; None for one that needs none. Raises
    SandboxNotReady while the proxy's name has no address.
    """
    place = egress.proxy
    if place is None or egress_class(policy) != "proxy":
        return None
    try:
        found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SandboxNotReady(
            f"the name {place.host} of Bay's egress proxy has no address ({error}); see to that Service, and to the "
            "setting egress_proxy"
        ) from error
    address = found[0][4][0]
    return f"[{address}]:{place.port}" if ":" in str(address) else f"{address}:{place.port}"


def _clients(egress: EgressSettings) -> list[dict[str, Any]]:
    blocks = [{"ipBlock": {"cidr": str(network)}} for network in egress.clients]
    return [_bay_pods(), *blocks]


def _bay_pods() -> dict[str, Any]:
    bay = {"matchLabels": {"app.kubernetes.io/name": "bay", "app.kubernetes.io/component": "server"}}
    return {"namespaceSelector": {}, "podSelector": bay}


def _egress(egress: EgressSettings, of_class: EgressClass) -> list[dict[str, Any]]:
    match of_class:
        case "none":
            return []
        case "open":
            return _to_public(egress)
        case "proxy":
            return [] if egress.proxy is None else _to_proxy(egress.proxy)


def _to_proxy(place: ProxyPlace) -> list[dict[str, Any]]:
    """A Service is judged by the pods behind it."""
    ways = [{"to": [_bay_pods()], "ports": [{"protocol": "TCP", "port": place.listens_on}]}]
    try:
        cidr = str(ip_network(place.host))
    except ValueError:
        return ways
    return [*ways, {"to": [{"ipBlock": {"cidr": cidr}}], "ports": [{"protocol": "TCP", "port": place.port}]}]


def _to_public(egress: EgressSettings) -> list[dict[str, Any]]:
    dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    servers = [{"ipBlock": {"cidr": f"{one}/{128 if ':' in one else 32}"}} for one in egress.dns_servers]
    public = [_public("0.0.0.0/0", RESERVED_V4, egress), _public("::/0", RESERVED_V6, egress)]
    return [{"to": public}, *([{"to": servers, "ports": dns}] if servers else [])]


def _public(cidr: str, reserved: Sequence[Network], egress: EgressSettings) -> dict[str, Any]:
    own = [one for one in egress.private if (one.version == 6) == (":" in cidr)]
    return {"ipBlock": {"cidr": cidr, "except": [str(one) for one in (*reserved, *own)]}}
