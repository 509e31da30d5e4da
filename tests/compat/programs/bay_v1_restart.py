"""A command by `shipyard-neo-sdk` whose Bay is killed: the client hears it, and the sandbox answers later."""

import asyncio
import os
import sys

import httpx
from shipyard_neo import BayClient, BayError


async def main() -> None:
    async with BayClient(
        endpoint_url=os.environ["BAY_URL"], access_token=os.environ["BAY_API_KEY"]
    ) as client:
        box = await client.create_sandbox(ttl=600)
        command = asyncio.create_task(box.shell.exec("touch begun; until [ -e go ]; do sleep 0.05; done"))
        while "begun" not in [item.name for item in await box.filesystem.list_dir(".")]:
            assert not command.done(), await command
        print("running", flush=True)
        try:
            sys.exit(f"the command has ended: {await command}")
        except (BayError, httpx.TransportError) as error:
            print(f"cut: {error!r}".splitlines()[0], flush=True)
        assert await asyncio.to_thread(sys.stdin.readline) == "back\n"
        assert (await box.shell.exec("ls begun")).output == "begun\n"
    print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
