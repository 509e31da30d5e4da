"""Bay's own asynchronous SDK, with the profile and the command that another client has."""

import asyncio
import json
import os

from acts import Acts, serve

import bay

profile = os.environ["BENCH_PROFILE"]
command: str | list[str] = json.loads(os.environ["BENCH_COMMAND"])
run = asyncio.new_event_loop().run_until_complete
client = run(bay.AsyncClient().__aenter__())
serve(
    Acts(
        create=lambda: run(client.sandboxes.create(profile=profile)),
        run=lambda box: run(box.run(command, check=True)),
        write=lambda box, data: run(box.files.write("large", data)),
        read=lambda box: run(box.files.read("large")),
        destroy=lambda box: run(box.delete()),
    )
)
