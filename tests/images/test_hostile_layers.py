"""Hostile layers go through the store and its cage, beside a file that must stay as it was; and an unpacker
that a layer has taken over tries to get out of the cage, once with each of its guards removed.
"""

import asyncio
import json
import os
import shutil
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from image_files import GZIP, ZSTD, Layer, digest_of
from layer_files import (
    Entry,
    device,
    directory,
    entry,
    gzipped,
    hard_link,
    names_in,
    plain,
    processes,
    store,
    symlink,
    tar,
    windowed,
    zstandarded,
)

import layer_unpack
from bay.errors import BayError, DriverUnavailable, ImageInvalid, ImageTooLarge
from bay.images import layer_cage
from bay.images.layer_store import LayerLimits, LayerStore
from tree_tar.headers import END, FILE, header

pytestmark = [
    pytest.mark.host,
    pytest.mark.anyio,
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces and mounts"),
]

LIMITS = LayerLimits(max_bytes=8 << 20, max_entries=2000)
KNOWN = tar(entry("known", b"as it was"))


class Host:
    """A store with a layer in it, and files beside it, and beside what is being unpacked."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.root = place / "images"
        self.layers: LayerStore = store(self.root)
        self.beside = [place / "beside", self.root / "beside", self.root / "tmp/../layers/beside"]
        for file in self.beside:
            file.write_text("as it was")

    async def add(self, layer: Layer, limits: LayerLimits = LIMITS) -> Path:
        """The tree of the layer."""
        blob = self.place / "blob"
        blob.write_bytes(layer.blob)
        async with asyncio.timeout(100):
            await self.layers.add(blob, layer.media_type, layer.diff_id, limits)
        tree = self.layers.path(layer.diff_id)
        assert tree is not None
        return tree

    def fingerprint(self) -> object:
        known = self.root / "layers" / f"sha256-{digest_of(KNOWN).removeprefix('sha256:')}" / "fs/known"
        files = [*self.beside, known, Path("/etc/passwd"), Path("/etc/shadow")]
        found = [file.lstat() for file in files if file.exists()]
        return [(f.st_ino, f.st_mode, f.st_uid, f.st_nlink, f.st_mtime_ns, f.st_ctime_ns) for f in found]


@pytest.fixture
async def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    await made.add(gzipped(KNOWN))
    return made


def many(count: int) -> bytes:
    return b"".join(header(f"f{number}", FILE) for number in range(count)) + END


ZEROS = bytes(64 << 20)
REFUSED: dict[str, tuple[Callable[[], Layer], type[BayError], str]] = {
    "a name that leads out": (
        lambda: gzipped(tar(entry("../../../beside", b"x"))),
        ImageInvalid,
        "leads out",
    ),
    "a link to a host's file": (
        lambda: gzipped(tar(hard_link("x", "/etc/shadow"))),
        ImageInvalid,
        "before it",
    ),
    "a whiteout of ..": (lambda: gzipped(tar(entry(".wh..."))), ImageInvalid, "delete a directory"),
    "a whiteout of .": (lambda: gzipped(tar(entry(".wh.."))), ImageInvalid, "delete a directory"),
    "a whiteout of nothing": (lambda: gzipped(tar(entry(".wh."))), ImageInvalid, "delete a directory"),
    "a bomb of zeros behind the end": (lambda: gzipped(ZEROS), ImageTooLarge, "more than 8388608 bytes"),
    "a bomb of zeros in zstd": (lambda: zstandarded(ZEROS), ImageTooLarge, "more than 8388608 bytes"),
    "a bomb in a file": (lambda: gzipped(tar(entry("f", ZEROS))), ImageTooLarge, "more than 8388608 bytes"),
    "a hundred thousand entries": (lambda: gzipped(many(100_000)), ImageTooLarge, "more than 2000 entries"),
    "entries that are implied": (
        lambda: gzipped(tar(*(entry(f"{n}/" + "a/" * 200 + "f") for n in range(20)))),
        ImageTooLarge,
        "more than 2000 entries",
    ),
    "a window of 256 MiB": (lambda: windowed(bytes(1 << 20), 28), ImageInvalid, "compressed data is damaged"),
    "no gzip": (
        lambda: Layer(b"no gzip at all", digest_of(b""), GZIP),
        ImageInvalid,
        "compressed data is damaged",
    ),
    "no zstd": (
        lambda: Layer(b"no zstd at all", digest_of(b""), ZSTD),
        ImageInvalid,
        "compressed data is damaged",
    ),
    "a gzip that breaks off": (
        lambda: Layer(gzipped(tar(entry("f", os.urandom(99_999)))).blob[:-999], digest_of(b""), GZIP),
        ImageInvalid,
        "ends too early",
    ),
    "a gzip with something behind": (
        lambda: Layer(gzipped(KNOWN + bytes(512)).blob + b"trailing", digest_of(KNOWN), GZIP),
        ImageInvalid,
        "compressed data is damaged",
    ),
    "no tar": (lambda: plain(b"no tar at all" * 99), ImageInvalid, "damaged, or no tar"),
    "a header of two megabytes": (
        lambda: gzipped(tar(entry("f", pax_headers={"comment": "x" * (2 << 20)}))),
        ImageInvalid,
        "a header of",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_hostile_layer_is_refused_and_leaves_nothing(host: Host, case: str) -> None:
    make, error, words = REFUSED[case]
    before, stored = host.fingerprint(), names_in(host.root)
    with pytest.raises(error, match=words):
        await host.add(make())
    assert host.fingerprint() == before
    assert names_in(host.root) == stored


def escaping(host: Host) -> list[Entry]:
    return [
        symlink("out", str(host.place)),
        entry("out/beside", b"inside"),
        symlink("up", "../../../.."),
        entry("up/up-there", b"inside"),
        entry(str(host.beside[1]), b"inside"),
        device("null"),
        device("disk", tarfile.BLKTYPE, 8, 0),
    ]


async def test_what_points_out_of_a_layer_stays_inside(host: Host) -> None:
    before = host.fingerprint()
    tree = await host.add(gzipped(tar(*escaping(host))))
    assert host.fingerprint() == before
    assert {str(tree / str(file).lstrip("/")) for file in host.beside[:2]} <= {
        str(path) for path in tree.rglob("beside")
    }
    assert not {"null", "disk"} & set(names_in(tree))


async def test_opaque_directories_are_marked_and_hide_those_below(host: Host, tmp_path: Path) -> None:
    entries = [directory("d"), entry("d/.wh..wh..opq"), entry(".wh.x"), entry("x/new"), directory("plain")]
    tree = await host.add(gzipped(tar(*entries)))
    assert os.getxattr(tree / "d", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(tree / "x", "trusted.overlay.opaque") == b"y"
    assert os.listxattr(tree / "plain") == []


BROKEN = """
import ctypes, errno, json, os, socket, sys
from layer_unpack import confine

