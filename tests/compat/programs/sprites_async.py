"""A program of the asynchronous client of `sprites-py`: many commands at once, and a session that goes on."""

import asyncio
import io
import os

from sprites import AsyncSpritesClient, ExecError


async def main() -> None:
    async with AsyncSpritesClient(os.environ["BAY_API_KEY"], base_url=os.environ["BAY_URL"]) as client:
        sprite = await client.create_sprite("async")
        outputs = await asyncio.gather(*(sprite.command("echo", str(n)).output() for n in range(10)))
        assert outputs == [b"%d\n" % n for n in range(10)]
        try:
            await sprite.run("sh", "-c", "echo why >&2; exit 9", capture_output=True, check=True)
            raise AssertionError("a failure went by")
        except ExecError as error:
            assert (error.exit_code(), error.stderr) == (9, b"why\n")

        # A client leaves its session on a terminal, and another one sees it to its end.
        command = "echo up; until [ -e go ]; do sleep 0.05; done; echo over; exit 4"
        shell = asyncio.create_task(sprite.run("sh", "-c", command, tty=True))
        while not (sessions := [one for one in await sprite.list_sessions() if one.tty]):
            await asyncio.sleep(0.05)
        shell.cancel()
        attached = sprite.attach_session(sessions[0].id)
        attached.stdout = seen = io.BytesIO()
        end = asyncio.create_task(attached.run())
        while b"up" not in seen.getvalue():
            await asyncio.sleep(0.05)
        await sprite.run("touch", "go", check=True)
        try:
            await end
            raise AssertionError("it ended with 0")
        except ExecError as error:
            assert error.exit_code() == 4
        assert (attached.tty, seen.getvalue()) == (True, b"up\r\nover\r\n")
        await sprite.destroy()


asyncio.run(main())
print("done")
