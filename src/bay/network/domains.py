"""Normalizes domain names from rules and queries to lower-case A-labels without the final dot."""

import re

import idna

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_DOTS = re.compile("[.。．｡]")  # noqa: RUF001 - the dots that IDNA (RFC 3490, 3.1) takes for one
_MAX_NAME = 253


def normal_pattern(text: str) -> str:
    """`text` as a rule's domain: a name, `*.` and a name, or `*`. Raises ValueError saying why not."""
    if text == "*":
        return text
    wildcard = "*." if text.startswith("*.") else ""
    name = text.removeprefix(wildcard)
    if "*" in name:
        raise ValueError("`*` stands alone or in front of a name: `*`, `*.example.com`")
    return wildcard + _normal_name(name)


def lookup_form(name: str) -> str | None:
    """A queried name as patterns see it; None when it is no host name, as with a dot inside of a label."""
    labels = name.removesuffix(".").lower().split(".")
    return ".".join(labels) if all(map(_LABEL.fullmatch, labels)) else None


def _normal_name(text: str) -> str:
    if "/" in text or ":" in text:
        raise ValueError("it is a name only, without scheme, port or path")
    if not text.isascii():
        text = _mapped(text)
    labels = [_normal_label(label) for label in _DOTS.split(text.removesuffix("."))]
    name = ".".join(labels)
    if len(name) > _MAX_NAME:
        raise ValueError(f"it is longer than {_MAX_NAME} characters")
    if labels[-1].isdigit():
        raise ValueError("it is an address; use `cidr`")
    return name


def _mapped(text: str) -> str:
    try:
        return idna.uts46_remap(text, std3_rules=False)
    except idna.IDNAError as error:
        raise ValueError(f"it is not a domain name: {error}") from error


def _normal_label(label: str) -> str:
    label = label.lower()
    if not label:
        raise ValueError("it has an empty label")
    if len(label) > 63:
        raise ValueError("it has a label of more than 63 characters")
    if not label.isascii() or label.startswith("xn--"):
        return _a_label(label)
    if not _LABEL.fullmatch(label):
        raise ValueError(f"the label {label!r} may have only letters, digits, `-` and `_`")
    return label


def _a_label(label: str) -> str:
    try:
        return idna.alabel(label).decode()
    except idna.IDNAError as error:
        raise ValueError(f"the label {label!r} is not a valid name: {error}") from error
