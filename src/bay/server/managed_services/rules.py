"""Rules for all services of a sandbox together. Pure; the API checks the fields of each."""

import re
from collections.abc import Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter

from bay.errors import InvalidArgument
from bay.models import ServiceSpec
from bay.server.web.bodies import check_allowed, check_user
from bay.server.web.workspace_paths import working_directory

MAX_SERVICES = 32
MAX_CHARS = 64 * 1024

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


def checked(specs: Sequence[ServiceSpec], *, root: bool) -> tuple[ServiceSpec, ...]:
    """The services as they are stored. Raises InvalidArgument, InvalidPath, and Forbidden without `root`."""
    if len(specs) > MAX_SERVICES:
        raise InvalidArgument(f"a sandbox may have at most {MAX_SERVICES} services; delete one first")
    if len({spec.name for spec in specs}) < len(specs):
        raise InvalidArgument("two services have the same name; give each its own")
    found = tuple(_checked(spec, root=root) for spec in specs)
    _check_needs(found)
    return found


def needing(specs: Sequence[ServiceSpec], name: str) -> list[str]:
    """Names of the services that need that one."""
    return [spec.name for spec in specs if name in spec.needs]


def _checked(spec: ServiceSpec, *, root: bool) -> ServiceSpec:
    if not _NAME.fullmatch(spec.name):
        raise InvalidArgument("a service's name must have 1 to 63 characters of a-z, 0-9 and inner hyphens")
    check = (spec.health and spec.health.argv) or ()
    if not spec.argv or not spec.argv[0]:
        raise InvalidArgument(f"service {spec.name} has no program; make it the first item of argv")
    if check and not check[0]:
        raise InvalidArgument(f"the health of {spec.name} has no program; make it the first item of argv")
    if sum(map(len, (*spec.argv, *check, *spec.env, *spec.env.values()))) > MAX_CHARS:
        raise InvalidArgument(
            f"argv, health and env of service {spec.name} have more than {MAX_CHARS} characters; put long values "
            "into a file"
        )
    check_user(spec.user)
    check_allowed(spec.user, root=root)
    return spec if spec.cwd is None else replace(spec, cwd=working_directory(spec.cwd))


def _check_needs(specs: Sequence[ServiceSpec]) -> None:
    names = {spec.name for spec in specs}
    for spec in specs:
        if missing := [name for name in spec.needs if name not in names]:
            raise InvalidArgument(
                f"service {spec.name} needs {missing[0]}, which does not exist; define it first"
            )
    try:
        TopologicalSorter({spec.name: spec.needs for spec in specs}).prepare()
    except CycleError as error:
        raise InvalidArgument(f"services need each other in a cycle: {' → '.join(error.args[1])}") from error
