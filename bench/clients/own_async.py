"""Bay's own asynchronous SDK, with the profile and the command that another client has."""

import asyncio
import json
import os

from acts import Acts, serve

import bay

profile = os.environ["BENCH_PROFILE"]
command: str | list[str] = json.loads(os.environ["BENCH_COMMAND"])
with asyncio.Runner() as runner:
    client = runner.run(bay.AsyncClient().__aenter__())
    serve(
        Acts(
            create=lambda: runner.run(client.sandboxes.create(profile=profile)),
            run=lambda box: runner.run(box.run(command, check=True)),
            write=lambda box, data: runner.run(box.files.write("large", data)),
            read=lambda box: runner.run(box.files.read("large")),
            destroy=lambda box: runner.run(box.delete()),
        )
    )
