"""The asynchronous client of `e2b`."""

import asyncio

from acts import Acts, serve
from e2b import AsyncSandbox

with asyncio.Runner() as runner:
    serve(
        Acts(
            create=lambda: runner.run(AsyncSandbox.create(timeout=3600)),
            run=lambda box: runner.run(box.commands.run("true")),
            write=lambda box, data: runner.run(box.files.write("large", data)),
            read=lambda box: runner.run(box.files.read("large", format="bytes")),
            destroy=lambda box: runner.run(box.kill()),
        )
    )
