"""Images that a host fetches by their names: which of them a caller may name, and which one a name was.

An operator writes what may be named as beginnings of references in their full form, that end where a part of
one does:

    docker.io/library/              the repositories below that path
    registry.example.com/team       that repository, and those below it
    registry.example.com            all of that registry
    registry.example.com/app:1      that tag alone, and no digest
    registry.example.com/app@sha256:…
    *                               everything

So `registry.example.com/team` is no word about `registry.example.com/team-secret`. A tag says nothing about a
digest beside it, by which a registry gives any image of the repository.
"""

from collections.abc import Sequence

from bay.errors import InvalidArgument
from bay.images import references
from bay.images.references import Reference

ALL = "*"


def beginning(text: str) -> str:
    """An operator's text in the spelling that `admits` compares. Raises InvalidArgument."""
    if text == ALL:
        return text
    host, slash, rest = text.partition("/")
    if not references.is_host(host):
        raise InvalidArgument(
            f"{text[:200]!r} does not begin with a registry, which has a dot or a port in its name, or is localhost; "
            f"images of Docker Hub begin with {references.DOCKER}/"
        )
    if not rest:
        return references.parse_host(host) + slash
    if ":" in rest or "@" in rest:
        found = references.parse(text)
        return f"{found.name}@{found.digest}" if found.digest else f"{found.name}:{found.tag}"
    path = rest.removesuffix("/")
    is_one_part = path == rest and "/" not in rest
    if is_one_part and rest != "library" and references.parse_host(host) == references.DOCKER:
        raise InvalidArgument(
            f"{text[:200]!r} may mean an official image or somebody's images; write {references.DOCKER}/library/{rest} "
            f"or {references.DOCKER}/{rest}/"
        )
    # One part more, so that a path of Docker Hub is not taken for one of its official images.
    return references.parse(f"{host}/{path}/x").name.removesuffix("/x") + ("/" if rest.endswith("/") else "")


def admits(beginnings: Sequence[str], reference: Reference) -> bool:
    """Whether one of these, as `beginning` gives them, admits the image."""
    return any(_admits(one, reference) for one in beginnings)


def pinned(ref: str, told: str) -> str | None:
    """`ref` with the digest of the image `told`, which a host says that it has run for it. None where `ref`
    has a digest, and where `told` has none or is of another repository, whose digests are other ones.
    """
    wanted = references.parse(ref)
    name, at, digest = told.rpartition("@")
    if wanted.digest is not None or not at or not references.is_digest(digest):
        return None
    try:
        found = references.parse(f"{name}@{digest}")
    except InvalidArgument:
        return None
    return str(wanted.pinned(digest)) if found.name == wanted.name else None


def _admits(one: str, reference: Reference) -> bool:
    if one == ALL:
        return True
    if "@" in one:
        return one == f"{reference.name}@{reference.digest}"
    if ":" in one.rpartition("/")[2] and "/" in one:
        return reference.digest is None and one == str(reference)
    return f"{reference.name}/".startswith(f"{one}/") or (
        one.endswith("/") and reference.name.startswith(one)
    )
