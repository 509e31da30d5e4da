"""Bay's own SDK, with the profile and the command that another client has."""

import json
import os

from acts import Acts, serve

import bay

client = bay.Client()
profile = os.environ["BENCH_PROFILE"]
command: str | list[str] = json.loads(os.environ["BENCH_COMMAND"])
serve(
    Acts(
        create=lambda: client.sandboxes.create(profile=profile),
        run=lambda box: box.run(command, check=True),
        write=lambda box, data: box.files.write("large", data),
        read=lambda box: box.files.read("large"),
        destroy=lambda box: box.delete(),
    )
)
