"""`python -m bench [NAMES] [--scale X] [--count N] [--size N] [--json FILE]`: measure, print a table, write
JSON.

It starts a Bay of its own, and compares with Docker where a daemon answers. Nothing here is a test: the
budgets are in SPECIFICATION.md, and a person looks at both.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from examples.own_server import own_server
from rich.console import Console
from rich.table import Table

from bay import __version__
from bench.base import Bench
from bench.cases import CASES, GROUPS
from bench.docker import Docker, NoDocker, docker
from bench.figures import Absent, Figure, Ratio, Result, Score
from bench.processor import speed

RESULTS = Path(__file__).with_name("results")
CONFIG = """
[profiles.python-default]
[profiles.machine]
persist = "machine"
[profiles.sprite]
user = "sprite"
home = "/home/sprite"
persist = "machine"
[profiles.e2b]
user = "user"
home = "/home/user"
persist = "machine"
"""


def main() -> int:
    """Exit code 0 when everything asked for was measured."""
    options = _options()
    console = Console(highlight=False)
    if (load := os.getloadavg()[0]) > 1:
        console.print(f"[yellow]the load of this machine is {load:.1f}: trust ratios, not milliseconds[/]")
    machine = speed()
    for figure in machine:
        console.print(f"this machine: {figure.name} takes {min(figure.samples):.1f} ms of processor time")
    found: dict[str, list[Result]] = {}
    try:
        _measure(options, console, found)
    finally:  # what was found before something failed is worth having
        console.print(_table(found))
        _write(options.json, found, machine)
        console.print(f"[dim]{options.json}[/]")
    return 0


def _measure(options: argparse.Namespace, console: Console, found: dict[str, list[Result]]) -> None:
    with docker_or_none() as peer, own_server("bay-bench-", CONFIG) as server, server.client() as client:
        bench = Bench(server, client, peer, options.scale, options.count, options.size)
        wanted = [one for name in options.names for one in GROUPS.get(name, (name,))]
        for name in wanted or CASES:
            console.print(f"[dim]measuring {name}[/]")
            found[name] = CASES[name](bench)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Bay on this machine.")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"which: {', '.join((*CASES, *GROUPS))}; all without one",
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="take this share of the usual counts and times; 0.1 for a quick look",
    )
    parser.add_argument("--count", type=_count, help="how many sandboxes `density` has; 1,000 without it")
    parser.add_argument(
        "--size", type=_bytes, help="bytes of the image of `image-pull`, as 6g; 1g without it"
    )
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    parser.add_argument("--json", type=Path, default=RESULTS / f"{stamp}.json", help="where the figures go")
    options = parser.parse_args()
    if unknown := set(options.names) - set(CASES) - set(GROUPS):
        known = ", ".join((*CASES, *GROUPS))
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {known}")
    return options


def _count(text: str) -> int:
    if (count := int(text)) < 1:
        raise ValueError
    return count


def _bytes(text: str) -> int:
    unit = {"m": 1 << 20, "g": 1 << 30}.get(text[-1:].lower(), 1)
    return _count(text if unit == 1 else text[:-1]) * unit


@contextmanager
def docker_or_none() -> Generator[Docker | None, None, None]:
    """Docker, or None with a word about it on stderr."""
    holder = docker()
    try:
        peer = holder.__enter__()
    except NoDocker as error:
        print(error, file=sys.stderr)
        yield None
        return
    try:
        yield peer
    finally:
        holder.__exit__(None, None, None)


def _table(found: dict[str, list[Result]]) -> Table:
    table = Table("benchmark", "what", "p50", "p95", "p99", "processor", "n", "note")
    for name, results in found.items():
        for result in results:
            table.add_row(name, *cells(result))
        table.add_section()
    return table


def cells(result: Result) -> tuple[str, ...]:
    match result:
        case Figure():
            numbers = (
                f"{result.p50:.1f} {result.unit}",
                f"{result.p95:.1f}",
                f"{result.p99:.1f}",
                "" if result.processor is None else f"{result.processor:.1f} ms",
                str(len(result.samples)),
            )
            return (result.name, *numbers, result.note)
        case Ratio():
            return (f"{result.of.name} / {result.to.name}", f"{result.value:.3f} times", "", "", "", "", "")
        case Score():
            note = f"{result.weighted_ms:.0f} ms weighted, {result.good} of {result.tried} succeeded"
            return (f"score: {result.of.name}", f"{result.points:.1f} points", "", "", "", "", note)
        case Absent():
            return (result.name, "", "", "", "", "", result.why)


def _write(path: Path, found: dict[str, list[Result]], speeds: Iterable[Figure]) -> None:
    machine = {
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "processor_ms": {figure.name: round(min(figure.samples), 2) for figure in speeds},
    }
    figures = {name: [result.to_json() for result in results] for name, results in found.items()}
    text = json.dumps(
        {"bay": __version__, "machine": machine, "benchmarks": figures}, indent=2, ensure_ascii=False
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
