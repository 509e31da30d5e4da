"""The synchronous client of `sprites-py`."""

import os
from itertools import count

from acts import Acts, serve
from sprites import SpritesClient

client = SpritesClient(os.environ["SPRITES_TOKEN"], os.environ["SPRITES_URL"])
numbers = count()
serve(
    Acts(
        create=lambda: client.create_sprite(f"bench-{os.getpid()}-{next(numbers)}"),
        run=lambda sprite: sprite.command("true").run(),
        write=lambda sprite, data: sprite.filesystem("/home/sprite").path("large").write_bytes(data),
        read=lambda sprite: sprite.filesystem("/home/sprite").path("large").read_bytes(),
        destroy=lambda sprite: sprite.delete(),
    )
)
