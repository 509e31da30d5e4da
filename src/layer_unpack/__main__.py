"""Unpacks one layer: see `bay.images.layer_cage`, which starts this and reads what it says.

The order is JSON, the only argument: `layer`, the directory to fill, or null where the digest alone is asked
for; `blob` and `users`, descriptors of the compressed layer and of a user namespace; `codec`, null for plain
tar; `filters`, descriptors of the seccomp filters of this process and of the one that decompresses; `bytes`
and `entries`, the limits, and `rlimits`.

On stdout come lines of JSON: `{"ready": true}` before a byte of the blob is read; `{"at": N}` now and then,
N bytes of it having been read; at last `{"done": {…}}`, or `{"error": KIND, "message": …}`.
"""

import contextlib
import json
import os
import sys
from collections.abc import Generator
from typing import Any

from layer_unpack import confine
from layer_unpack.decoder import Decoder
from layer_unpack.refusals import FAILED, INVALID, TOO_LARGE, Refused
from layer_unpack.source import Source
from layer_unpack.tree import RULES, LayerTree
from tree_tar.reader import BadArchive, Reader

_NICE = 10


def main() -> None:
    """Do what the order says."""
    order: dict[str, Any] = json.loads(sys.argv[1])
    try:
        with _told():
            _say({"done": _unpack(order)})
    except Refused as refused:
        _say({"error": refused.kind, "message": refused.message})


def _unpack(order: dict[str, Any]) -> dict[str, object]:
    os.nice(_NICE)
    confine.limit(order["rlimits"])
    filters = [_content(file) for file in order["filters"]]
    confine.become_root_of(order["users"])
    os.close(order["users"])
    os.umask(0)
    blob: int = order["blob"]
    top = (
        None
        if order["layer"] is None
        else os.open(order["layer"], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    )
    _say({"ready": True})
    decoder = None if order["codec"] is None else Decoder(order["codec"], blob, filters[1])
    confine.install_filter(filters[0])
    stream = blob if decoder is None else decoder.output

    def tell() -> None:
        _say({"at": os.lseek(blob, 0, os.SEEK_CUR)})

    source = Source(stream, order["bytes"], tell)
    made = _take(source, top, order["entries"])
    source.drain()
    tell()
    if decoder is not None:
        decoder.check_end()
    return {**made, "digest": source.digest, "bytes": source.bytes}


def _take(source: Source, top: int | None, max_entries: int) -> dict[str, object]:
    """Make the tree in the directory `top`, if any."""
    if top is None:
        return {}
    reader = Reader(RULES)
    with contextlib.closing(LayerTree(top, max_entries)) as tree:
        while not reader.ended and (data := source.read()):
            for event in reader.feed(data):
                tree.take(event)
        if not (reader.ended or reader.is_between):
            raise BadArchive("it ends too early")
        return {"opaque": tree.finish(), "entries": tree.entries, "skipped": tree.skipped}


@contextlib.contextmanager
def _told() -> Generator[None]:
    """Whatever can go wrong, as a refusal."""
    try:
        yield
    except BadArchive as error:
        raise Refused(INVALID, f"the layer is damaged, or no tar: {error}") from error
    except MemoryError as error:
        raise Refused(TOO_LARGE, "the layer needs more memory to be unpacked than allowed") from error
    except OSError as error:
        raise Refused(FAILED, f"the host refused a step: {error.strerror}") from error


def _say(words: dict[str, object]) -> None:
    line = memoryview(json.dumps(words).encode() + b"\n")
    while line:
        line = line[os.write(1, line) :]


def _content(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)


if __name__ == "__main__":
    main()
