"""docs/metrics.md is held to the metrics that there are, both ways."""

import re
from pathlib import Path

import pytest

from bay.meters import Meters

pytestmark = pytest.mark.pure

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
ROW = re.compile(r"(?m)^\| `(\w+)` \| (\w+) \|([^|]*)\| (.+) \|$")


def documented() -> dict[str, tuple[str, tuple[str, ...]]]:
    """The type and the labels of each metric, as the page has them."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert len({name for name, *_ in rows}) == len(rows), "a metric has two rows"
    return {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in rows}


def declared() -> dict[str, tuple[str, tuple[str, ...]]]:
    """The same as the registry has them. Of those of Python and the process, labels are seen in samples."""
    meters, found = Meters(), dict[str, tuple[str, tuple[str, ...]]]()
    for family in meters.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        seen = tuple(family.samples[0].labels) if family.samples else ()
        found[name] = family.type, meters.labels.get(name, seen)
    return found


def test_the_page_has_every_metric_with_its_type_and_labels_and_no_other() -> None:
    assert documented() == declared()
