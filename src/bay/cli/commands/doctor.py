"""The command `doctor`: it looks at this machine or a cluster, mends a machine, and tries an OCI runtime."""

import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Protocol, cast

import typer

from bay.cli.output import note, print_columns, print_json, print_line
from bay.cli.state import JsonOption, load
from bay.errors import InvalidArgument


class DoctorCheck(Protocol):
    """One thing that was looked at; `numbers` are for programs."""

    name: str
    ok: bool
    required: bool
    risk: bool
    found: str
    fix: str
    numbers: Mapping[str, int]


class DoctorRuntimeTest(Protocol):
    """One test of an OCI runtime; `state` is `passed`, `failed` or `skipped`."""

    test: str
    state: str
    found: str
    details: str


class DoctorRuntimeTrial(Protocol):
    """An OCI runtime to be tried, and the setting that names it."""

    program: str
    version: str
    isolation: str
    setting: str

    def run(self) -> Iterator[DoctorRuntimeTest]:
        """Each test as it ends."""
        ...


class DoctorRepair(Protocol):
    """One command, the check that asks for it, and what it does."""

    check: str
    does: str
    command: Sequence[str]


class DoctorRepairs(Protocol):
    """Commands that mend, and words about the rest."""

    commands: Sequence[DoctorRepair]
    by_hand: Sequence[str]


def doctor(
    data_dir: Annotated[Path | None, typer.Option(help="Bay's data directory.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Run the commands that mend it, as root; else print them.")
    ] = False,
    print_only: Annotated[
        bool, typer.Option("--print", help="With --fix: print the commands alone.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --fix: do not ask.")] = False,
    kubernetes: Annotated[
        bool, typer.Option("--kubernetes", help="Start pods in the cluster that try it; a minute.")
    ] = False,
    kubeconfig: Annotated[
        Path | None, typer.Option(help="For a cluster: look with this account, not with Bay's.")
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="Try this OCI runtime, a path or a name, as root; half a minute.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Check whether this machine can run sandboxes, or the cluster, and say how to fix each problem."""
    given = load("bay.server.settings", "read")(config, data_dir=data_dir)
    if runtime is not None:
        if fix or kubernetes:
            raise InvalidArgument("--runtime goes alone: it mends nothing, and looks at this machine")
        trial = load("bay.server.offline.runtime_trial", "trial_of")(given, runtime)
        return _try(cast("DoctorRuntimeTrial", trial), as_json=as_json)
    of_cluster = load("bay.server.offline.doctor", "is_of_cluster")(given, canaries=kubernetes)
    if kubernetes:
        note("pods are started that try the cluster; this takes about a minute, and removes them again")
    elif of_cluster:
        note("--kubernetes starts pods as well, which try the cluster")

    def look() -> Sequence[DoctorCheck]:
        checks = load("bay.server.offline.doctor", "checks")
        return cast("Sequence[DoctorCheck]", checks(given, canaries=kubernetes, kubeconfig=kubeconfig))

    found = look()
    if not fix:
        return _report(found, as_json=as_json)
    is_root = os.geteuid() == 0
    seen = found if is_root or of_cluster else load("bay.server.offline.repairs", "lacking")()
    repairs = cast("DoctorRepairs", load("bay.server.offline.repairs", "plan")(seen))
    _show(repairs, as_json=as_json)
    if not is_root and not of_cluster:
        note("as root `bay doctor --fix` looks at the rest too, and runs such commands")
    if (
        print_only
        or as_json
        or not is_root
        or not repairs.commands
        or not (yes or _agreed(len(repairs.commands)))
    ):
        return _code(found)
    if not _run(repairs.commands):
        return 1
    return _report(look(), as_json=False)


def _try(trial: DoctorRuntimeTrial, *, as_json: bool) -> int:
    """A line for each test as it ends; 1 when one has failed."""
    note(f"{trial.program} is {trial.version}; each test starts sandboxes with isolation {trial.isolation}")
    count = Counter[str]()
    for test in trial.run():
        count[test.state] += 1
        if as_json:
            print_json({name: getattr(test, name) for name in DoctorRuntimeTest.__annotations__})
        else:
            print_line(f"{test.state}  {test.test}" + (f": {test.found}" if test.found else ""))
    if count["failed"]:
        rest = "" if count["passed"] else ", and no session starts, so the rest was not tried"
        note(f"{count['failed']} failed{rest}; Bay should not use {trial.program} here")
        return 1
    note(
        f"{count['passed']} passed, {count['skipped']} do not apply here; "
        f"{trial.setting}={trial.program} has Bay use it"
    )
    return 0


def _report(found: Sequence[DoctorCheck], *, as_json: bool) -> int:
    if as_json:
        for check in found:
            print_json({name: getattr(check, name) for name in DoctorCheck.__annotations__})
    else:
        print_columns(("CHECK", "STATE", "FOUND", "FIX"), map(_row, found))
    return _code(found)


def _code(found: Sequence[DoctorCheck]) -> int:
    return 1 if any(check.required and not check.ok for check in found) else 0


def _row(check: DoctorCheck) -> tuple[str, ...]:
    state = "ok" if check.ok else "missing" if check.required else "risk" if check.risk else "optional"
    return (check.name, state, str(check.found or "-"), "" if check.ok else str(check.fix or ""))


def _show(repairs: DoctorRepairs, *, as_json: bool) -> None:
    """The commands as a shell takes them, each below what it does."""
    for repair in repairs.commands:
        if as_json:
            print_json({"check": repair.check, "does": repair.does, "command": list(repair.command)})
        else:
            print_line(f"# {repair.check}: {repair.does}\n{shlex.join(repair.command)}")
    for words in repairs.by_hand:
        note(f"no command mends {words}")
    if not repairs.commands:
        note("there is nothing that a command of Bay could mend")


def _agreed(count: int) -> bool:
    """Whether a person at a terminal says yes; without one nothing is run."""
    if not sys.stdin.isatty():
        note("nothing was run, since nobody is asked here; --yes runs them")
        return False
    return typer.confirm(f"Run {'this command' if count == 1 else f'these {count} commands'}?", err=True)


def _run(repairs: Sequence[DoctorRepair]) -> bool:
    """Whether all of them succeed; the first that fails is the last."""
    for repair in repairs:
        note(shlex.join(repair.command))
        try:
            code = subprocess.run(repair.command, stdin=subprocess.DEVNULL, check=False).returncode
        except OSError as error:
            note(f"{repair.command[0]} cannot be started: {error.strerror}; nothing further was run")
            return False
        if code:
            note(f"it ended with {code}, and nothing further was run; mend that, and run it again")
            return False
    return True
