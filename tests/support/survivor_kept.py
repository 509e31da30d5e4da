"""All that `survivor.py` finds of itself in a sandbox whose memory was saved, but for its connection."""

from typing import Any

KEPT: dict[str, Any] = {
    "ballast": 8 << 20,
    "deleted": {"workspace": True, "root": True, "tmp": True, "shm": True},
    "inotify": True,
    "shared": "held",
    "mapped": "map",
    "memfd": "memfd",
    "fifo": "in the fifo",
    "pair": "in the socket",
    "eventfd": 5,
    "threads": 200,
    "zombie": 7,
    "files": 1000,
    "cwd": "/tmp",
    "backwards": False,
    "directory": True,
    "abstract": True,
    "udp": "datagram",
    "listens": True,
    "flock": "held",
}
