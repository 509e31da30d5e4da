"""Detects host firewalls, such as Docker's and ufw's, that drop the packets forwarded for sandboxes."""

from contextlib import closing
from typing import Any

from bay.linux.nftables import Nft

FIX = (
    "let through what comes from devices bay*, and what answers it; with Docker: iptables -I DOCKER-USER -i bay+ -j ACCEPT; "
    "iptables -I DOCKER-USER -o bay+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"
)


def dropping() -> list[str]:
    """Other tables' chains that drop forwarded packets; not iptables-legacy's. Raises DriverUnavailable."""
    with closing(Nft()) as nft:
        chains = [one["chain"] for one in nft.ask("list chains") if "chain" in one]
        return [
            f"the chain {chain['name']} of table {chain['family']} {chain['table']}"
            for chain in chains
            if _drops_forwarded(chain) and not _knows_bay(nft, chain)
        ]


def _drops_forwarded(chain: dict[str, Any]) -> bool:
    return chain.get("hook") == "forward" and chain.get("policy") == "drop"


def _knows_bay(nft: Nft, chain: dict[str, Any]) -> bool:
    return '"bay' in nft.run(f"list table {chain['family']} {chain['table']}")
