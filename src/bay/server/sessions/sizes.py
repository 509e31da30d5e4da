"""The sizes of a sandbox: its own, within what its profile allows, else its profile's.

Pure. A size that equals the profile's is stored as the profile's, so that the pool's sandboxes fit it. One
that the operator has since forbidden is cut at the next start.
"""

from dataclasses import fields
from typing import TypeVar

from bay.errors import InvalidArgument
from bay.models import Profile, Resources, Sizes
from bay.units import MIB

N = TypeVar("N", int, float)

PROFILES_OWN = Sizes()
"""The sizes of a sandbox that asked for none."""

_NAMES = tuple(field.name for field in fields(Sizes))


def sizes_of(own: Sizes, profile: Profile) -> Sizes:
    """The sizes that hold for a sandbox with those of its `own`; a `disk_mb` of None is no limit."""
    if own == PROFILES_OWN:
        return _of_profile(profile)
    defaults, most = _of_profile(profile), most_of(profile)
    return Sizes(**{name: _within(*(getattr(of, name) for of in (own, defaults, most))) for name in _NAMES})


def resources_of(own: Sizes, profile: Profile) -> Resources:
    """The resources of a session of such a sandbox."""
    if own == PROFILES_OWN:
        return profile.resources
    sizes, default = sizes_of(own, profile), profile.resources
    memory = default.memory if sizes.memory_mb is None else sizes.memory_mb * MIB
    return Resources(cpus=sizes.cpus or default.cpus, memory=memory, pids=sizes.pids or default.pids)


def most_of(profile: Profile) -> Sizes:
    """The most that a sandbox of the profile may ask for; a `disk_mb` of None is any."""
    own = _of_profile(profile)
    return Sizes(**{name: getattr(profile, f"max_{name}") or getattr(own, name) for name in _NAMES})


def over(own: Sizes, default: Sizes) -> Sizes:
    """The sizes of `own`, and those of `default` where it has none."""
    return Sizes(**{name: getattr(default if getattr(own, name) is None else own, name) for name in _NAMES})


def checked(wanted: Sizes, profile: Profile) -> Sizes:
    """The sizes as they are stored. Raises InvalidArgument for more than the profile allows."""
    own, most = _of_profile(profile), most_of(profile)
    for name in _NAMES:
        value, limit = getattr(wanted, name), getattr(most, name)
        if value is not None and limit is not None and value > limit:
            raise InvalidArgument(
                f"{name} is {value:g}, and profile {profile.id} allows {limit:g} at most; ask for less, choose "
                f"another profile, or have its max_{name} raised",
                details={"field": f"body.{name}", "most": limit},
            )
    return Sizes(**{name: _own(getattr(wanted, name), getattr(own, name)) for name in _NAMES})


def _of_profile(profile: Profile) -> Sizes:
    has = profile.resources
    return Sizes(cpus=has.cpus, memory_mb=has.memory // MIB, disk_mb=profile.disk_mb, pids=has.pids)


def _within(own: N | None, default: N | None, most: N | None) -> N | None:
    if own is None:
        return default
    return own if most is None else min(own, most)


def _own(wanted: N | None, default: N | None) -> N | None:
    return None if wanted == default else wanted
