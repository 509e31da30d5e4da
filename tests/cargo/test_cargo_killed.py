"""What is killed half-way leaves what was there before, or what was asked for, and may be asked for again."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

import pytest
from dying import lines_of, run_and_die

from bay.ids import new_id
from pools import BACKENDS, Backend, make, unmounted_after

pytestmark = pytest.mark.host

WS, FORK, THEN, NEW = new_id("ws"), new_id("ws"), new_id("ckpt"), new_id("ckpt")
WORDS = {"then", "now"}


@dataclass(frozen=True)
class Act:
    """Something that is asked of a backend, and what is to be seen of it."""

    before: Callable[[Backend], Coroutine[None, None, None]]
    do: Callable[[Backend], Coroutine[None, None, None]]
    seen: Callable[[Backend], str | None]
    done: str


async def nothing(_cargo: Backend) -> None:
    pass


async def prepare(cargo: Backend) -> None:
    await cargo.prepare_restore(WS, THEN, limit_bytes=1 << 30)


async def prepare_and_restore(cargo: Backend) -> None:
    await prepare(cargo)
    await cargo.restore(WS)


def word(path: Path) -> str | None:
    return (path / "file").read_text() if os.path.lexists(path.parent) else None


ACTS = {
    "restore": Act(prepare, lambda cargo: cargo.restore(WS), lambda cargo: word(cargo.place(WS)), "then"),
    "prepare": Act(nothing, prepare, lambda cargo: word(cargo.place(WS)), "now"),
    "fork": Act(nothing, lambda c: c.create(FORK, origin=THEN, limit_bytes=1 << 30), lambda c: word(c.place(FORK)), "then"),
    "checkpoint": Act(
        nothing, lambda c: c.checkpoint(WS, NEW), lambda c: word(c.checkpoint_path(NEW) / "workspace"), "now"
    ),
}  # fmt: skip
STEPS = {
    "create",
    "checkpoint",
    "prepare_restore",
    "restore",
    "_made",
    "_swap",
    "_preserve",
    "_copy",
    "_put_in_place",
    "move",
}
"""What changes something on the disk, or calls what does."""
FILES = {
    "btrfs": ("base_backend.py", "btrfs.py", "trash.py"),
    "directory": ("base_backend.py", "directory.py", "trash.py"),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("kind", BACKENDS)
def test_a_kill_at_any_line_leaves_old_or_new_and_again_makes_it_new(
    kind: str, act: str, tmp_path: Path
) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    with unmounted_after(data_dir):
        asked = ACTS[act]
        killed: list[str] = []
        for file in FILES[kind]:
            set_up(kind, data_dir, asked)
            for line in lines_of(file, lambda: asyncio.run(asked.do(make(kind, data_dir))), STEPS):
                set_up(kind, data_dir, asked)
                run_and_die(line, lambda: asyncio.run(asked.do(make(kind, data_dir))))
                check(kind, data_dir, asked)
                killed.append(line[0])
        assert FILES[kind][0] in killed, (
            "no line of the order of steps was reached: its file has another name"
        )


def set_up(kind: str, data_dir: Path, asked: Act) -> None:
    """Have a cargo that says `now`, and a checkpoint that says `then`."""

    async def work() -> None:
        cargo = make(kind, data_dir)
        await cargo.open()
        await cargo.remove(FORK)
        await cargo.remove_checkpoint(NEW)
        await cargo.create(WS)
        for text, checkpoint in (("then", THEN), ("now", None)):
            (cargo.place(WS) / "file").write_text(text)
            if checkpoint:
                await cargo.checkpoint(WS, checkpoint)
        await asked.before(cargo)

    asyncio.run(work())


def check(kind: str, data_dir: Path, asked: Act) -> None:
    async def work() -> None:
        cargo = make(kind, data_dir)
        await cargo.open()
        assert word(cargo.place(WS)) in WORDS
        assert asked.seen(cargo) in {*WORDS, None}
        assert word(cargo.checkpoint_path(THEN) / "workspace") == "then"
        assert os.listdir(data_dir / "cargo/.making") == []
        again = prepare_and_restore if asked is ACTS["restore"] else asked.do
        await again(cargo)
        assert asked.seen(cargo) == asked.done

    asyncio.run(work())
