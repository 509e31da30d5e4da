"""What a Bay has of images on its disk, and what pulls leave on the host."""

import time
from collections.abc import Callable
from pathlib import Path

from bay.drivers.oci.idrange import ID_RANGES, IDS_DIR, IdRanges
from bay.linux.processes import owned_by
from bay.server.settings import Settings

Left = tuple[set[Path], set[Path], set[Path | int]]


def left(images: Path, environment: dict[str, str]) -> Left:
    """The layers, the tops, and whatever else there is: parts, fetches, claims of ids, and processes."""
    run = Path(environment["BAY_RUN_DIR"])
    ranges = IdRanges(IDS_DIR, Settings.model_fields["id_range_start"].default, ID_RANGES)
    claimed = {
        number: path
        for number, path in ranges.holders().items()
        if {run, images} & set(path.parents) and path.parent.name != "sessions"
    }
    parts = [part for name in ("spools", "tmp", "trash", "uploads") for part in (images / name).iterdir()]
    running = [pid for n in claimed for pid in owned_by(range(ranges.first_of(n), ranges.first_of(n + 1)))]
    return (
        set((images / "layers").iterdir()),
        set((images / "tops").iterdir()),
        {*parts, *claimed.values(), *run.rglob("fetch-*"), *running},
    )


def becomes(expected: Left, look: Callable[[], Left]) -> None:
    end = time.monotonic() + 30
    while (found := look()) != expected and time.monotonic() < end:
        time.sleep(0.05)
    assert found == expected