ATTEMPTS = {{}}
def attempt(function):
    ATTEMPTS[function.__name__] = function

@attempt
def write_beside():
    os.close(os.open("/layer/../beside", os.O_CREAT | os.O_WRONLY))

@attempt
def write_code():
    os.close(os.open("/.unpack/layer_unpack/__init__.py", os.O_WRONLY))

@attempt
def write_interpreter():
    os.close(os.open("/.ship/bin/python3", os.O_WRONLY))

@attempt
def read_host():
    os.close(os.open("/etc/passwd", os.O_RDONLY))

@attempt
def read_processes():
    os.listdir("/proc")

@attempt
def make_device():
    os.mknod("/layer/device", 0o020666, os.makedev(1, 3))

@attempt
def mark_opaque():
    os.setxattr("/layer", "trusted.overlay.opaque", b"y")

@attempt
def reach_network():
    socket.socket().connect(("127.0.0.1", {port}))

@attempt
def kill_others():
    os.kill(int({pid}), 0)

@attempt
def fork():
    if os.fork() == 0:
        os._exit(0)

@attempt
def run_program():
    os.posix_spawn("/.ship/bin/python3", ["python3", "-c", "0"], {{}})

@attempt
def unshare():
    check(ctypes.CDLL(None, use_errno=True).unshare(0x10000000))

@attempt
def mount():
    check(ctypes.CDLL(None, use_errno=True).mount(b"none", b"/layer", b"tmpfs", 0, None))

@attempt
def btrfs_subvolume():
    import fcntl
    fcntl.ioctl(os.open("/layer", os.O_RDONLY), 0x5000940E, bytearray(b"\\0" * 8 + b"sub".ljust(4088, b"\\0")))

def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")

def tried(function):
    try:
        function()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def main():
    order = json.loads(sys.argv[1])
    filters = [os.pread(file, os.fstat(file).st_size, 0) for file in order["filters"]]
    {root}
    {filter}
    found = {{name: tried(function) for name, function in ATTEMPTS.items()}}
    os.write(1, json.dumps({{"error": "invalid", "message": json.dumps(found)}}).encode() + b"\\n")
"""
AS_ROOT_OF_USERS, FILTERED = 'confine.become_root_of(order["users"])', "confine.install_filter(filters[0])"


async def taken_over(
    host: Host, monkeypatch: pytest.MonkeyPatch, *, root: str = AS_ROOT_OF_USERS, filtered: str = FILTERED
) -> dict[str, str]:
    """The results of what an unpacker tries that a layer has taken over."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        package = host.place / "layer_unpack"
        shutil.copytree(Path(layer_unpack.__file__).parent, package)
        facts = {"port": listener.getsockname()[1], "pid": os.getpid(), "root": root, "filter": filtered}
        (package / "__main__.py").write_text(BROKEN.format(**facts))
        broken = SimpleNamespace(__file__=str(package / "__init__.py"), __name__="layer_unpack")
        monkeypatch.setattr(layer_cage, "layer_unpack", broken)
        with pytest.raises(ImageInvalid) as said:
            await host.add(gzipped(tar(entry("f"))))
    return json.loads(said.value.message)


