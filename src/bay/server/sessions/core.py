"""The core: what the services and the reconciler stand on."""

from dataclasses import dataclass

from bay.cargo.base import CargoBackend
from bay.clock import Clock
from bay.drivers.base import Driver
from bay.images.base import ImageLibrary
from bay.meters import Meters
from bay.models import Profile
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.tracing import Tracing

DEFAULT_PROFILE = "python-default"
"""The profile of a create that names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """The database, driver, files and images of a Bay, its profiles, clock, metrics and traces."""

    store: Store
    deferred: DeferredWrites
    driver: Driver
    cargo: CargoBackend
    images: ImageLibrary
    profiles: dict[str, Profile]
    clock: Clock
    meters: Meters
    tracing: Tracing
