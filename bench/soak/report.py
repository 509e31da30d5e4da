"""What a soak found, as tables for people and as JSON for another run to be compared with."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.soak.journal import Journal
from bench.soak.samples import AT_REST, OF_HOST, OF_PROCESS, Sample, Values
from bench.soak.verdict import Allowance, Point, Trend, trend

WARM_UP = 0.25
"""The share of a soak, and of a process's life, that is not judged."""

FILLED_S = 40.0
"""So long the customers take to have as many sandboxes as they ever will; not judged either, at most half of
a short soak.
"""


@dataclass(frozen=True, slots=True)
class Findings:
    """All of a soak.

    `rest_before` and `rest_after` are of the process that lived longest, without traffic.
    """

    minutes: float
    samples: Sequence[Sample]
    rest_before: Values
    rest_after: Values
    remains: Values
    journal: Journal
    log: Counter[str]

    def trends(self) -> dict[str, Trend | None]:
        """Every measure that is judged by its slope."""
        everything, life = self.samples, longest_life(self.samples)
        of_host = {name: _trend(everything, name, allowed) for name, allowed in OF_HOST.items()}
        return {name: _trend(life, name, allowed) for name, allowed in OF_PROCESS.items()} | of_host

    def problems(self) -> list[str]:
        """Why the soak is not flat, each in words; none when it is."""
        grown = [f"{name} grew by {t.growth:.1f}" for name, t in self.trends().items() if t and not t.flat]
        unrested = [f"{name} at rest: {more:+.1f}" for name, more in self.unrested().items()]
        left = [f"{value:g} left: {name}" for name, value in self.remains.items()]
        errors = [f"{count} times {kind}" for kind, count in self.journal.unexpected.items()]
        logged = [
            f"{count} times in the log: {kind}" for kind, count in self.log.items() if "warning" not in kind
        ]
        return grown + unrested + left + errors + logged

    def unrested(self) -> Values:
        """What the process holds at rest beyond what it may hold more than at its start."""
        more = {name: self.rest_after[name] - self.rest_before[name] for name in AT_REST}
        return {
            name: value for name, value in more.items() if value > AT_REST[name].of(self.rest_before[name])
        }

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        journal = self.journal
        return {
            "minutes": self.minutes,
            "problems": self.problems(),
            "trends": {name: asdict(found) if found else None for name, found in self.trends().items()},
            "at_rest": {"before": self.rest_before, "after": self.rest_after},
            "remains": self.remains,
            "done": dict(journal.done),
            "excused": dict(journal.excused),
            "unexpected": dict(journal.unexpected),
            "examples": journal.examples,
            "log": dict(self.log),
            "samples": [asdict(sample) for sample in self.samples],
        }


def longest_life(samples: Sequence[Sample]) -> list[Sample]:
    """The samples of the process that was seen most often."""
    lives = [list(life) for _, life in groupby(samples, key=lambda sample: sample.pid)]
    return max(lives, key=len) if lives else []


def show(found: Findings, console: Console) -> None:
    """Print everything but the samples."""
    console.print(_trend_table(found))
    console.print(_history_table(found.samples))
    console.print(_counts("calls", found.journal.done))
    for title, counts in (
        ("excused", found.journal.excused),
        ("unexpected", found.journal.unexpected),
        ("log", found.log),
    ):
        if counts:
            console.print(_counts(title, counts))
    for kind, example in found.journal.examples.items():
        console.print(f"{kind}: for example {example}", markup=False)
    problems = found.problems()
    for problem in problems:
        console.print(f"[red]not flat:[/] {problem}")
    console.print("[red]the soak is not flat[/]" if problems else "[green]the soak is flat[/]")


def judged(samples: Sequence[Sample]) -> Sequence[Sample]:
    """These without the warm-up."""
    if not samples:
        return samples
    span = samples[-1].at - samples[0].at
    warm_up = max(WARM_UP * span, min(FILLED_S, span / 2))
    return [sample for sample in samples if sample.at - samples[0].at >= warm_up]


def _trend(samples: Sequence[Sample], name: str, allowed: Allowance) -> Trend | None:
    points: list[Point] = [(sample.at, sample.values[name]) for sample in judged(samples)]
    return trend(points, allowed)


def _trend_table(found: Findings) -> Table:
    table = Table("measure", "after warm-up", "at the end", "growth", "allowed", "at rest", "left", "")
    for name, line in found.trends().items():
        numbers = _numbers(line) if line else ("", "", "", "")
        table.add_row(name, *numbers, _rest(found, name), f"{found.remains.get(name, 0):g}", _word(line))
    return table


def _numbers(line: Trend) -> tuple[str, ...]:
    growth = f"{line.growth:+.1f} ± {line.error:.1f}"
    return (f"{line.first:.1f}", f"{line.last:.1f}", growth, f"{line.allowed:.1f}")


def _word(line: Trend | None) -> str:
    if line is None:
        return "too few samples"
    return "[green]flat[/]" if line.flat else "[red]grows[/]"


def _rest(found: Findings, name: str) -> str:
    if name not in AT_REST:
        return ""
    return f"{found.rest_before[name]:.0f} → {found.rest_after[name]:.0f}"


def _history_table(samples: Sequence[Sample]) -> Table:
    table = Table("kept for a time, not judged", "at the start", "at the end", "an hour")
    first, last = samples[0], samples[-1]
    hours = max(last.at - first.at, 1e-9) / 3600
    for name, value in last.history.items():
        before = first.history.get(name, 0)
        table.add_row(name, f"{before:.0f}", f"{value:.0f}", f"{(value - before) / hours:.0f}")
    return table


def _counts(title: str, counts: Mapping[str, int]) -> Table:
    table = Table(title, "times")
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        table.add_row(name, str(count))
    return table
