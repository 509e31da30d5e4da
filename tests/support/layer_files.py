"""Makes layers for tests, entry by entry by `tarfile`, right or wrong in one place; and stores for them."""

import atexit
import contextlib
import gzip
import io
import os
import shutil
import stat
import tarfile
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import zstandard
from image_files import GZIP, TAR, ZSTD, Layer, digest_of
from workers import worker_number

from bay.drivers.oci.idrange import IdRanges
from bay.images.layer_cage import CageParts
from bay.images.layer_store import LayerStore

Entry = tuple[tarfile.TarInfo, bytes]
TIME = 1_700_000_000
_RANGES = 64


def entry(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, **facts: Any) -> Entry:
    """A member; `facts` are attributes of TarInfo."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode, info.mtime = kind, len(content), 0o644, TIME
    for key, value in facts.items():
        setattr(info, key, value)
    return info, content


def directory(name: str, mode: int = 0o755, **facts: Any) -> Entry:
    return entry(name, kind=tarfile.DIRTYPE, mode=mode, **facts)


def symlink(name: str, target: str, **facts: Any) -> Entry:
    return entry(name, kind=tarfile.SYMTYPE, linkname=target, mode=0o777, **facts)


def hard_link(name: str, target: str, **facts: Any) -> Entry:
    return entry(name, kind=tarfile.LNKTYPE, linkname=target, **facts)


def device(name: str, kind: bytes = tarfile.CHRTYPE, major: int = 1, minor: int = 3) -> Entry:
    return entry(name, kind=kind, devmajor=major, devminor=minor)


def tar(*entries: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def gzipped(content: bytes) -> Layer:
    return Layer(gzip.compress(content, 1, mtime=0), digest_of(content), GZIP)


def zstandarded(content: bytes) -> Layer:
    return Layer(zstandard.ZstdCompressor(level=1).compress(content), digest_of(content), ZSTD)


def windowed(content: bytes, log: int) -> Layer:
    """A frame that wants a window of 2^`log` bytes."""
    parameters = zstandard.ZstdCompressionParameters(window_log=log, write_content_size=0)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return Layer(stream.compress(content) + stream.flush(), digest_of(content), ZSTD)


def plain(content: bytes) -> Layer:
    return Layer(content, digest_of(content), TAR)


@cache
def parts() -> CageParts:
    """Made once in this process: a closure takes seconds to build."""
    place = Path(mkdtemp(prefix="bay-layers-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    (place / "stage").mkdir()
    first_id = 1_900_000_000 + worker_number() * (_RANGES << 16)
    return CageParts(place / "stage", place / "closures", IdRanges(place / "ids", first_id, _RANGES))


def store(root: Path, concurrency: int = 2) -> LayerStore:
    made = LayerStore(root, parts(), concurrency=concurrency)
    made.open()
    return made


def names_in(top: Path) -> dict[str, str]:
    """Every name below `top`, and the kind of thing it is."""
    return {str(path.relative_to(top)): _kind(path) for path in below(top)}


def below(top: Path) -> Iterable[Path]:
    for path in sorted(top.iterdir()):
        yield path
        if stat.S_ISDIR(path.lstat().st_mode):
            yield from below(path)


def _kind(path: Path) -> str:
    facts = path.lstat()
    if stat.S_ISCHR(facts.st_mode) and facts.st_rdev == 0:
        return "whiteout"
    kinds = {
        stat.S_IFREG: "file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "symlink",
        stat.S_IFIFO: "fifo",
    }
    return kinds.get(stat.S_IFMT(facts.st_mode), "device")


def processes(within_s: float = 0) -> list[int]:
    """The processes of cages of this run of the tests; what is going has `within_s` to be gone."""
    end = time.monotonic() + within_s
    while (found := _caged()) and time.monotonic() < end:
        time.sleep(0.01)  # they are no children of this process: there is no event to wait for
    return found


def _caged() -> list[int]:
    first = parts().ids.start
    found: list[int] = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{name}/uid_map").read_text().split()
            if fields[:1] == ["0"] and first <= int(fields[1]) < first + (_RANGES << 16):
                found.append(int(name))
    return found
