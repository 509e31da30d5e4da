"""A Bay that is killed at any line of the store leaves a whole layer or none, and may be asked again."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from dying import lines_of, run_and_die
from layer_files import directory, entry, gzipped, names_in, parts, processes, store, tar

from bay.cargo.pool import BtrfsPool
from bay.images.layer_store import LayerLimits, LayerStore
from bay.linux import btrfs
from pools import BACKENDS, pool_in, unmounted_after

pytestmark = [
    pytest.mark.host,
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces and mounts"),
]

LAYER = gzipped(tar(directory("d"), entry("d/.wh..wh..opq"), entry("d/file", b"content")))
TREE = {"d": "directory", "d/file": "file"}
FROZEN = "template:tpl-1"
STEPS = {
    *(
        "add",
        "remove",
        "adopt",
        "_unpacked",
        "run",
        "_prepare",
        "_finish",
        "_publish",
        "_freeze",
        "_take_over",
    ),
    *("_making", "_make", "_mark_opaque", "_removed", "_destroyed", "_move"),
}


@dataclass(frozen=True)
class Act:
    before: bool
    do: Callable[[LayerStore, Path], Coroutine[None, None, object]]
    layer: str
    is_there: bool


async def add(layers: LayerStore, place: Path) -> None:
    await layers.add(place / "blob", LAYER.media_type, LAYER.diff_id, LayerLimits())


async def remove(layers: LayerStore, _place: Path) -> None:
    await layers.remove(LAYER.diff_id)


async def adopt(layers: LayerStore, place: Path) -> None:
    source = place / "box"
    if not source.exists() and btrfs.is_btrfs(place):
        btrfs.create(source)
    if not (source / "upper").exists() and layers.path(FROZEN) is None:
        (source / "upper/d").mkdir(parents=True)
        (source / "upper/d/file").write_text("content")
        (source / "work").mkdir(exist_ok=True)
    await layers.adopt(source, "upper", FROZEN)


ACTS = {
    "add": Act(False, add, LAYER.diff_id, True),
    "add again": Act(True, add, LAYER.diff_id, True),
    "remove": Act(True, remove, LAYER.diff_id, False),
    "adopt": Act(False, adopt, FROZEN, True),
}


@contextmanager
def place_on(kind: str, data_dir: Path) -> Generator[Path]:
    data_dir.mkdir()
    with unmounted_after(data_dir):
        if kind == "directory":
            (data_dir / "cargo").mkdir()
            yield data_dir / "cargo"
        else:
            pool: BtrfsPool = pool_in(data_dir)
            pool.open()
            yield data_dir / "cargo"
            pool.close()


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("kind", BACKENDS)
@pytest.mark.timeout(400)
def test_a_kill_at_any_line_leaves_a_whole_layer_or_none(kind: str, act: str, tmp_path: Path) -> None:
    asked = ACTS[act]
    parts()
    with place_on(kind, tmp_path / "data") as place:
        (place / "blob").write_bytes(LAYER.blob)

        def work() -> None:
            asyncio.run(asked.do(store(place / "images"), place))

        set_up(place, asked)
        lines = lines_of("layer_store.py", work, STEPS)
        assert len(lines) > 5
        for line in lines:
            set_up(place, asked)
            run_and_die(line, work)
            check(place, asked)


@pytest.mark.parametrize("kind", BACKENDS)
def test_a_kill_while_a_layer_is_unpacked_ends_its_processes(kind: str, tmp_path: Path) -> None:
    layer = gzipped(tar(*(entry(f"f{number}", bytes(1 << 20)) for number in range(700))))
    parts()
    with place_on(kind, tmp_path / "data") as place:
        (place / "blob").write_bytes(layer.blob)

        def die(_at: int) -> None:
            os.write(said, bytes(len(processes()) > 1))
            os.kill(os.getpid(), signal.SIGKILL)

        heard, said = os.pipe()
        if (child := os.fork()) == 0:
            layers = store(place / "images")
            asyncio.run(layers.add(place / "blob", layer.media_type, layer.diff_id, LayerLimits(), die))
            os._exit(0)
        os.close(said)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        with os.fdopen(heard, "rb") as told:
            assert told.read() == b"\0", "the unpacker and its decompressor did not run"
        assert processes(within_s=30) == []
        assert store(place / "images").diff_ids() == set()
        assert list((place / "images/tmp").iterdir()) == []


def set_up(place: Path, asked: Act) -> None:
    async def work() -> None:
        layers = store(place / "images")
        await layers.remove(FROZEN)
        if asked.before:
            await add(layers, place)
        else:
            await layers.remove(LAYER.diff_id)

    asyncio.run(work())


def check(place: Path, asked: Act) -> None:
    assert processes(within_s=10) == []
    layers = store(place / "images")
    assert list((place / "images/tmp").iterdir()) == list((place / "images/trash").iterdir()) == []
    assert layers.diff_ids() <= {asked.layer}
    check_whole(layers, asked.layer)
    asyncio.run(asked.do(layers, place))
    assert layers.diff_ids() == ({asked.layer} if asked.is_there else set())
    check_whole(layers, asked.layer)


def check_whole(layers: LayerStore, layer: str) -> None:
    if (tree := layers.path(layer)) is not None:
        assert names_in(tree) == TREE
        assert layers.facts(layer) is not None
        if layer == LAYER.diff_id:
            assert os.getxattr(tree / "d", "trusted.overlay.opaque") == b"y"
