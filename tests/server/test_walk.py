"""ARCHITECTURE.md's walk of one exec names the files that the call enters, and is short enough to be read."""

import asyncio
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import httpx
import pytest
from server_harness import World, create

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
SOURCE = f"{ROOT / 'src' / 'bay'}/"
MOST = 12
"""Files that decide or carry."""


def listed() -> tuple[list[str], list[str]]:
    """The files of the walk, and the infrastructure that it passes through."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.partition("\n## One exec\n")[2].partition("\n## ")[0]
    walk, _, rest = section.partition("It also passes through infrastructure")
    infrastructure, _, _ = rest.partition("`tests/server/test_walk.py`")
    return re.findall(r"^\| `(\S+\.py)` \|", walk, re.MULTILINE), re.findall(r"`(\S+\.py)`", infrastructure)


@contextmanager
def traced() -> Generator[set[str]]:
    """The files of Bay of which a function runs in this task while the block lasts."""
    entered: set[str] = set()
    own = asyncio.current_task()

    def note(frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(SOURCE) and asyncio.current_task() is own:
            entered.add(name.removeprefix(SOURCE))

    sys.setprofile(note)
    try:
        yield entered
    finally:
        sys.setprofile(None)


async def test_one_exec_enters_the_files_that_the_architecture_lists(
    bay: World, alice: httpx.AsyncClient
) -> None:
    walk, infrastructure = listed()
    assert 0 < len(walk) <= MOST
    made = await create(alice, wait=30)
    url = f"/v1/sandboxes/{made['id']}/execs?wait=30"
    assert (await alice.post(url, json={"argv": ["true"]})).status_code == 201
    with traced() as entered:
        answer = await alice.post(url, json={"argv": ["true"]})
    assert answer.json()["exit_code"] == 0
    assert sorted(entered) == sorted([*walk, *infrastructure])
