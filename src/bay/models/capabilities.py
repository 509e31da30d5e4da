"""The model of what a server can do, as any key sees it."""

from dataclasses import dataclass
from typing import Literal

from bay.models.network import NetworkMode
from bay.models.storage import Persist

PauseKind = Literal["freezer", "processes"]
"""How programs are stopped: `freezer` by the kernel, in one step; `processes` by Ship, with signals."""

CheckpointKind = Literal["snapshot", "copy", "archive"]
"""How a checkpoint is made: `snapshot` by the storage, at an instant; `copy` of all files on the host's disk;
`archive` of all files, in the object store."""

EgressKind = Literal["enforced", "unenforced", "proxy"]
"""How sandboxes are held to their network modes: `enforced` whatever their programs do; `unenforced` not at
all; `proxy` as `enforced`, and what rules allow is reached by Bay's proxy alone."""


OtherImages = Literal["layers", "names"]
"""Images besides those that the driver has: `layers` that Bay pulls; `names` that the operator admits, which
the host fetches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCapabilities:
    """The abilities of a server, by its driver and its storage. A call that needs another one is refused with
    `capability_not_supported` before it begins anything; a profile may offer less.
    """

    driver: str
    isolations: tuple[str, ...]
    pause: PauseKind | None
    memory: tuple[str, ...]
    """The isolations whose sandboxes can hibernate: their memory is saved on disk."""
    checkpoints: CheckpointKind | None
    """Those that are made from now on; also restores and forks, null without any."""
    exports: bool
    """Whether checkpoints leave and come as archives."""
    persist: tuple[Persist, ...]
    images: tuple[str, ...]
    """Images that the driver has of its own."""
    other_images: OtherImages | None
    network: tuple[NetworkMode, ...]
    network_rules: bool
    network_headers: bool
    """Whether a rule may add a header to requests."""
    egress: EgressKind
    resize: bool
    """Whether sizes change while compute runs."""
    usage: bool
    """Whether running sandboxes are measured."""
    metrics: bool
    """Whether their use over time is kept."""
    volumes: bool
    secret_files: bool
