"""What a client does over every kind of connection, for `test_sdk_oldest` to run with other versions of its
libraries.

Standard library and Bay's client alone; BAY_URL and BAY_API_KEY name the Bay.
"""

import asyncio
import sys

import bay


def in_threads(client: bay.Client) -> None:
    with client.sandbox(ttl=600) as box:
        assert box.run("echo hi").stdout == "hi\n"
        assert box.python.run("6 * 7").text == "42"
        box.files.write("a.bin", bytes(range(256)) * 1024)
        assert box.files.read("a.bin") == bytes(range(256)) * 1024
        proc = box.spawn("cat", stdin_open=True)
        with proc.attach() as attached:
            attached.write(b"x" * 200_000)
            attached.send_eof()
            assert sum(len(chunk.data) for chunk in attached) == 200_000
        with box.terminal() as shell:
            shell.write(b"exit 3\n")
            for _ in shell:
                pass
            assert shell.exit is not None
            assert shell.exit.exit_code == 3
        with box.files.watch(".") as watch:
            box.files.write("b.txt", "b")
            assert any((event.to or event.path or "").endswith("b.txt") for event in watch)


async def in_tasks() -> None:
    async with bay.AsyncClient() as client, client.sandbox(ttl=600) as box:
        proc = await box.spawn("cat", stdin_open=True)
        async with proc.attach() as attached:
            await attached.write(b"x" * 200_000)
            await attached.send_eof()
            assert sum([len(chunk.data) async for chunk in attached]) == 200_000
        try:
            async with box.tunnel(9):
                pass
        except bay.PortClosed:
            return
        raise AssertionError("nothing listens on port 9")


if __name__ == "__main__":
    with bay.Client() as client:
        in_threads(client)
    asyncio.run(in_tasks())
    sys.stdout.write("all well\n")