async def test_an_unpacker_that_is_taken_over_can_write_in_its_layer_alone(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, stored = host.fingerprint(), names_in(host.root)
    found = await taken_over(host, monkeypatch)
    assert not [name for name, result in found.items() if result == "done"]
    assert found["write_beside"] == "EROFS"
    assert found["read_host"] == found["read_processes"] == "ENOENT"
    assert host.fingerprint() == before
    assert names_in(host.root) == stored


async def test_without_seccomp_the_namespaces_hold(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    before = host.fingerprint()
    found = await taken_over(host, monkeypatch, filtered="")
    assert {name for name, result in found.items() if result == "done"} <= {"fork", "btrfs_subvolume"}
    assert found["fork"] == "done"
    assert found["reach_network"] in ("ENETUNREACH", "ECONNREFUSED")
    assert found["kill_others"] == "ESRCH"
    assert found["make_device"] == found["mark_opaque"] == found["mount"] == "EPERM"
    assert host.fingerprint() == before


async def test_without_the_user_namespace_it_could_make_devices_and_marks(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await taken_over(host, monkeypatch, root="", filtered="")
    assert found["mark_opaque"] == "done"
    assert found["make_device"] == "EOVERFLOW"  # root of the host has no id in the layer


LIES: list[object] = [
    {"done": {"digest": 7}},
    {"done": {"digest": None, "bytes": -1}},
    {"done": {"digest": "DIFF", "bytes": 1, "entries": 1, "skipped": 0, "opaque": ["../../beside"]}},
    {"done": {"digest": "DIFF", "bytes": 1, "entries": 1, "skipped": 0, "opaque": ["nowhere"]}},
    {"done": {"digest": "DIFF", "bytes": 1, "entries": 1, "skipped": 0, "opaque": [7]}},
    {"done": {"digest": "DIFF", "bytes": "many", "entries": 1, "skipped": 0, "opaque": []}},
    {"done": {"digest": "DIFF", "bytes": 1 << 70, "entries": 1, "skipped": 0, "opaque": []}},
    {"done": "nothing"},
    {"error": "unheard of", "message": "m" * 5000},
    ["done"],
    "x" * 100_000,
]


@pytest.mark.parametrize("lie", range(len(LIES)))
async def test_the_answer_of_an_unpacker_is_not_believed(
    host: Host, lie: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = gzipped(tar(entry("f")))
    package = host.place / "layer_unpack"
    shutil.copytree(Path(layer_unpack.__file__).parent, package)
    line = json.dumps(LIES[lie]).replace("DIFF", layer.diff_id)
    (package / "__main__.py").write_text(
        f"import os\ndef main():\n    os.write(1, {line!r}.encode() + b'\\n')\n"
    )
    broken = SimpleNamespace(__file__=str(package / "__init__.py"), __name__="layer_unpack")
    monkeypatch.setattr(layer_cage, "layer_unpack", broken)
    before, stored = host.fingerprint(), names_in(host.root)
    with pytest.raises((DriverUnavailable, ImageInvalid)) as refused:
        await host.add(layer)
    assert len(refused.value.message) < 2000
    assert host.fingerprint() == before
    assert names_in(host.root) == stored


async def test_an_unpacker_that_does_not_stop_talking_is_ended(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = host.place / "layer_unpack"
    shutil.copytree(Path(layer_unpack.__file__).parent, package)
    flood = "for n in range(20_000):\n        os.write(1, b'{\"at\": %d}\\n' % n)\n    while True:\n        os.write(1, b'?\\n')"
    ready = "os.write(1, b'{\"ready\": true}\\n')"
    (package / "__main__.py").write_text(f"import os\ndef main():\n    {ready}\n    {flood}\n")
    broken = SimpleNamespace(__file__=str(package / "__init__.py"), __name__="layer_unpack")
    monkeypatch.setattr(layer_cage, "layer_unpack", broken)
    layer, told = gzipped(tar(entry("f"))), list[int]()
    blob = host.place / "blob"
    blob.write_bytes(layer.blob)
    async with asyncio.timeout(100):
        with pytest.raises(DriverUnavailable, match="without a result"):
            await host.layers.add(blob, layer.media_type, layer.diff_id, LIMITS, told.append)
    assert 0 < len(told) < 1000
    assert processes() == []
