"""Images: root file systems that sandboxes start from."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from bay.models.sandboxes import Failure

Pull = Literal["missing", "always", "never"]
"""When a create fetches its image: if this Bay lacks it, always, or never."""

EntrypointUse = Literal["service"]
"""The use of an image's ENTRYPOINT and CMD: they become a managed service."""

ImageState = Literal["pulling", "ready", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PullProgress:
    """How far a pull has come. Bytes are of the compressed layers; totals are null until they are known."""

    step: Literal["waiting", "fetching", "unpacking"]
    bytes_done: int = 0
    bytes_total: int | None = None
    layers_done: int = 0
    layers_total: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerImage:
    """An image on this host. `ref` is the reference that was asked for, in its full form.

    `digest` is that of its manifest, null until it is known: a tag that moves later changes no image.
    `size_bytes` is the size of all its layers on disk, of which others may share some. An image with
    `shared` may be used by every owner.
    """

    id: str
    ref: str
    digest: str | None
    source: Literal["registry", "upload", "template"]
    state: ImageState
    shared: bool
    size_bytes: int | None
    layers: int | None
    platform: str | None
    env: dict[str, str] = field(default_factory=dict[str, str])
    """Its variables, those of its sandboxes unless they say otherwise."""
    user: str | None = None
    working_dir: str | None = None
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict[str, str])
    progress: PullProgress | None = None
    """Only while it is pulled."""
    error: Failure | None = None
    """Why it could not be pulled, or, while it is tried again, why the last attempt failed."""
    attempts: int = 0
    """How often in a row its pull has failed."""
    created_at: datetime
    last_used_at: datetime
    """When a sandbox last started from it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryLogin:
    """A registry that Bay can open for you. No answer has the password."""

    host: str
    username: str
    updated_at: datetime
