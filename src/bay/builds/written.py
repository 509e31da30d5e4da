"""A build's plan from steps that a program wrote, without a Dockerfile: its values are final.

Each step is an object with one of the keys `run` (a command for the shell, or a list of arguments), `copy`
(an object with `sources`, `target`, and `owner` and `mode` where they matter), `env` (an object), `workdir`,
`user` and `start_command` (a command for the shell).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from bay.builds.planner import Planner
from bay.builds.steps import BuildConfig, BuildPlan
from bay.errors import InvalidArgument

MAX_STEPS = 1000
"""Steps of one build."""


def plan_steps(steps: Sequence[Mapping[str, Any]], base: BuildConfig) -> BuildPlan:
    """The plan of those steps. Raises InvalidArgument with the number of the first that is wrong."""
    if len(steps) > MAX_STEPS:
        raise InvalidArgument(f"there are {len(steps)} steps; the limit is {MAX_STEPS}")
    planner = Planner(base)
    for number, step in enumerate(steps):
        try:
            _add(planner, step)
        except InvalidArgument as error:
            raise InvalidArgument(f"steps.{number}: {error.message}", details={"step": number}) from error
    return planner.plan()


def _add(planner: Planner, step: Mapping[str, Any]) -> None:
    if len(step) != 1:
        raise InvalidArgument(f"a step has one key, of {', '.join(_ACTS)}")
    key, value = next(iter(step.items()))
    if key not in _ACTS:
        raise InvalidArgument(f"{key[:40]!r} is no step; use one of {', '.join(_ACTS)}")
    _ACTS[key](planner, value)


def _run(planner: Planner, value: object) -> None:
    if isinstance(value, list):
        argv = _texts(cast("object", value), "run")
        planner.run(argv, {}, f"run {' '.join(argv)}"[:200])
    else:
        command = _text(value, "run")
        planner.run_command(command, {}, f"run {' '.join(command.split())}"[:200])


def _copy(planner: Planner, value: object) -> None:
    given = _object(value, "copy")
    if unknown := given.keys() - {"sources", "target", "owner", "mode"}:
        raise InvalidArgument(f"copy.{min(unknown)[:40]} is not known here")
    sources, target = _texts(given.get("sources"), "copy.sources"), _text(given.get("target"), "copy.target")
    mode = given.get("mode")
    planner.copy(
        sources,
        target,
        owner=_text(given.get("owner", ""), "copy.owner"),
        mode=None if mode is None else _text(mode, "copy.mode"),
        text=f"copy {' '.join((*sources, target))}"[:200],
    )


def _env(planner: Planner, value: object) -> None:
    planner.env({name: _text(one, f"env.{name[:80]}") for name, one in _object(value, "env").items()})


def _workdir(planner: Planner, value: object) -> None:
    path = _text(value, "workdir")
    planner.workdir(path, f"workdir {path}"[:200])


def _user(planner: Planner, value: object) -> None:
    planner.user(_text(value, "user"))


def _start_command(planner: Planner, value: object) -> None:
    planner.start_command = _text(value, "start_command")


_ACTS: dict[str, Callable[[Planner, object], None]] = {
    "run": _run,
    "copy": _copy,
    "env": _env,
    "workdir": _workdir,
    "user": _user,
    "start_command": _start_command,
}


def _text(value: object, key: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise InvalidArgument(f"{key} must be text without a NUL")
    return value


def _texts(value: object, key: str) -> list[str]:
    if not isinstance(value, list):
        raise InvalidArgument(f"{key} must be a list")
    return [_text(one, key) for one in cast("list[object]", value)]


def _object(value: object, key: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgument(f"{key} must be an object")
    return cast("dict[str, Any]", value)
