"""The asynchronous client of `sprites-py`."""

import asyncio
import os
from itertools import count

from acts import Acts, serve
from sprites import AsyncSpritesClient

numbers = count()
run = asyncio.new_event_loop().run_until_complete
client = run(AsyncSpritesClient(os.environ["SPRITES_TOKEN"], base_url=os.environ["SPRITES_URL"]).__aenter__())
serve(
    Acts(
        create=lambda: run(client.create_sprite(f"bench-{os.getpid()}-{next(numbers)}")),
        run=lambda sprite: run(sprite.run("true")),
        write=lambda sprite, data: run(sprite.filesystem("/home/sprite").path("large").write_bytes(data)),
        read=lambda sprite: run(sprite.filesystem("/home/sprite").path("large").read_bytes()),
        destroy=lambda sprite: run(sprite.delete()),
    )
)
