"""The asynchronous client of `e2b`."""

import asyncio

from acts import Acts, serve
from e2b import AsyncSandbox

run = asyncio.new_event_loop().run_until_complete
serve(
    Acts(
        create=lambda: run(AsyncSandbox.create(timeout=3600)),
        run=lambda box: run(box.commands.run("true")),
        write=lambda box, data: run(box.files.write("large", data)),
        read=lambda box: run(box.files.read("large", format="bytes")),
        destroy=lambda box: run(box.kill()),
    )
)
