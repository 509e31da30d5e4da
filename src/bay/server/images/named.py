"""Images that a driver's host fetches itself, by their names: no row stands for one, and Bay pulls none."""

from bay.drivers.base import NamedImages
from bay.errors import CapabilityNotSupported, ImageDenied, ImageNotFound
from bay.ids import is_id_of
from bay.images import names, references
from bay.models import Profile, Pull
from bay.server.images.requests import HOST

BY_NAME = "name"
"""In `details.available` of a refusal: an image is named in the create, and needs no row."""


def full(image: str) -> str:
    """The image in its full form; `host` stays. Raises InvalidArgument."""
    return image if image == HOST else str(references.parse(image))


def checked(wanted: str | None, pull: Pull, profile: Profile, here: NamedImages) -> str | None:
    """The image of a create in its full form; None for the profile's own, which its author need not admit.
    Raises InvalidArgument, ImageDenied, ImageNotFound or CapabilityNotSupported.
    """
    if pull != "missing":
        raise CapabilityNotSupported(
            f"`pull` {pull} is not to be had here: the nodes of the cluster fetch images, as the setting pull_policy "
            "says. Leave `pull` out, and name a digest for one image and no other",
            details={"capability": "pull", "available": ["missing"]},
        )
    if wanted is None or wanted == HOST:
        return wanted
    if is_id_of("img", wanted):
        raise ImageNotFound(f"there is no image {wanted}: images have no ids here; give its reference")
    reference = references.parse(wanted)
    if str(reference) == full(profile.image):
        return None
    if not names.admits(here.admitted, reference):
        admitted = " or ".join(here.admitted) or "none"
        raise ImageDenied(
            f"image {reference} may not be named on this server, whose nodes fetch images with their own credentials; "
            f"callers may name {admitted}. Leave `image` out, or have the server's operator add it to the setting "
            "images of [kubernetes]",
            details={"ref": str(reference), "available": list(here.admitted)},
        )
    return str(reference)


def no_rows(driver: str, here: object) -> CapabilityNotSupported:
    """The error for a call about the images that Bay brings, where no sandbox could run one."""
    if isinstance(here, NamedImages):
        return CapabilityNotSupported(
            f"driver {driver} has no images to pull, upload or remove: its nodes fetch the image that a create or a "
            "profile names. Give its reference there, such as `bay create --image debian:13`",
            details={"capability": "images", "available": [BY_NAME]},
        )
    return CapabilityNotSupported(
        f"driver {driver} runs no images that Bay brings; its sandboxes have the image host",
        details={"capability": "images", "available": [HOST]},
    )
