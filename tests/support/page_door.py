"""A socket for `page_cli`: each order that comes there is passed on to `bay_forker`.

A `bay` of its own takes a third of a second of processor time to begin, and the pages have some 150.
"""

import os
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import forked
from page_cli import MESSAGE_BYTES


@contextmanager
def door(path: Path) -> Generator[Path]:
    """Fork for those who come to the socket at `path`, until the block is left."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            while True:
                try:
                    link, _ = listener.accept()
                except OSError:  # the block is left
                    return
                with link:
                    order, descriptors, _, _ = socket.recv_fds(link, MESSAGE_BYTES, 4)
                if order:
                    forked.pass_on("bay_forker.py", order, descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            yield path
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
