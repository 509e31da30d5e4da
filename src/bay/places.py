"""The places of files that a session mounts: a directory of Bay's host, or a volume claim of a cluster."""

from dataclasses import dataclass
from pathlib import Path

from bay.errors import DriverUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeClaim:
    """A PersistentVolumeClaim of a Kubernetes cluster, by its name in the namespace of Bay's pods.

    Only a pod that mounts it has its files. With `read_write_once_pod` that is one pod at a time; without,
    it is any number of pods of one node.
    """

    name: str
    read_write_once_pod: bool


Place = Path | VolumeClaim


def directory_of(place: Place) -> Path:
    """The directory of this host that `place` is. Raises DriverUnavailable for a volume claim."""
    if isinstance(place, Path):
        return place
    raise DriverUnavailable(
        f"the files are in volume claim {place.name}, which only a pod of its cluster can mount; use the driver of "
        "that cluster, or a cargo backend with directories of this host"
    )


def claim_of(place: Place) -> VolumeClaim:
    """The volume claim that `place` is. Raises DriverUnavailable for a directory of this host."""
    if isinstance(place, VolumeClaim):
        return place
    raise DriverUnavailable(
        f"the files are in directory {place.name} of Bay's host, which no pod can mount; use the cargo backend "
        "volume-claims, or a driver of this host"
    )
