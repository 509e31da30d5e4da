"""Runs several coroutines at once, of which the first to end decides."""

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Never, NoReturn, TypeVar

from starlette.requests import Request

from bay.errors import BadRequest

T = TypeVar("T")

MOMENT_S = 0.05


async def first(*parts: Coroutine[Any, Any, T]) -> T:
    """The result or error of the first part to end, in their order; the others are cancelled and awaited."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        ended = next(task for task in tasks if task.done())
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return ended.result()


async def guarded(
    work: Coroutine[Any, Any, T], *guards: Coroutine[Any, Any, NoReturn], after_s: float = MOMENT_S
) -> T:
    """The first result or error of `work`, or error of a guard. Guards begin `after_s`, by default once
    `work` has taken a moment: a task for each costs as much as a short piece of work.
    """
    tasks: list[asyncio.Task[NoReturn]] = []
    try:
        async with asyncio.TaskGroup() as group:
            begin = asyncio.get_running_loop().call_later(
                after_s, lambda: tasks.extend(map(group.create_task, guards))
            )
            try:
                result = await work
            finally:
                begin.cancel()
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        if not tasks:
            for guard in guards:
                guard.close()
    return result


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, cancelled when the client disconnects; for bodies that were read, or are none."""
    return await first(work, _disconnected(request))


async def entered_while_connected(
    request: Request, opened: AbstractAsyncContextManager[T]
) -> tuple[AsyncExitStack, T]:
    """The result of entering `opened`, as `while_connected`, and what leaves it. It is left at once when its
    entering ended although it was cancelled.
    """
    stack = AsyncExitStack()
    try:
        return stack, await while_connected(request, stack.enter_async_context(opened))
    except BaseException:
        await stack.aclose()
        raise


async def _disconnected(request: Request) -> Never:
    while (await request.receive())["type"] != "http.disconnect":
        continue
    raise BadRequest("the client disconnected")
