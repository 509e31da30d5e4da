"""Overlay file systems over many lower layers. Every call blocks and raises OSError.

Kernels differ in how they let the layers be named: by one option for each (Linux 6.8), or all in the one page
of text that mount(2) takes. There short names are needed; the 255 bytes that fsconfig takes of a value end at
some sixty layers. A third way, by descriptor (6.13), is not used: a mount that was never attached is taken
apart when its descriptor is closed, and each of them then waits for the kernel's readers (RCU).
"""

from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bay.linux import mounts
from bay.linux.processes import closing_fd

LayerNames = Literal["options", "text"]

LAYER_NAMES: tuple[LayerNames, ...] = ("options", "text")
"""The ways to name layers, the best first. A host is asked by trial which it has."""

Options = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class OverlayLayers:
    """Detached mounts: the `lower` ones, topmost first, and that of a directory with `upper` and `work`.
    Without a `writable` one the overlay is read-only, and needs two lower layers.
    """

    lower: Sequence[int]
    writable: int | None = None


@contextmanager
def detached(sources: Sequence[Path], attributes: int, userns: int | None = None) -> Generator[list[int]]:
    """Detached mounts of the directories `sources`, id-mapped through `userns`, closed at the end."""
    with ExitStack() as held:
        found: list[int] = []
        for source in sources:
            found.append(held.enter_context(closing_fd(mounts.open_tree(source))))
            mounts.set_attributes(found[-1], attributes, userns=userns)
        yield found


def mount(
    layers: OverlayLayers, options: Options, attributes: int, names: LayerNames, prefix: str = "0"
) -> int:
    """A descriptor of a new detached overlay.

    The current directory must be an empty one of the calling thread's own mount namespace: the layers are
    mounted there, under names that begin with `prefix`, for as long as the namespace lasts.
    """
    lower = [_attached(layer, f"{prefix}.{number}") for number, layer in enumerate(layers.lower)]
    pair = {} if layers.writable is None else _pair(_attached(layers.writable, f"{prefix}.w"))
    if names == "text":
        given = {"lowerdir": ":".join(lower), **pair, **dict(options)}
        return _by_text(given, attributes, f"{prefix}.merged")
    named = [("lowerdir+", name) for name in lower]
    return mounts.new_mount("overlay", [*named, *pair.items(), *options], attributes)


def _pair(writable: str) -> dict[str, str]:
    return {"upperdir": f"{writable}/upper", "workdir": f"{writable}/work"}


def _attached(layer: int, name: str) -> str:
    Path(name).mkdir()
    with closing_fd(mounts.open_directory(name)) as directory:
        mounts.attach(layer, directory)
    return name


def _by_text(options: dict[str, str], attributes: int, name: str) -> int:
    Path(name).mkdir()
    text = ",".join(f"{key}={value}" if value else key for key, value in options.items())
    mounts.mount_by_text("overlay", name, text)
    made = mounts.open_tree(name)
    mounts.set_attributes(made, attributes)
    return made
