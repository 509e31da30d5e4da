"""The client `sprites-py`."""

import os
from itertools import count

from acts import Acts, measure
from sprites import SpritesClient

client = SpritesClient(os.environ["BAY_API_KEY"], os.environ["BAY_URL"])
numbers = count()


def create() -> object:
    """A sprite with a name of its own."""
    name = f"bench-{os.getpid()}-{next(numbers)}"
    client.create_sprite(name)
    return client.sprite(name)


measure(
    Acts(
        create=create,
        run=lambda sprite: sprite.command("true").run(),
        write=lambda sprite, data: sprite.filesystem("/home/sprite").path("large").write_bytes(data),
        read=lambda sprite: sprite.filesystem("/home/sprite").path("large").read_bytes(),
        destroy=lambda sprite: client.delete_sprite(sprite.name),
    )
)
