"""Service specs: parses and checks them, orders their start, and decides on restarts."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Literal, cast

from ship.errors import InvalidArgument
from ship.execs import request

MAX_SERVICES = 32

Restart = Literal["always", "on-failure", "never"]

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_RESTARTS: tuple[Restart, ...] = ("always", "on-failure", "never")
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0
_STEADY_S = 60.0
_MAX_QUICK_ENDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How to find out whether a service works: a connection to a port, with `path` a GET, or a command."""

    port: int | None
    argv: tuple[str, ...] = ()
    """Empty where there is a port."""
    path: str | None
    interval_s: float
    timeout_s: float
    retries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str | None
    user: str | None
    needs: tuple[str, ...]
    restart: Restart
    health: Health | None
    enabled: bool


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The end of a run. Without a code and a signal it could not be started: see `problem`."""

    exit_code: int | None
    signal: int | None
    lasted_s: float
    problem: str | None = None

    @property
    def failed(self) -> bool:
        """Whether this is no end that a program means to come to."""
        return self.exit_code != 0

    @property
    def was_quick(self) -> bool:
        """Whether it had hardly begun."""
        return self.lasted_s < _STEADY_S

    def describe(self) -> str:
        if self.problem is not None:
            return f"could not be started: {self.problem}"
        if self.signal is not None:
            return f"was ended by signal {self.signal}"
        return f"ended with exit code {self.exit_code}"


def after_end(restart: Restart, ended: RunEnd, quick: int) -> float | Literal["exited", "failed"]:
    """The seconds until the restart, or the final state. `quick` counts quick ends in a row, this one too."""
    if restart == "never" or (restart == "on-failure" and not ended.failed):
        return "exited"
    if quick >= _MAX_QUICK_ENDS:
        return "failed"
    return min(_FIRST_WAIT_S * 2 ** max(0, quick - 1), _LONGEST_WAIT_S)


def read(body: object) -> tuple[ServiceSpec, ...]:
    """The services in a decoded JSON `body`, each after all that it needs. Raises InvalidArgument."""
    given = request.json_object(body, "the body")
    listed, shared = given.get("services"), request.environment(given.get("env"))
    if not isinstance(listed, list):
        raise InvalidArgument("services must be a list", field="services")
    items = cast("list[object]", listed)
    if len(items) > MAX_SERVICES:
        raise InvalidArgument(f"a sandbox may have at most {MAX_SERVICES} services", field="services")
    found = {one.name: one for one in (_service(item, shared) for item in items)}
    if len(found) < len(items):
        raise InvalidArgument("two services have the same name; give each its own", field="services")
    return tuple(found[name] for name in _sorted(found))


def levels(orders: Iterable[ServiceSpec]) -> list[set[str]]:
    """Names in the order in which they start: those of a level need only those of levels before it."""
    depth: dict[str, int] = {}
    for one in orders:
        depth[one.name] = 1 + max((depth[name] for name in one.needs), default=-1)
    deepest = max(depth.values(), default=-1)
    return [{name for name, found in depth.items() if found == level} for level in range(deepest + 1)]


def _sorted(found: Mapping[str, ServiceSpec]) -> list[str]:
    for one in found.values():
        if missing := [name for name in one.needs if name not in found]:
            problem = f"service {one.name} needs {missing[0]}, which does not exist"
            raise InvalidArgument(problem, field="needs")
    try:
        return list(TopologicalSorter({one.name: one.needs for one in found.values()}).static_order())
    except CycleError as error:
        circle = " → ".join(cast("list[str]", error.args[1]))
        raise InvalidArgument(f"services need each other in a cycle: {circle}", field="needs") from error


def _service(value: object, shared: Mapping[str, str]) -> ServiceSpec:
    given = request.json_object(value, "a service")
    name = given.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problem = "a service's name must have 1 to 63 characters of a-z, 0-9 and inner hyphens"
        raise InvalidArgument(problem, field="name")
    restart = given.get("restart", "always")
    if restart not in _RESTARTS:
        raise InvalidArgument(f"restart must be one of {', '.join(_RESTARTS)}", field="restart")
    return ServiceSpec(
        name=name,
        argv=request.words(given.get("argv")),
        environment={**shared, **request.environment(given.get("env"))},
        cwd=request.optional_text(given, "cwd"),
        user=request.optional_text(given, "user"),
        needs=_needs(given.get("needs")),
        restart=restart,
        health=None if given.get("health") is None else _health(given.get("health")),
        enabled=given.get("enabled") is not False,
    )


def _needs(value: object) -> tuple[str, ...]:
    names = cast("object", [] if value is None else value)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in cast("list[object]", names)):
        raise InvalidArgument("needs must be a list of names", field="needs")
    return tuple(cast("list[str]", names))


def _health(value: object) -> Health:
    given = request.json_object(value, "health")
    path = request.optional_text(given, "path")
    if path is not None and (
        not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path
    ):
        raise InvalidArgument("health.path must begin with / and be printable ASCII", field="health")
    port, argv = given.get("port"), given.get("argv")
    if (port is None) == (argv is None):
        raise InvalidArgument("health must have either port or argv", field="health")
    return Health(
        port=None if port is None else request.whole(port, "health.port", 65_535, "health"),
        argv=() if argv is None else request.words(argv),
        path=path,
        interval_s=request.seconds(given.get("interval_s", 5.0), "health.interval_s", positive=True),
        timeout_s=request.seconds(given.get("timeout_s", 2.0), "health.timeout_s", positive=True),
        retries=request.whole(given.get("retries", 3), "health.retries", 1000, "health"),
    )
