"""A Bay in a process of its own that forks a sandbox, to be killed while the forks start.

A program for `test_storage_killed`.

It says on stdout which sandbox it made, when it asks for the forks, and which they are.
"""

import asyncio
import sys
from pathlib import Path

from crash_case import Place
from storage_bay import FORKS, pooled

from bay.server import logs


async def main(root: Path, cache: Path, key: str) -> None:
    """Serve until killed."""
    async with pooled(Place(root, cache)) as bay:
        box = await bay.create()
        await bay.write(box, "kept", b"kept")
        _say(box)
        _say("asked")
        headers = {"Idempotency-Key": key}
        made = await bay.ask("POST", f"/sandboxes/{box}/fork", json=FORKS, headers=headers)
        _say(" ".join(item["id"] for item in made["items"]))
        await asyncio.Future()


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    logs.configure("error", "json")
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
