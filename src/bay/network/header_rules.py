"""Rules that have a header added: one domain, TCP, a few ports, and a header that frames nothing. Pure."""

import re
from dataclasses import replace

from bay.models import HeaderInjection, NetworkRule

MAX_PORTS = 4
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_|~-]{1,64}")
_SECRET = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_FORMAT = re.compile(r"[ -~]{1,256}")
_FRAMING = frozenset(
    (
        *(
            "connection",
            "content-length",
            "expect",
            "host",
            "http2-settings",
            "keep-alive",
            "proxy-connection",
        ),
        *("proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "alt-svc", "x-bay-broker"),
    )
)


def normal(rule: NetworkRule, inject: HeaderInjection) -> NetworkRule:
    """The rule in one spelling: TCP, port 443 unless others are named. Raises ValueError."""
    if rule.action != "allow":
        raise ValueError("`inject` is for `allow` rules")
    if rule.domain is None or "*" in rule.domain:
        raise ValueError("`inject` needs the whole name of one `domain`, such as api.example.com")
    if rule.protocol not in (None, "tcp"):
        raise ValueError("`inject` is for HTTPS, whose protocol is tcp; leave out `protocol`")
    _check(inject)
    ports = rule.ports or (443,)
    if len(ports) > MAX_PORTS or not all(isinstance(port, int) for port in ports):
        raise ValueError(f"`inject` takes up to {MAX_PORTS} ports, each a number")
    return replace(rule, protocol="tcp", ports=ports)


def _check(inject: HeaderInjection) -> None:
    if not _HEADER.fullmatch(inject.header):
        raise ValueError(f"the header {inject.header[:64]!r} is not the name of a header")
    if inject.header.lower() in _FRAMING:
        raise ValueError(f"the header {inject.header} rules the connection, and cannot be added")
    if not _SECRET.fullmatch(inject.secret):
        raise ValueError(f"the secret {inject.secret[:64]!r} is not the name of a secret")
    if inject.format.count("{}") != 1 or not _FORMAT.fullmatch(inject.format):
        raise ValueError("`format` must be up to 256 characters of ASCII with one {} for the secret")
