"""Images that a caller named, as a kubelet speaks of them.

The words are those of containerd and CRI-O, and of the registries behind them. They quote the reference,
which a caller chose, and addresses with queries.
"""

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from bay.drivers.base import SessionSpec
from bay.drivers.kubernetes.kube import Kube
from bay.drivers.kubernetes.pod import CONTAINER, pod_name
from bay.drivers.kubernetes.pod_watch import PodState, PodWatch, WaitingContainer
from bay.drivers.kubernetes.session_state import is_over
from bay.errors import (
    BayError,
    DriverUnavailable,
    ImageDenied,
    ImageNotFound,
    ImagePlatform,
    SandboxNotReady,
)

_TOLD_S = 20.0
"""A busy kubelet takes some seconds."""

_SCHEME = re.compile(r"^[a-z-]+://")
_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
_QUERY = re.compile(r"\?[^\s\"'\\]+")
_SHOWN = 500
_LONGEST = 4096
"""Characters of a kubelet's words that are looked at."""

_PULLS = frozenset(("ErrImagePull", "ImagePullBackOff"))


@dataclass(frozen=True, slots=True)
class _KubeletWords:
    """An error, and the words that mean it; `{}` is the image."""

    pattern: re.Pattern[str]
    error: Callable[[str], BayError]
    text: str


_MEANINGS = (
    _KubeletWords(
        re.compile(r"no match for platform|no image found in (?:image index|manifest list)", re.IGNORECASE),
        ImagePlatform,
        "{} is not there for the platform of the cluster's nodes",
    ),
    _KubeletWords(
        re.compile(
            r"access denied|authorization failed|authentication required|no basic auth credentials|"
            r"\bunauthorized\b|\bdenied\b|\b40[13] (?:unauthorized|forbidden)|\bstatus(?: code)?:? 40[13]\b",
            re.IGNORECASE,
        ),
        ImageDenied,
        "the registry denies the cluster's nodes access to {}; check the reference for a slip, as some registries "
        "answer so for an image that does not exist, or have the server's operator add a login to pull_secrets",
    ),
    _KubeletWords(
        re.compile(r"manifest unknown|name unknown|repository name not known|not found", re.IGNORECASE),
        ImageNotFound,
        "the registry has no {}; check the reference for a slip",
    ),
)


async def told(watch: PodWatch, spec: SessionSpec, uid: str) -> str | None:
    """The image with its digest that the kubelet names for a reference without one, which it does when the
    container runs: half a second after Ship answers. None where it takes long, or names no digest.
    """
    if not is_open(spec.image):
        return None
    name = pod_name(spec.session_id)
    with suppress(TimeoutError):
        async with asyncio.timeout(_TOLD_S):
            state = watch.get(name)
            while state is not None and state.uid == uid and not is_over(state):
                if (image_id := state.images.get(CONTAINER)) is not None:
                    return with_digest(image_id)
                state = await watch.changed(name, state)
    return None


async def check(kube: Kube, state: PodState, waiting: WaitingContainer, image: str) -> None:
    """Raises ImageNotFound, ImageDenied, ImagePlatform or SandboxNotReady for a container whose image the
    node will not get. Older kubelets tell why in an Event alone, once they wait for the next attempt.
    """
    if (found := trouble(image, waiting.reason, waiting.message)) is not None:
        raise found
    if waiting.reason != "ImagePullBackOff":
        return
    with suppress(DriverUnavailable):
        for event in reversed(await kube.events_of(state.uid)):
            said = str(event.get("message"))
            if event.get("reason") == "Failed" and "pull" in said:
                raise trouble(image, "ErrImagePull", said) or SandboxNotReady(
                    f"image {image} cannot be fetched: {shown(said)}"
                )


def is_open(image: str) -> bool:
    """Whether it is a reference that may name another image tomorrow."""
    return "/" in image and "@" not in image


def with_digest(image_id: str) -> str | None:
    """The image of a container's `imageID`, which has no digest where it was not fetched from a registry."""
    found = _SCHEME.sub("", image_id)
    return found if _DIGEST.fullmatch(found) else None


def trouble(image: str, reason: str, message: str) -> BayError | None:
    """The error for a container that waits for that reason; None where no registry gave a clear answer."""
    if reason == "ErrImageNeverPull":
        return ImageNotFound(
            f"no node has {image} that may run it, and the setting pull_policy has nodes fetch no images"
        )
    if reason not in _PULLS:
        return None
    said = _without(image, message[:_LONGEST])
    found = next((one for one in _MEANINGS if one.pattern.search(said)), None)
    return None if found is None else found.error(found.text.replace("{}", image))


def shown(message: str) -> str:
    """A kubelet's words for a caller, without the queries of addresses, which may hold signatures."""
    return _QUERY.sub("?…", message[:_LONGEST])[:_SHOWN]


def _without(image: str, message: str) -> str:
    """The words without those that the caller chose: a repository may be called `denied`."""
    name = image.partition("@")[0]
    before, colon, tag = name.rpartition(":")
    bare = before if colon and "/" not in tag else name
    for part in sorted({image, name, bare, bare.partition("/")[2]}, key=len, reverse=True):
        message = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", "IMAGE", message)
    return message
