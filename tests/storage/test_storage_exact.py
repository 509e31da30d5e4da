"""Everything that a sandbox keeps comes back exactly: from a checkpoint, a stop, a fork, and out of an
archive.
"""

import asyncio
import json
from typing import Any

import pytest
from storage_bay import Pooled
from trees_inside import CHANGE, MAKE, MANIFEST, WRITER

pytestmark = [pytest.mark.host, pytest.mark.anyio, pytest.mark.long]

Manifest = dict[str, Any]
MANY = {"python-default": 100_000, "machine": 2_000}
# The kernel's records of that many files take 120 MiB. It cannot free them while a program writes a large
# file, and kills a program that has no more than these; docs/lifecycle.md says it to users.
MEMORY = {"python-default": {"memory_mb": 256}, "machine": {}}


async def manifest(bay: Pooled, sandbox: str, kind: str) -> Manifest:
    """What is there, as root inside sees it."""
    return json.loads(await bay.python(sandbox, MANIFEST, kind))


def carried(found: Manifest) -> Manifest:
    """What an archive has of it: all but sockets."""
    return {path: facts for path, facts in found.items() if not path.endswith("/listening")}


def differing(found: Manifest, wanted: Manifest) -> dict[str, tuple[Any, Any]]:
    """Both sides of what is not the same."""
    return {
        path: (found.get(path), wanted.get(path))
        for path in {*found, *wanted}
        if found.get(path) != wanted.get(path)
    }


@pytest.mark.parametrize("kind", ["python-default", "machine"])
async def test_every_kind_of_file_comes_back_exactly(bay: Pooled, kind: str) -> None:
    box = await bay.create(kind, **MEMORY[kind])
    await bay.python(box, MAKE, str(MANY[kind]), kind)
    made = await manifest(bay, box, kind)
    assert len(made) > 120
    assert made["/workspace/sparse"][-3] is True  # holes
    checkpoint = await bay.checkpoint(box)
    (fork,) = await bay.fork(box, checkpoint=checkpoint)
    await bay.python(box, CHANGE, kind)
    changed = await manifest(bay, box, kind)
    assert {path for path in made if changed.get(path) == made[path]} <= {"/opt/"}
    await bay.restore(box, checkpoint)
    assert differing(await manifest(bay, box, kind), made) == {}
    await bay.ask("POST", f"/sandboxes/{box}/stop")
    assert differing(await manifest(bay, box, kind), made) == {}
    assert differing(await manifest(bay, fork, kind), made) == {}
    if kind == "machine":
        assert await bay.sh(fork, "/opt/tool/bin/run") == "tool"
    if kind == "machine":  # an archive of the many files takes ten seconds
        await _out_and_in(bay, box, kind, checkpoint, carried(made))


async def _out_and_in(bay: Pooled, box: str, kind: str, checkpoint: str, wanted: Manifest) -> None:
    archive = await bay.ask("GET", f"/sandboxes/{box}/checkpoints/{checkpoint}/export")
    other = await bay.create(kind)
    imported = await bay.ask("POST", f"/sandboxes/{other}/checkpoints/import", content=archive)
    await bay.restore(other, imported["id"])
    assert differing(await manifest(bay, other, kind), wanted) == {}


async def test_a_machine_is_not_replaced_by_a_checkpoint_of_a_workspace_alone(bay: Pooled) -> None:
    machine, plain = await bay.create("machine"), await bay.create()
    await bay.sh(
        machine, "echo tool > /usr/local/bin/tool; echo of the machine > /workspace/file", user="root"
    )
    await bay.sh(plain, "echo plain > file")
    refused = await bay.call(
        "POST", f"/sandboxes/{machine}/checkpoints/{await bay.checkpoint(plain)}/restore"
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert await bay.sh(machine, "cat /usr/local/bin/tool file") == "tool\nof the machine"
    await bay.restore(plain, await bay.checkpoint(machine))
    assert await bay.sh(plain, "cat file") == "of the machine"


async def test_a_checkpoint_is_one_moment_across_files_that_a_program_keeps_open(bay: Pooled) -> None:
    box = await bay.create()
    writer = await bay.begin(box, "python3", "-c", WRITER)
    await bay.sh(box, "until test -s B; do sleep 0.01; done")
    taken = [await bay.checkpoint(box) for _ in range(5)]
    last = 0
    for checkpoint in taken:
        a, b = [await asyncio.to_thread(_numbers, bay, checkpoint, name) for name in ("A", "B")]
        assert a == list(range(1, len(a) + 1))
        assert b == a[: len(b)]
        assert len(a) - len(b) in (0, 1)
        assert len(a) > last, "the program went on after the one before"
        last = len(a)
    assert (await bay.ask("GET", f"/sandboxes/{box}/execs/{writer}"))["state"] == "running"
    await bay.restore(box, taken[1])
    assert await bay.read(box, "A") == (bay.checkpoint_files(taken[1]) / "A").read_bytes()


def _numbers(bay: Pooled, checkpoint: str, name: str) -> list[int]:
    text = (bay.checkpoint_files(checkpoint) / name).read_text()
    assert text.endswith("\n")
    return [int(line) for line in text.splitlines()]
