"""The client `shipyard-neo-sdk` of Bay v1, which is asynchronous."""

import asyncio
import os

from acts import Acts, serve
from shipyard_neo import BayClient

run = asyncio.new_event_loop().run_until_complete
client = run(BayClient(os.environ["BAY_ENDPOINT"], os.environ["BAY_TOKEN"]).__aenter__())
serve(
    Acts(
        create=lambda: run(client.create_sandbox()),
        run=lambda box: run(box.shell.exec("true")),
        write=lambda box, data: run(box.filesystem.upload("large", data)),
        read=lambda box: run(box.filesystem.download("large")),
        destroy=lambda box: run(box.delete()),
    )
)
