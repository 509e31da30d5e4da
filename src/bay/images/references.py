"""References to images in registries, in the form and with the shorthand that Docker made usual.

    [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]

`busybox` is `docker.io/library/busybox:latest`. The first part is a host where it has a dot or a port or is
`localhost`. Grammar: https://pkg.go.dev/github.com/distribution/reference, and the OCI distribution spec.
"""

import re
from dataclasses import dataclass, replace
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address

from bay.errors import InvalidArgument

DOCKER = "docker.io"

_LONGEST = 1024
_LONGEST_NAME = 255
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_NUMBERS = re.compile(r"[0-9.]+")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SCHEME = re.compile(r"[a-z+-]+:/?/")


@dataclass(frozen=True, slots=True)
class Reference:
    """An image in a registry. `host` has a port where one was given; with a `digest`, the tag is only a name.

    `str()` is the full form, which `parse` reads back.
    """

    host: str
    repository: str
    tag: str | None
    digest: str | None = None

    @property
    def name(self) -> str:
        """Host and repository."""
        return f"{self.host}/{self.repository}"

    @property
    def address(self) -> IPv4Address | IPv6Address | None:
        """The address in `host`, where it is one and not a name."""
        return address_in(self.host)

    def pinned(self, digest: str) -> "Reference":
        """The image of this repository with that digest, and the same tag as its name."""
        return replace(self, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.name}{tag}{f'@{self.digest}' if self.digest else ''}"


def parse(text: str) -> Reference:
    """The reference that `text` means. Raises InvalidArgument with the rule that it breaks."""
    if len(text) > _LONGEST:
        raise InvalidArgument(f"the image reference has {len(text)} characters; the limit is {_LONGEST}")
    if _SCHEME.match(text):
        raise _wrong(text, "it begins with a scheme; give HOST/REPOSITORY:TAG alone")
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _wrong(text, "its digest is not `sha256:` and 64 hexadecimal digits in lower case")
    name, tag = _without_tag(text, name)
    host, repository = _split(name)
    reference = Reference(
        _host(text, host), _repository(text, host, repository), tag if tag or at else "latest", digest or None
    )
    if len(reference.name) > _LONGEST_NAME:
        raise _wrong(text, f"host and repository have more than {_LONGEST_NAME} characters")
    return reference


def is_digest(text: str) -> bool:
    """Whether `text` is a digest by SHA-256, in its one spelling."""
    return _DIGEST.fullmatch(text) is not None


def parse_host(text: str) -> str:
    """A registry's host, and port if any, in the spelling of `Reference.host`. Raises InvalidArgument."""
    host = _host(text, text)
    if "/" in text or not (is_host(text) or text == DOCKER):
        raise _wrong(text, "a registry has a dot or a port in its name, or is localhost")
    return host


def is_host(part: str) -> bool:
    """Whether the first part of a reference is a host, as Docker tells it from a repository."""
    return part == "localhost" or any(sign in part for sign in ".:[")


def host_and_port(host: str) -> tuple[str, int | None]:
    """The name or address of a `Reference.host`, without the brackets of IPv6, and its port if it has one."""
    if host.startswith("["):
        inside, _, port = host[1:].partition("]")
        return inside, int(port[1:]) if port else None
    name, _, port = host.partition(":")
    return name, int(port) if port else None


def address_in(host: str) -> IPv4Address | IPv6Address | None:
    """The address in a `Reference.host`, where it is one and not a name."""
    try:
        return ip_address(host_and_port(host)[0])
    except ValueError:
        return None


def _wrong(text: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"{text[:200]!r} is not an image reference: {why}")


def _without_tag(text: str, name: str) -> tuple[str, str | None]:
    """A colon after the last slash begins a tag; one before belongs to the host."""
    before, colon, tag = name.rpartition(":")
    if not colon or "/" in tag or (tag.endswith("]") and "/" not in name):
        return name, None
    if not _TAG.fullmatch(tag):
        raise _wrong(text, "a tag is 1 to 128 letters, digits and . _ -, and begins with none of . -")
    return before, tag


def _split(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    return (first, rest) if slash and is_host(first) else (DOCKER, name)


def _repository(text: str, host: str, repository: str) -> str:
    if not repository:
        raise _wrong(text, "it names no repository")
    for component in repository.split("/"):
        if not _COMPONENT.fullmatch(component):
            raise _wrong(text, _component_rule(component))
    official = "/" not in repository and _host(text, host) == DOCKER
    return f"library/{repository}" if official else repository


def _component_rule(component: str) -> str:
    if component.lower() != component and component.isascii():
        return f"repositories are in lower case; write {component.lower()[:128]!r}"
    return "each part of a repository is lower-case ASCII letters and digits, with one of . _ __ or dashes between"


def _host(text: str, host: str) -> str:
    """Host and port in lower case, an address in its shortest form; Docker's other name becomes docker.io."""
    if host.startswith("["):
        inside, bracket, port = host[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise _wrong(text, "an IPv6 address is written [ADDRESS] or [ADDRESS]:PORT")
        return f"[{_ipv6(text, inside)}]{_port(text, port[1:]) if port else ''}"
    name, colon, port = host.partition(":")
    return f"{_domain(text, name)}{_port(text, port) if colon else ''}"


def _port(text: str, port: str) -> str:
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise _wrong(text, "a port is a number from 1 to 65535")
    return f":{port}"


def _ipv6(text: str, address: str) -> str:
    try:
        if "%" in address:
            raise AddressValueError("a zone")
        return str(IPv6Address(address))
    except AddressValueError:
        raise _wrong(text, "the brackets hold no IPv6 address") from None


def _domain(text: str, name: str) -> str:
    if _NUMBERS.fullmatch(name):
        try:
            return str(IPv4Address(name))
        except AddressValueError:
            raise _wrong(text, "its host is not an IPv4 address of four decimal numbers") from None
    if not _DOMAIN.fullmatch(name):
        raise _wrong(text, "its host is not a domain name in ASCII; write others in their form `xn--…`")
    lower = name.lower().removesuffix(".")
    return DOCKER if lower == f"index.{DOCKER}" else lower
