"""Layers of images: unpacking one of several gigabytes, beside GNU tar, which makes the same tree without a
cage. `--scale 3` takes three times as much.
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zstandard

from bench.base import Bench
from bench.figures import Absent, Figure, Result
from bench.processor import program_ms
from tree_tar.headers import DIRECTORY, END, FILE, header, padding

GIB = 1 << 30
FILES_PER_DIRECTORY = 40
SIZES = (200, 900, 3000, 12_000, 40_000, 200_000)
"""Of files, in turn: 43,000 bytes on the average, as in images of distributions with languages in them."""
COMPRESSORS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.compressobj(6, wbits=31),
    "zstd": lambda: zstandard.ZstdCompressor(level=3).compressobj(),
}


def layers(bench: Bench) -> list[Result]:
    size = round(2 * GIB * bench.scale)
    with tempfile.TemporaryDirectory(prefix="bay-bench-layers-", dir=Path.cwd()) as place:
        return [result for codec in COMPRESSORS for result in _unpacked(Path(place), codec, size)]


def _unpacked(place: Path, codec: str, size: int) -> Iterator[Result]:
    blob = place / f"layer.{codec}"
    diff_id, files = make_layer(blob, codec, size)
    command = [sys.executable, "-m", "bench.unpacking", str(place / "images"), str(blob), codec, diff_id]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=3600)
    found = json.loads(said.stdout.splitlines()[-1])
    what = f"a layer of {size / GIB:.1f} GiB, {files:,} files, {codec}"
    yield Figure(what, "s", (found["wall_s"],), processor_ms=(found["processor_ms"],))
    yield Figure(f"its unpacker's memory, {codec}", "MiB", (found["memory_mib"],))
    yield _by_tar(place, blob, codec)


def _by_tar(place: Path, blob: Path, codec: str) -> Result:
    """The same with the programs that a shell script would use."""
    name = f"GNU tar, sha256sum and {codec}"
    if shutil.which(codec) is None:
        return Absent(name, f"{codec} not available")
    into = place / f"tar-{codec}"
    into.mkdir()
    script = f"{codec} -dc < {blob} | tee >(sha256sum) | tar --extract --numeric-owner -C {into}"
    began = time.perf_counter()
    processor = program_ms("bash", "-c", script, timeout_s=3600)
    wall = time.perf_counter() - began
    subprocess.run(["rm", "-rf", into], check=True, timeout=600)
    return Figure(name, "s", (wall,), processor_ms=(processor,))


def make_layer(blob: Path, codec: str, size: int, top: str = "usr/lib") -> tuple[str, int]:
    """Write a layer with `size` bytes of files below `top`; gives its diff-id and how many there are."""
    compressor, seen, files = COMPRESSORS[codec](), hashlib.sha256(), 0
    with blob.open("wb") as out:
        for piece in _members(size, top):
            seen.update(piece)
            out.write(compressor.compress(piece))
            files += 1
        seen.update(END)
        out.write(compressor.compress(END) + compressor.flush())
    return f"sha256:{seen.hexdigest()}", files


def _members(size: int, top: str) -> Iterator[bytes]:
    pool = _content()
    number = 0
    while size > 0:
        directory = f"{top}/package-{number // FILES_PER_DIRECTORY}"
        head = (
            b"" if number % FILES_PER_DIRECTORY else header(directory, DIRECTORY, mode=0o755, mtime_ns=10**18)
        )
        length = SIZES[number % len(SIZES)]
        at = number * 7919 % (len(pool) - length)
        name = f"{directory}/file-{number}"
        yield (
            head
            + header(name, FILE, mode=0o644, mtime_ns=10**18, size=length)
            + pool[at : at + length]
            + padding(length)
        )
        size -= length
        number += 1


def _content() -> bytes:
    """Words and noise, which compress to about a third."""
    some = random.Random(7)  # noqa: S311 - the same each time
    words = [some.randbytes(some.randrange(2, 9)) for _ in range(3000)]
    return b" ".join(some.choices(words, k=1_500_000)) + os.urandom(1 << 20)
