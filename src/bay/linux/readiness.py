"""Waits for a descriptor by the kernel's event."""

import asyncio


async def wait_readable(fd: int) -> None:
    """Return when `fd` can be read: a pipe has data or lost its writers, the process of a pidfd has ended."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, lambda: readable.done() or readable.set_result(None))
    try:
        await readable
    finally:
        loop.remove_reader(fd)
