"""Answers in parts end what they hold, whenever their reader leaves."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from bay.server.web.replies import HeldResponse

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

SCOPE: Any = {"type": "http", "asgi": {"spec_version": "2.3"}}


async def parts() -> AsyncGenerator[bytes]:
    yield b"one"
    yield b"two"


async def send(_: Any) -> None:
    """Takes everything."""


async def test_what_an_answer_holds_ends_though_its_reader_left_before_the_first_part() -> None:
    ended: list[str] = []
    stack = AsyncExitStack()
    stack.callback(ended.append, "ended")

    async def has_left() -> Any:
        return {"type": "http.disconnect"}

    await HeldResponse(stack, parts())(SCOPE, has_left, send)
    assert ended == ["ended"]
