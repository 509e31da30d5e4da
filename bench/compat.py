"""The same three programs through each client of another platform and through Bay's own SDKs, by turns."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Self

from bay.cli.commands.compat import CLIENTS, ClientName
from bench import host, spending
from bench.base import Bench, wait_until
from bench.figures import Absent, Figure, Ratio, Result

LIVES = 10
EXECS = 200
TRANSFERS = 3
_LONGEST_S = 1800
_ROOT = Path(__file__).parents[1]
_PROGRAMS = _ROOT / "bench" / "clients"
_PYTHON = _ROOT / ".venv-compat" / "bin" / "python"
_NODE = _ROOT / "tests" / "compat" / "node"
_SDK = _ROOT / "clients" / "typescript" / "dist" / "index.js"
_TYPESCRIPT = "bay-sandbox of TypeScript"
_ACTS = {
    "life": ("create, exec, destroy", LIVES),
    "exec": ("an exec", EXECS),
    "up": ("100 MiB up", TRANSFERS),
    "down": ("100 MiB down", TRANSFERS),
}


class ClientFailed(Exception):
    """A program of a client ended in the middle of an act; its words are on stderr."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """What the clients of one platform get without options: Bay's own SDK is measured with the same."""

    profile: str
    command: str | list[str]
    note: str


_KINDS: dict[ClientName, _Kind] = {
    "bay-v1": _Kind("python-default", "true", "python-default; in a shell"),
    "sprites": _Kind("sprite", ["true"], "sprite, persist machine"),
    "e2b": _Kind("e2b", ["/bin/bash", "-l", "-c", "true"], "e2b, persist machine; in a login shell"),
}


@dataclass(frozen=True, slots=True)
class _Program:
    """A client of a platform in `bench/clients`; `own` is the program of Bay's that it is compared with."""

    kind: ClientName
    file: str
    own: str = "own.py"


_OTHERS: dict[str, _Program] = {
    _TYPESCRIPT: _Program("bay-v1", "own.mjs", "own_async.py"),
    "shipyard-neo-sdk": _Program("bay-v1", "bay_v1.py", "own_async.py"),
    "sprites-py": _Program("sprites", "sprites_sync.py"),
    "sprites-py, async": _Program("sprites", "sprites_async.py", "own_async.py"),
    "@fly/sprites": _Program("sprites", "sprites.mjs"),
    "e2b of Python": _Program("e2b", "e2b_sync.py"),
    "e2b of Python, async": _Program("e2b", "e2b_async.py", "own_async.py"),
    "e2b of JavaScript": _Program("e2b", "e2b.mjs"),
}


def compat(bench: Bench) -> list[Result]:
    """Create → exec → destroy, 200 execs, and 100 MiB up and down; ratios to Bay's own SDK with the same
    profile and command: its asynchronous client beside the asynchronous ones of Python.
    """
    with ExitStack() as stack:
        own = {key: stack.enter_context(_own(bench, *key)) for key in _owns()}
        others = {
            name: stack.enter_context(_Client(bench, name, program.kind, _command(program.file)))
            for name, program in _OTHERS.items()
            if not _missing(program.file)
        }
        _take_turns(bench, [*own.values(), *others.values()])
    return list(_results(own, others))


def _owns() -> list[tuple[ClientName, str]]:
    return list(dict.fromkeys((program.kind, program.own) for program in _OTHERS.values()))


def _take_turns(bench: Bench, clients: Sequence["_Client"]) -> None:
    for client in clients:
        client.tell("life")  # it connects, and loads what it loads late
    for act, (_, full) in _ACTS.items():
        if act == "exec":  # the sandboxes of lives are gone, and each client opens one that stays
            for client in clients:
                client.tell("open")
        for _ in range(bench.count(full)):
            for client in clients:
                client.take(act)
    for client in clients:
        client.tell("close")


def _results(
    own: Mapping[tuple[ClientName, str], "_Client"], others: Mapping[str, "_Client"]
) -> Iterator[Result]:
    mine = {key: client.figures() for key, client in own.items()}
    for figures in mine.values():
        yield from figures.values()
    for name, program in _OTHERS.items():
        if name not in others:
            yield Absent(name, f"run `{_missing(program.file)}` first")
            continue
        for act, figure in others[name].figures().items():
            yield from (figure, Ratio(figure, mine[program.kind, program.own][act]))


