"""The same with the asynchronous SDK, for several sandboxes at once."""

import asyncio
import os

from e2b import AsyncSandbox, SandboxException

os.environ.setdefault("E2B_API_KEY", os.environ["BAY_API_KEY"])
os.environ.setdefault("E2B_API_URL", os.environ["BAY_URL"] + "/e2b")
os.environ.setdefault("E2B_SANDBOX_URL", os.environ["BAY_URL"])


async def main() -> None:
    made = await asyncio.gather(*(AsyncSandbox.create(metadata={"n": str(n)}) for n in range(2)))
    assert await made[0].is_running()
    await made[0].pause()
    assert not await made[0].is_running()
    assert await made[1].is_running()
    await made[0].connect()
    assert await made[0].is_running()
    assert (await made[1].get_info()).metadata == {"n": "1"}
    try:
        await AsyncSandbox.create("no/such-template")
        raise AssertionError("a sandbox of no template was made")
    except SandboxException as error:
        assert "404" in str(error), error
    for sandbox in made:
        assert await sandbox.kill()
    print("done")


asyncio.run(main())
