"""Every byte of output through the SDK: run, spawn with output, attach at once, late, many at a time and
slowly.
"""

import asyncio
import threading
from collections.abc import Iterable

import pytest
from counting import LARGEST, MIB, PERFECT, SIZES, Judge, judged, lines, pieces_of, printing
from examples.own_server import OwnServer

import bay

MANY = 8
pytestmark = [pytest.mark.host, pytest.mark.long, pytest.mark.timeout(900)]


def data_of(chunks: Iterable[bay.OutputChunk]) -> Iterable[bytes]:
    return (chunk.data for chunk in chunks)


@pytest.mark.parametrize("size", SIZES)
def test_output_that_is_followed_has_every_byte(box: bay.Box, size: int) -> None:
    assert judged(size, data_of(box.spawn(printing(size)).output())) == PERFECT


@pytest.mark.parametrize("size", SIZES)
def test_an_attachment_made_after_the_start_has_every_byte(box: bay.Box, size: int) -> None:
    with box.spawn(printing(size)).attach() as attached:
        assert judged(size, data_of(attached)) == PERFECT


@pytest.mark.parametrize("size", SIZES)
def test_a_run_has_every_byte_or_is_not_ok(box: bay.Box, size: int) -> None:
    result = box.run(printing(size))
    if result.truncated:
        assert size > MIB
        assert not result.ok
        with pytest.raises(bay.BayError):
            result.check()
    else:
        assert judged(size, [result.stdout.encode()]) == PERFECT


def test_both_streams_have_every_byte(box: bay.Box) -> None:
    size = min(LARGEST, 20 * MIB)
    streams = {"stdout": Judge(size), "stderr": Judge(size)}
    proc = box.spawn(f"({printing(size)}) & ({printing(size)}) >&2; wait")
    for chunk in proc.output():
        streams[chunk.stream].feed(chunk.data)
    assert [judge.verdict() for judge in streams.values()] == [PERFECT, PERFECT]


def test_a_slow_reader_has_every_byte(box: bay.Box) -> None:
    size = min(LARGEST, 20 * MIB)
    judge, pause = Judge(size), threading.Event()
    for number, chunk in enumerate(box.spawn(printing(size)).output()):
        judge.feed(chunk.data)
        if number % 50 == 0:
            pause.wait(0.05)  # the reader is slow: this is what is tried, and nothing waits for it
    assert judge.verdict() == PERFECT


def test_a_reader_that_comes_late_has_every_byte(box: bay.Box, client: bay.Client) -> None:
    size = min(LARGEST, 20 * MIB)
    proc = box.spawn(printing(size))
    # Other calls go on meanwhile, and end: the program is held, and the sandbox is not.
    assert [box.run("echo meanwhile").stdout for _ in range(5)] == ["meanwhile\n"] * 5
    assert client.sandboxes.get(box.id).info.status == "ready"
    assert judged(size, data_of(proc.output())) == PERFECT


@pytest.mark.anyio
async def test_many_commands_at_once_have_every_byte(server: OwnServer, box: bay.Box) -> None:
    size = min(LARGEST, 20 * MIB)

    async def one(there: bay.AsyncBox) -> str:
        judge = Judge(size)
        async for chunk in (await there.spawn(printing(size))).output():
            judge.feed(chunk.data)
        return judge.verdict()

    async with bay.AsyncClient(server.url, server.api_key) as client:
        there = await client.sandboxes.get(box.id)
        assert await asyncio.gather(*(one(there) for _ in range(MANY))) == [PERFECT] * MANY


@pytest.mark.parametrize("size", SIZES)
def test_input_comes_back_whole(box: bay.Box, size: int) -> None:
    proc = box.spawn(["cat"], stdin_open=True)
    failures: list[BaseException] = []

    def feed() -> None:
        try:
            with lines(size) as stream:
                for piece in pieces_of(stream):
                    proc.write(piece)
            proc.close_stdin()
        except bay.BayError as error:
            failures.append(error)

    thread = threading.Thread(target=feed)
    thread.start()
    verdict = judged(size, data_of(proc.output()))
    thread.join(60)
    assert (verdict, failures) == (PERFECT, [])
