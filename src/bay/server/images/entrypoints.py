"""The command of an image as a managed service, for sandboxes that asked for it."""

from typing import Any

from bay.errors import ImageInvalid
from bay.models import Profile, ServiceHealth, ServiceSpec
from bay.server.managed_services.rules import MAX_CHARS
from bay.store.records import ImageRecord

NAME = "main"
_SHORTEST_S, _LONGEST_S = 0.1, 600.0
_INTERVAL_S = _TIMEOUT_S = 30.0  # Docker's, for an image that says nothing


def service_of(image: ImageRecord, profile: Profile) -> ServiceSpec:
    """ENTRYPOINT and CMD of an image that is here, as its USER and in its WORKDIR, with its HEALTHCHECK.

    Where the image wants root and the profile allows none, uid 1000 runs it. Raises ImageInvalid for an image
    without a command.
    """
    config, facts = image.config or {}, image.facts or {}
    argv, health = (*config.get("entrypoint", ()), *config.get("cmd", ())), _health(config.get("healthcheck"))
    if not argv or not argv[0]:
        raise ImageInvalid(
            f"image {image.ref} has neither ENTRYPOINT nor CMD, so there is no service to start"
        )
    if sum(map(len, (*argv, *(health.argv if health and health.argv else ())))) > MAX_CHARS:
        raise ImageInvalid(
            f"the command and the health check of image {image.ref} have more than {MAX_CHARS} characters; define a "
            "service of your own"
        )
    user = facts.get("user")
    runs_as = user["name"] if user and (user["uid"] or profile.root) else None
    return ServiceSpec(
        name=NAME,
        argv=argv,
        cwd=facts.get("working_dir"),
        user=runs_as,
        health=health,
    )


def _health(found: dict[str, Any] | None) -> ServiceHealth | None:
    if found is None or not (argv := _command(*found["test"])) or not argv[0]:
        return None
    return ServiceHealth(
        argv=argv,
        interval_s=_bounded(found["interval_s"] or _INTERVAL_S),
        timeout_s=_bounded(found["timeout_s"] or _TIMEOUT_S),
        retries=min(found["retries"] or 3, 100),
    )


def _command(kind: str = "NONE", *words: str) -> tuple[str, ...]:
    match kind:
        case "CMD":
            return words
        case "CMD-SHELL":
            return ("/bin/sh", "-c", *words)
        case _:
            return ()


def _bounded(seconds: float) -> float:
    return max(_SHORTEST_S, min(seconds, _LONGEST_S))
