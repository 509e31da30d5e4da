"""Egress classes: one NetworkPolicy for all pods of an installation that may reach the same.

A class is made before its first pod, and a pod never changes its class: plug-ins apply a policy some time
after they hear of it, and cut no connection that is open by then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from bay.drivers.kubernetes.pod import EGRESS, INSTALL, SHIP_PORT, PodSettings, labels
from bay.models import NetworkMode
from bay.network.reserved_ranges import RESERVED_V4, RESERVED_V6

Network = IPv4Network | IPv6Network


PUBLIC_RESOLVERS = ("1.1.1.1", "8.8.8.8")
"""The resolvers of pods whose egress is held, where the settings name none: the cluster's own tell the names
of its services.
"""


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


def policy_name(settings: PodSettings, mode: NetworkMode) -> str:
    """The name of the policy of a class."""
    return f"bay-egress-{settings.install}-{mode}"


def manifest(settings: PodSettings, egress: EgressSettings, mode: NetworkMode) -> dict[str, Any]:
    """The NetworkPolicy of the pods of the class `mode`. Ship is reached by Bay alone."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": policy_name(settings, mode), "labels": labels(settings)},
        "spec": {
            "podSelector": {"matchLabels": {INSTALL: settings.install, EGRESS: mode}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": _clients(egress), "ports": [{"protocol": "TCP", "port": SHIP_PORT}]}],
            "egress": _egress(egress) if mode == "open" else [],
        },
    }


def resolver(egress: EgressSettings) -> dict[str, Any]:
    """The fields of a pod that say whom it asks for names: never the cluster, where that is filtered."""
    if not egress.enforced:
        return {}
    return {"dnsPolicy": "None", "dnsConfig": {"nameservers": list(egress.dns_servers)}}


def _clients(egress: EgressSettings) -> list[dict[str, Any]]:
    bay = {"matchLabels": {"app.kubernetes.io/name": "bay", "app.kubernetes.io/component": "server"}}
    blocks = [{"ipBlock": {"cidr": str(network)}} for network in egress.clients]
    return [{"namespaceSelector": {}, "podSelector": bay}, *blocks]


def _egress(egress: EgressSettings) -> list[dict[str, Any]]:
    dns = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    servers = [{"ipBlock": {"cidr": f"{one}/{128 if ':' in one else 32}"}} for one in egress.dns_servers]
    public = [_public("0.0.0.0/0", RESERVED_V4, egress), _public("::/0", RESERVED_V6, egress)]
    return [{"to": public}, *([{"to": servers, "ports": dns}] if servers else [])]


def _public(cidr: str, reserved: Sequence[Network], egress: EgressSettings) -> dict[str, Any]:
    own = [one for one in egress.private if (one.version == 6) == (":" in cidr)]
    return {"ipBlock": {"cidr": cidr, "except": [str(one) for one in (*reserved, *own)]}}