def _own(bench: Bench, kind: ClientName, file: str) -> "_Client":
    given = {"BENCH_PROFILE": _KINDS[kind].profile, "BENCH_COMMAND": json.dumps(_KINDS[kind].command)}
    name = f"{file.removesuffix('.py').replace('_', ', ')}, as {kind}"
    return _Client(bench, name, kind, [sys.executable, str(_PROGRAMS / file)], given)


def _missing(file: str) -> str:
    """The command that brings the client of a file; empty when it is here."""
    if file == "own.mjs":
        return "" if _SDK.exists() else "make .stamp-typescript"
    if file.endswith(".mjs"):
        return "" if (_NODE / "node_modules").is_dir() else "make .stamp-compat-node"
    return "" if _PYTHON.exists() else "make .stamp-compat"


def _command(file: str) -> list[str]:
    path = _PROGRAMS / file
    if not file.endswith(".mjs"):
        return [str(_PYTHON), str(path)]
    # Node looks for the packages of a text in its working directory, and for those of a file beside the file.
    return ["node", "--experimental-websocket", "--input-type=module", "--eval", path.read_text()]


@dataclass(slots=True)
class _Samples:
    """What acts of one name took, in milliseconds."""

    wall: list[float] = field(default_factory=list[float])
    bay: list[float] = field(default_factory=list[float])
    sandboxes: list[float] = field(default_factory=list[float])
    client: list[float] = field(default_factory=list[float])

    def figure(self, name: str, note: str) -> Figure:
        parts = (self.bay, self.sandboxes, self.client)
        shares = ", ".join(
            f"{who} {fmean(part):.1f}" for who, part in zip(("Bay", "sandbox", "client"), parts, strict=True)
        )
        processor = tuple(map(sum, zip(*parts, strict=True)))
        return Figure(name, "ms", tuple(self.wall), f"{shares}; {note}", processor)


class _Client:
    """A program that does an act when told, and answers with what that took."""

    def __init__(
        self,
        bench: Bench,
        name: str,
        kind: ClientName,
        command: Sequence[str],
        given: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._kind: ClientName = kind
        self._bench = bench
        self._view = host.View(bench.server.folder)
        self._samples = {act: _Samples() for act in _ACTS}
        self._process = subprocess.Popen(
            command, env=_environment(bench, kind) | dict(given or ()), cwd=_NODE,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._limit = threading.Timer(_LONGEST_S, self._process.kill)
        self._limit.daemon = True

    def __enter__(self) -> Self:
        self._limit.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limit.cancel()
        self._process.kill()  # by now it has nothing left to do
        self._process.communicate()

    def tell(self, act: str) -> tuple[float, float]:
        """Have an act done: its wall time and the program's processor time. Raises ClientFailed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{act}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise ClientFailed(f"the program of {self.name} ended in its act {act!r}")
        wall, own = json.loads(answer)
        return wall, own

    def take(self, act: str) -> None:
        """Have an act done, and keep what it took. What Bay tidies up behind it is its own."""
        server, sessions, samples = self._bench.server, self._view.sessions(), self._samples[act]
        bay, sandboxes = spending.of_bay_s(server), spending.of_sandboxes_s(server)
        wall, own = self.tell(act)
        wait_until(lambda: self._view.sessions() <= sessions, "the end of a deleted sandbox")
        samples.wall.append(wall)
        samples.client.append(own)
        samples.bay.append((spending.of_bay_s(server) - bay) * 1000)
        samples.sandboxes.append((spending.of_sandboxes_s(server) - sandboxes) * 1000)

    def figures(self) -> dict[str, Figure]:
        """What was taken, by act."""
        note = _KINDS[self._kind].note
        return {
            act: self._samples[act].figure(f"{words}, {self.name}", note) for act, (words, _) in _ACTS.items()
        }


def _environment(bench: Bench, kind: ClientName) -> dict[str, str]:
    url, key = bench.server.url, bench.server.api_key
    variables, _ = CLIENTS[kind]
    acts = {"BENCH_ACTS": str(_PROGRAMS / "acts.mjs"), "BENCH_SDK": str(_SDK)}
    return os.environ | {"BAY_URL": url, "BAY_API_KEY": key} | variables(url, key) | acts
