"""The broker's side of the pair of sockets to Bay."""

import asyncio
import json
import socket

import pytest

from bay.network.broker.control import LINE_BYTES
from bay.network.broker.process import Control

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

WAIT_S = 10.0


async def test_a_question_is_asked_however_many_notes_wait_for_bay() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bay, to_broker = await asyncio.open_connection(sock=ours, limit=LINE_BYTES)
        reader, writer = await asyncio.open_connection(sock=theirs)
        control = Control(reader, writer)
        hearing = asyncio.create_task(control.run())
        while writer.transport.get_write_buffer_size() < 64 * LINE_BYTES:  # as while Bay resolves a name
            control.note("x" * 253, "limit")
        for _ in range(100):
            control.note("x" * 253, "limit")
        assert writer.transport.get_write_buffer_size() < 65 * LINE_BYTES
        asking = asyncio.create_task(control.answer("api.example.com"))
        async with asyncio.timeout(WAIT_S):
            while json.loads(await bay.readline()) != {"ask": "api.example.com"}:
                pass
            to_broker.write(b'{"addresses": ["192.0.2.1"], "headers": []}\n')
            assert (await asking).addresses == ("192.0.2.1",)
        hearing.cancel()
        await asyncio.wait((hearing,))
        for one in (to_broker, writer):
            one.transport.abort()
