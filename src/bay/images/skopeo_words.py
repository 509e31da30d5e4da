"""Turns the end of skopeo into errors of ours. Its own text reaches no owner: it quotes paths, URLs with
signatures, digests of files and the words of a hostile registry. The log gets the end of it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from bay.errors import (
    BayError,
    DriverUnavailable,
    ImageDenied,
    ImageInvalid,
    ImageNotFound,
    ImagePlatform,
    ImageTooLarge,
    RegistryUnavailable,
    StorageFull,
)
from bay.images.skopeo import SkopeoEnd
from bay.images.spool_watch import MAX_FILES, SpoolLimits
from bay.units import MIB

log = structlog.get_logger("bay.images")

_LOGGED = 500

_STATUS = r"(?:status: |StatusCode: |from registry )"

_AGAIN = re.compile(
    rf"toomanyrequests|too many requests|{_STATUS}(?:429|5\d\d)|EOF|broken pipe|"
    r"connection reset|connection refused|i/o timeout|handshake timeout|timeout awaiting|deadline exceeded|"
    r"no route to host|network is unreachable|server misbehaving|temporary failure",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Meaning:
    """An error, and the words of skopeo that mean it; `{}` is the image."""

    pattern: str
    error: Callable[[str], BayError]
    text: str


_OF_ANY = (
    _Meaning(
        r"no space left on device|disk quota exceeded",
        StorageFull,
        "there is no room for {}: the disk is full; free some space and try again",
    ),
    _Meaning(
        r"file too large|file size limit|short write",
        ImageTooLarge,
        "{} has a layer that is larger than the limit of a whole image; make it smaller",
    ),
    _Meaning(
        r"no image found in (?:image index|manifest list)|no image found for platform",
        ImagePlatform,
        "{} is not there for the platform of this host",
    ),
    _Meaning(
        r"digest did not match|does not match|digest mismatch|unexpected size|invalid checksum",
        ImageInvalid,
        "{} has content that is not what its digest says; push it again",
    ),
)
_OF_REGISTRIES = (
    _Meaning(
        rf"toomanyrequests|too many requests|{_STATUS}429",
        RegistryUnavailable,
        "{}: the registry refuses more requests for now; try again later, or give credentials",
    ),
    _Meaning(
        rf"{_STATUS}5\d\d",
        RegistryUnavailable,
        "{}: the registry fails; try again later",
    ),
    _Meaning(
        r"HTTP response to HTTPS client|does not look like a TLS handshake",
        RegistryUnavailable,
        "{}: the registry speaks plain HTTP, which it may only where the operator names it in BAY_REGISTRIES "
        "with `insecure`",
    ),
    _Meaning(
        r"x509: |tls: ",
        RegistryUnavailable,
        "{}: the registry's certificate is not valid here; the operator gives its authority in BAY_REGISTRIES "
        "as `ca_file`",
    ),
    _Meaning(
        r"no such host|server misbehaving",
        RegistryUnavailable,
        "{}: the registry's name leads to no public address; check it for a slip, or have the operator give "
        "its addresses in BAY_REGISTRIES",
    ),
    _Meaning(
        rf"unauthorized: |authentication required|denied: |is denied|{_STATUS}40[13]|"
        r"invalid username/password|unable to retrieve auth token",
        ImageDenied,
        "the registry denies access to {}: give the credentials of a user who may pull it, or check those "
        "given; some registries answer so for an image that does not exist",
    ),
    _Meaning(
        rf"blob unknown|fetching blob: {_STATUS}4(?:04|10)",
        ImageNotFound,
        "the registry has {}, and lacks a layer or the config of it; push it again",
    ),
    _Meaning(
        rf"manifest unknown|name unknown|repository name not known|{_STATUS}404|not found",
        ImageNotFound,
        "the registry has no {}; check the reference for a slip",
    ),
)
_NO_REGISTRY = _Meaning(
    "", RegistryUnavailable, "{}: the registry cannot be reached, or breaks off; try again later"
)
_NO_ARCHIVE = _Meaning(
    "",
    ImageInvalid,
    "{} is not an archive of exactly one image, as `docker save` and OCI tools write it; make it again",
)


def passed_limit(what: str, passed: str, limits: SpoolLimits, *, remote: bool) -> BayError:
    """The error for a run that was ended by Bay, at the limit of that name."""
    if passed == "bytes":
        return ImageTooLarge(
            f"{what} has more than {limits.max_bytes / MIB:.0f} MiB, the limit; make it smaller, or have the "
            "operator raise `images_max_mb`"
        )
    if passed == "files":
        return ImageInvalid(
            f"{what} has more than {MAX_FILES} files beside its layers, or too deep; make it again"
        )
    slow = f"came no further for {limits.stall_s:g} s" if passed == "stall" else "was not complete in time"
    if not remote and passed == "stall":  # something in it is waited for, such as a fifo
        return ImageInvalid(f"reading {what} {slow}: it is damaged, or no archive of an image; make it again")
    if not remote:
        return DriverUnavailable(f"reading {what} {slow}: this host is too busy; try again later")
    return RegistryUnavailable(f"{what} {slow}: the registry, or the way to it, is too slow; try again later")


def failure(what: str, quoted: Sequence[str], end: SkopeoEnd, *, remote: bool) -> tuple[BayError, bool]:
    """The error that a run's end means, and whether another attempt may mend it; the log is told more.
    `quoted`: the parts of the reference, which skopeo repeats and a caller chose.
    """
    said = end.said.decode(errors="replace")
    for part in quoted:
        said = said.replace(part, "IMAGE")
    log.info("images.fetch_failed", image=what, code=end.code, said=_for_the_log(said))
    return _meaning(what, said, remote=remote), remote and bool(_AGAIN.search(said))


def is_out_of_room(end: SkopeoEnd) -> bool:
    """Whether a run ended since it could not write as much as it had to."""
    return isinstance(
        _meaning("", end.said.decode(errors="replace"), remote=False), ImageTooLarge | StorageFull
    )


def _meaning(what: str, said: str, *, remote: bool) -> BayError:
    meanings = (*_OF_ANY, *_OF_REGISTRIES) if remote else _OF_ANY
    last = _NO_REGISTRY if remote else _NO_ARCHIVE
    found = next((one for one in meanings if re.search(one.pattern, said, re.IGNORECASE)), last)
    return found.error(found.text.replace("{}", what))


def _for_the_log(said: str) -> str:
    """The end of it, without the queries of URLs, which hold signatures."""
    return re.sub(r"\?[^\s\"'\\]+", "?…", said)[-_LOGGED:]
