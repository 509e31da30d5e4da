"""The crash matrix: Bay is killed at every place of every operation, and what is lost, leaked or doubled is
counted.

`make crash` runs all of it and prints the table; `make crash ARGS=--write` also puts it into
docs/reliability.md.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from crash_case import Json, can_run
from crash_checks import Verdict
from crash_operations import OPERATIONS
from criu_program import CriuMissing, working_criu

PROGRAM = Path(__file__).parents[1] / "support" / "killed_bay.py"
DOCUMENT = Path(__file__).parents[2] / "docs/reliability.md"
BEGIN, END = "<!-- table of make crash -->", "<!-- end of the table -->"
LANES = 2
_LONGEST_S = 120
_KILLED = -9
_LINE = 1 << 20


@dataclass(frozen=True, slots=True)
class Point:
    """A place of an operation; half-way through a call it is `after_s` seconds after the call began."""

    name: str
    after_s: float

    @property
    def kind(self) -> str:
        """Its name without how often it was passed before."""
        return self.name.rpartition(" #")[0]

    @property
    def is_yield(self) -> bool:
        """Whether the driver has just left something behind."""
        return " yielded " in self.name


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one kill."""

    operation: str
    point: str
    was_reached: bool
    verdict: Verdict

    def __str__(self) -> str:
        return f"{self.operation}, {self.point}: " + "; ".join(self.verdict.faults)


class Lane:
    """One case after the other, each in directories of its own."""

    def __init__(self, process: asyncio.subprocess.Process, cache: Path, criu: str | None) -> None:
        self._process = process
        self._shared = {"cache": str(cache), "criu": criu}
        self._unanswered = 0
        """Orders whose answer has not been read; more than one after a cancellation."""

    async def count(self, operation: str) -> tuple[list[Point], Outcome]:
        """The places that the operation passes, and what comes of a kill behind the last."""
        async with self._root(operation) as root:
            verdict = await self._verdict(root, operation, None)
            seen: dict[str, float] = json.loads(_text(root / "points") or "{}")
        points = [Point(name, took / 2) for name, took in seen.items()]
        return points, Outcome(operation, "behind the last", True, verdict)

    async def case(self, operation: str, point: Point) -> Outcome:
        """Kill the operation at a place, and see what comes of it."""
        async with self._root(operation) as root:
            verdict = await self._verdict(root, operation, point)
            return Outcome(operation, point.name, not _text(root / "points"), verdict)

    async def _verdict(self, root: Path, operation: str, point: Point | None) -> Verdict:
        try:
            await self._kill(root, operation, point)
            # Once in each row the trials of the host meet what a killed Bay has left.
            await self._expect(0, root, "judge", operation, tries_host=point is None)
            return Verdict(**json.loads((root / "verdict").read_text()))
        except AssertionError as error:
            return Verdict(lost=[str(error)])

    @asynccontextmanager
    async def _root(self, operation: str) -> AsyncGenerator[Path]:
        """A short directory that the sandboxes' own users may pass through; nothing of the case outlives the
        block.
        """
        path = Path(tempfile.mkdtemp(prefix="bay-c-", dir="/tmp"))
        path.chmod(0o711)
        try:
            yield path
        finally:
            await self._order(path, "clean", operation)
            shutil.rmtree(path)

    async def _kill(self, root: Path, operation: str, point: Point | None) -> None:
        if OPERATIONS[operation].restarts:
            await self._expect(_KILLED, root, "prepare", operation)
        where = {"kill_at": point and point.name, "kill_after_s": point.after_s if point else 0}
        await self._expect(_KILLED, root, "act", operation, **where)

    async def _expect(self, ending: int, root: Path, phase: str, operation: str, **more: object) -> None:
        ended = await self._order(root, phase, operation, **more)
        assert ended == ending, f"{phase} ended with {ended}: {_text(root / 'log')}"

    async def _order(self, root: Path, phase: str, operation: str, **more: object) -> int:
        order = {"root": str(root), **self._shared, "phase": phase, "operation": operation, **more}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._unanswered += 1
        async with asyncio.timeout(_LONGEST_S):
            while True:
                answer = await self._answer()
                if not self._unanswered:
                    return answer["ended"]

    async def _answer(self) -> Json:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        self._unanswered -= 1
        return json.loads(line)


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


