"""The client `shipyard-neo-sdk` of Bay v1, which is asynchronous."""

import asyncio
import os

from acts import Acts, serve
from shipyard_neo import BayClient

with asyncio.Runner() as runner:
    client = runner.run(BayClient(os.environ["BAY_ENDPOINT"], os.environ["BAY_TOKEN"]).__aenter__())
    serve(
        Acts(
            create=lambda: runner.run(client.create_sandbox()),
            run=lambda box: runner.run(box.shell.exec("true")),
            write=lambda box, data: runner.run(box.filesystem.upload("large", data)),
            read=lambda box: runner.run(box.filesystem.download("large")),
            destroy=lambda box: runner.run(box.delete()),
        )
    )