@asynccontextmanager
async def lane(cache: Path, criu: str | None) -> AsyncGenerator[Lane]:
    """A lane, with a process behind it that forks Bays."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), stdin=pipe, stdout=pipe, limit=_LINE, start_new_session=True
    )
    try:
        yield Lane(process, cache, criu)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


def every(points: list[Point], n: int, offset: int) -> list[Point]:
    """Every `n`th place from `offset` on, and all that the driver yields."""
    return [point for i, point in enumerate(points) if i % n == offset % n or point.is_yield]


@dataclass(slots=True)
class Row:
    """One line of the table."""

    operation: str
    kinds: int
    """Of the places that the operation passes, those of different kinds; the rest depends on the load: writes
    that nobody waits for are gathered in more or fewer batches.
    """
    outcomes: list[Outcome] = field(default_factory=list[Outcome])

    @property
    def faults(self) -> list[str]:
        """What went wrong, in words."""
        return [str(outcome) for outcome in self.outcomes if outcome.verdict.faults]

    def cells(self) -> list[str]:
        """Its cells: how many places of different kinds there are, how many places were tried, what was lost,
        leaked and doubled, how many recovered, and the longest time that took.
        """
        verdicts = [outcome.verdict for outcome in self.outcomes]
        counts = [
            self.kinds,
            len(verdicts),
            sum(len(verdict.lost) for verdict in verdicts),
            sum(len(verdict.leaked) for verdict in verdicts),
            sum(len(verdict.doubled) for verdict in verdicts),
            sum(not verdict.faults for verdict in verdicts),
        ]
        longest = max(verdict.recovered_s for verdict in verdicts)
        return [self.operation, *map(str, counts), f"{longest:.2f} s"]


Lanes = asyncio.Queue[Lane]


@asynccontextmanager
async def free(lanes: Lanes) -> AsyncGenerator[Lane]:
    """The next lane that has nothing to do."""
    one = await lanes.get()
    try:
        yield one
    finally:
        lanes.put_nowait(one)


async def run_operation(
    lanes: Lanes, operation: str, told: Callable[[Outcome], None], *, every_nth: int = 1, offset: int = 0
) -> Row:
    """Kill one operation at its places, as many at once as there are lanes; `told` hears of each kill."""
    async with free(lanes) as one:
        points, last = await one.count(operation)
    told(last)

    async def case(point: Point) -> Outcome:
        async with free(lanes) as one:
            outcome = await one.case(operation, point)
        told(outcome)
        return outcome

    chosen = every(points, every_nth, offset)
    return Row(operation, kinds(points), [last, *await asyncio.gather(*map(case, chosen))])


def kinds(points: Iterable[Point]) -> int:
    """The number of places, where one that is passed again counts once."""
    return len({point.kind for point in points})


async def count_kinds(operation: str, cache: Path, criu: str | None) -> int:
    """That number by a run of its own, with a kill behind the last place alone."""
    async with lane(cache, criu) as one:
        return kinds((await one.count(operation))[0])


def documented_kinds() -> dict[str, int]:
    """That number of each operation as the table in the documentation has it."""
    shown = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    cells = [line.strip("| ").split(" | ") for line in shown.strip().splitlines()[2:]]
    return {name: int(number) for name, number, *_ in cells}


async def run_all(
    operations: Iterable[str],
    cache: Path,
    criu: str | None,
    *,
    every_nth: int = 1,
    told: Callable[[Outcome], None],
) -> list[Row]:
    """Kill each of the operations; without `criu` none that hibernates."""
    async with AsyncExitStack() as stack:
        lanes = Lanes()
        for _ in range(LANES):
            lanes.put_nowait(await stack.enter_async_context(lane(cache, criu)))
        rows = (
            run_operation(lanes, name, told, every_nth=every_nth, offset=i)
            for i, name in enumerate(operations)
        )
        return await asyncio.gather(*rows)


def table(rows: Iterable[Row]) -> str:
    """The table, in Markdown."""
    head = ["operation", "kinds", "places", "lost", "leaked", "doubled", "recovered", "longest recovery"]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _run(arguments: argparse.Namespace) -> int:
    operations = arguments.operations or OPERATIONS
    with ExitStack() as stack:
        cache = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bay-cc-", dir="/tmp")))
        cache.chmod(0o711)
        needs_criu = any(OPERATIONS[name].hibernates for name in operations)
        criu = stack.enter_context(working_criu()) if needs_criu else None
        rows = asyncio.run(run_all(operations, cache, criu, every_nth=arguments.every, told=_tell))
    _say(table(rows))
    if arguments.write:
        _write(table(rows))
    return 1 if any(row.faults for row in rows) else 0


def _tell(outcome: Outcome) -> None:
    if outcome.verdict.faults:
        _say(str(outcome))
    elif not outcome.was_reached:
        _say(f"{outcome.operation}, {outcome.point}: not passed again; killed behind the last place")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _write(text: str) -> None:
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operations", nargs="*", help="some of them; all if none is named")
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="only every Nth place, and the driver's steps"
    )
    parser.add_argument("--write", action="store_true", help=f"put the table into {DOCUMENT.name}")
    arguments = parser.parse_args()
    if not can_run():
        _say("the crash matrix needs root and runc")
        return 1
    try:
        return _run(arguments)
    except CriuMissing as error:
        _say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
