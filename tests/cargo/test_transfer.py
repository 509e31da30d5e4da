"""A checkpoint that leaves the machine comes back exactly, or not at all, whoever had it in between."""

import asyncio
import contextlib
import hashlib
import io
import json
import os
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator, Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bay.cargo import export_process
from bay.cargo.export_import import export_stream, import_stream
from bay.cargo.manifest import Manifest
from bay.errors import BadRequest, DriverUnavailable, StorageFull

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root has all that a sandbox can make"),
]

SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
FACTS = Manifest(
    bay="0.1.0",
    persist="machine",
    image="host",
    created_at=datetime(2026, 11, 25, 1, 2, 3, tzinfo=UTC),
    name="before-the-change",
    comment="ünï 😀",
    sandbox_id="sandbox-" + "0" * 24,
)


@pytest.fixture
def place() -> Generator[Path]:
    """On a file system with attributes and holes."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        yield Path(made)


@pytest.fixture
def source(place: Path) -> Path:
    """A checkpoint with everything that a sandbox can make."""
    made = place / "source"
    for part, mode in (("workspace", 0o755), ("machine", 0o700)):
        (made / part).mkdir(parents=True)
        (made / part).chmod(mode)
    fill_workspace(made / "workspace")
    fill_machine(made / "machine")
    return made


@pytest.fixture
def into(place: Path) -> Path:
    (place / "into").mkdir()
    return place / "into"


def fill_workspace(top: Path) -> None:
    os.chown(top, 1000, 1000)
    for name, mode in (("plain", 0o644), ("set-uid", 0o6755), ("closed", 0), (os.fsdecode(b"\xff\n"), 0o600)):
        (top / name).write_text(name * 100, errors="surrogateescape")
        os.chown(top / name, 1000, 65_535)
        (top / name).chmod(mode)
    deep = top.joinpath(*["d" * 20] * 100)
    deep.mkdir(parents=True)
    (deep / ("n" * 255)).write_bytes(os.urandom(70_000))
    os.mkfifo(top / "pipe", 0o640)
    (top / "link").symlink_to("/etc/passwd")
    (top / "dangling").symlink_to("../" * 50 + os.fsdecode(b"\xfe"))
    (top / "pipe-again").hardlink_to(top / "pipe")
    os.link(top / "link", top / "link-again", follow_symlinks=False)
    (deep / "plain-again").hardlink_to(top / "plain")
    fill_sparse(top)
    os.setxattr(top / "plain", "user.50%=é", bytes(range(256)))
    os.setxattr(top, "user.top", b"1\n")
    access = bytes.fromhex(
        "0200000001000600ffffffff02000400e803000004000400ffffffff10000600ffffffff20000000ffffffff"
    )
    os.setxattr(top / "plain", "system.posix_acl_access", access)
    os.setxattr(top / ("d" * 20), "system.posix_acl_default", access)
    for name, when in (("plain", 1_234_567_890_123_456_789), ("closed", -1_500_000_001)):
        os.utime(top / name, ns=(when, when))


def fill_sparse(top: Path) -> None:
    with (top / "sparse").open("wb") as file:
        os.pwrite(file.fileno(), b"x" * 100_000, 1 << 30)
        os.pwrite(file.fileno(), b"y" * 5000, 1 << 40)
        file.truncate((1 << 40) + 1_000_000)
    with (top / "hole").open("wb") as file:
        file.truncate(1 << 33)


def fill_machine(top: Path) -> None:
    upper = top / "root/upper"
    (upper / "etc").mkdir(parents=True)
    (upper / "var").mkdir()
    os.setxattr(upper / "etc", "trusted.overlay.opaque", b"y")
    os.setxattr(upper / "var", "trusted.overlay.opaque", b"x")
    for name in ("gone", "gone-too"):
        os.mknod(upper / "etc" / name, stat.S_IFCHR, os.makedev(0, 0))
    (upper / "etc/passwd").write_text("root:x:0:0")


def facts_of(path: Path) -> dict[str, object]:
    """Everything about one name but its access time, and which others are the same file."""
    found = path.lstat()
    xattrs = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }
    regular = stat.S_ISREG(found.st_mode)
    return {
        "mode": found.st_mode,
        "owner": (found.st_uid, found.st_gid),
        "mtime": found.st_mtime_ns,
        "xattrs": xattrs,
        "device": found.st_rdev,
        "size": found.st_size if not path.is_dir() else 0,
        "blocks": found.st_blocks if regular else 0,
        "target": os.readlink(path) if path.is_symlink() else None,
        "data": data_of(path) if regular else None,
    }


def data_of(path: Path) -> list[tuple[int, bytes]]:
    """What is not a hole."""
    found: list[tuple[int, bytes]] = []
    end = 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while end < size:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            found.append((start, os.pread(file.fileno(), end - start, start)))
    return found


def snapshot(top: Path) -> dict[str, object]:
    """A tree as something that can be compared."""
    os.sync()  # blocks are given when data reaches the disk
    paths = [top, *sorted(top.rglob("*"))]
    groups: dict[int, list[str]] = {}
    for path in paths:
        if not path.is_dir() or path.is_symlink():
            groups.setdefault(path.lstat().st_ino, []).append(str(path.relative_to(top)))
    same = {name: group for group in groups.values() for name in group}
    return {(name := str(path.relative_to(top))): (facts_of(path), same.get(name)) for path in paths[1:]}


async def exported(path: Path, facts: Manifest = FACTS) -> bytes:
    return b"".join([chunk async for chunk in export_stream(path, facts)])


async def pieces(data: bytes, size: int = 50_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def imported(data: bytes, into: Path, max_bytes: int | None = None) -> Manifest:
    return await import_stream(pieces(data), into, max_bytes)


def importing(data: bytes, into: Path) -> Manifest | None:
    """The same in this process, which is quicker; None when it is refused."""
    try:
        return export_process.unpack(io.BytesIO(data).read, into, None).facts
    except BadRequest:
        return None


# There and back


async def test_everything_comes_back_exactly(source: Path, into: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(source / "workspace/socket"))
        data = await exported(source)
    (source / "workspace/socket").unlink()
    before = facts_of(source / "workspace")["mtime"]
    os.utime(source / "workspace", ns=(5, 5))
    assert before != 5
    data = await exported(source)
    assert await imported(data, into) == FACTS
    assert snapshot(into) == snapshot(source)
    assert len(data) < 1 << 20


async def test_the_machine_stays_behind_where_only_the_workspace_is_kept(source: Path, into: Path) -> None:
    facts = Manifest(bay="1", persist="workspace", image="host", created_at=FACTS.created_at)
    assert await imported(await exported(source, facts), into) == facts
    assert os.listdir(into / "machine") == []
    assert snapshot(into / "workspace") == snapshot(source / "workspace")


async def test_what_an_overlay_could_be_led_astray_by_is_not_carried(source: Path, into: Path) -> None:
    upper = source / "machine/root/upper"
    os.setxattr(upper / "etc", "trusted.overlay.redirect", b"/../../etc")
    os.setxattr(upper / "etc/passwd", "trusted.overlay.metacopy", b"")
    os.setxattr(
        upper / "etc/passwd", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000")
    )
    await imported(await exported(source), into)
    there = into / "machine/root/upper/etc"
    assert os.listxattr(there) == ["trusted.overlay.opaque"]
    assert os.listxattr(there / "passwd") == []


async def test_other_programs_can_read_it(source: Path) -> None:
    raw = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(await exported(source))).read()
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        names = tar.getnames()
        assert (names[0], names[-1]) == ("checkpoint.json", "sha256")
        content = tar.extractfile("workspace/plain")
        assert content is not None
        assert content.read() == (source / "workspace/plain").read_bytes()


# Damage


@pytest.fixture(scope="module")
def small() -> Generator[tuple[bytes, dict[str, object]]]:
    """A small export, and what it was made of."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        source = Path(made)
        (source / "machine").mkdir(mode=0o700)
        (source / "workspace").mkdir()
        (source / "workspace/file").write_text("content" * 1000)
        (source / "workspace/file").chmod(0o4755)
        (source / "workspace/again").hardlink_to(source / "workspace/file")
        (source / "workspace/link").symlink_to("file")
        yield asyncio.run(exported(source)), snapshot(source)


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(at=st.integers(min_value=0), bits=st.integers(1, 255))
def test_a_byte_that_was_changed_is_found(small: tuple[bytes, dict[str, object]], at: int, bits: int) -> None:
    data = bytearray(small[0])
    data[at % len(data)] ^= bits
    refused_or_the_same(bytes(data), small[1])


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(at=st.integers(min_value=0), bits=st.integers(1, 255))
def test_a_byte_that_was_changed_inside_is_found_too(
    small: tuple[bytes, dict[str, object]], at: int, bits: int
) -> None:
    """By who compresses it again, so that zstd's own checksum fits."""
    raw = bytearray(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(small[0])).read())
    raw[at % len(raw)] ^= bits
    refused_or_the_same(zstandard.ZstdCompressor().compress(bytes(raw)), small[1])


def refused_or_the_same(data: bytes, tree: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as made:
        if importing(data, Path(made)) is not None:
            assert snapshot(Path(made)) == tree


def test_an_end_that_is_missing_is_found_wherever_it_was_cut(
    small: tuple[bytes, dict[str, object]], place: Path
) -> None:
    raw = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(small[0])).read()
    cuts = [zstandard.ZstdCompressor().compress(raw[:at]) for at in range(0, len(raw) - 1024, 512)]
    for number, data in enumerate(
        [*cuts, *(small[0][:at] for at in range(0, len(small[0]), 7)), small[0][:-1]]
    ):
        (place / str(number)).mkdir()
        assert importing(data, place / str(number)) is None, number


def test_what_is_behind_the_end_is_found(small: tuple[bytes, dict[str, object]], place: Path) -> None:
    for number, more in enumerate(
        [b"", b"x", small[0], zstandard.ZstdCompressor().compress(b""), bytes(1 << 18)]
    ):
        (place / str(number)).mkdir()
        assert (importing(small[0] + more, place / str(number)) is None) == bool(more)


# What an enemy writes


def hostile(*members: tuple[str, dict[str, Any], bytes], persist: str = "machine") -> bytes:
    """An export with a right digest, by who knows the format."""
    out = io.BytesIO()
    facts = FACTS.to_json().replace("machine", persist).encode()
    directory = {"type": tarfile.DIRTYPE}
    always: list[tuple[str, dict[str, Any], bytes]] = [
        ("checkpoint.json", {}, facts),
        ("workspace", directory, b""),
    ]
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, changes, content in (*always, *members):
            add(tar, name, content, **changes)
        add(tar, "sha256", hashlib.sha256(out.getvalue()).hexdigest().encode())
    return zstandard.ZstdCompressor().compress(out.getvalue())


def add(tar: tarfile.TarFile, name: str, content: bytes, **changes: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in changes.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(content))


def link(kind: bytes, target: str) -> dict[str, Any]:
    return {"type": kind, "linkname": target}


def sparse(text: bytes, real: int, data: bytes = b"") -> tuple[str, dict[str, Any], bytes]:
    records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(real)}
    return "workspace/sparse", {"pax_headers": records}, text.ljust(512, b"\0") + data


OUT = ("workspace/out", link(tarfile.SYMTYPE, "../.."), b"")
ENEMIES: dict[str, list[tuple[str, dict[str, Any], bytes]]] = {
    "up": [("../escaped", {}, b"x")],
    "up inside": [("workspace/../../escaped", {}, b"x")],
    "absolute": [("/tmp/escaped-from-a-checkpoint", {}, b"x")],
    "elsewhere": [("escaped", {}, b"x")],
    "a file for a part": [("machine", {}, b"x")],
    "twice": [("workspace/x", {}, b"x"), ("workspace/x", {}, b"y")],
    "through a link": [OUT, ("workspace/out/escaped", {}, b"x")],
    "over a link": [
        ("workspace/out", link(tarfile.SYMTYPE, "../../escaped"), b""),
        ("workspace/out", {}, b"x"),
    ],
    "a part that is a link": [("machine", link(tarfile.SYMTYPE, ".."), b""), ("machine/escaped", {}, b"x")],
    "hard link out": [("workspace/x", link(tarfile.LNKTYPE, "../outside"), b"")],
    "hard link through a link": [OUT, ("workspace/x", link(tarfile.LNKTYPE, "workspace/out/outside"), b"")],
    "hard link to the other part": [
        ("machine", {"type": tarfile.DIRTYPE}, b""),
        ("machine/y", {}, b"x"),
        ("workspace/x", link(tarfile.LNKTYPE, "machine/y"), b""),
    ],
    "hard link to a directory": [("workspace/x", link(tarfile.LNKTYPE, "workspace"), b"")],
    "disk": [("workspace/sda", {"type": tarfile.BLKTYPE, "devmajor": 8}, b"")],
    "terminal": [("workspace/tty", {"type": tarfile.CHRTYPE, "devmajor": 5}, b"")],
    "disk of nothing": [("workspace/disk", {"type": tarfile.BLKTYPE}, b"")],
    "owner": [("workspace/x", {"uid": 65_536}, b"x")],
    "long name": [("workspace/" + "n" * 256, {}, b"x")],
    "deep": [("workspace" + "/d" * 5000, {}, b"x")],
    "dot": [("workspace/./x", {}, b"x")],
    "data behind the end": [sparse(b"1\n10\n3\n", 5, b"xyz")],
    "data that overlaps": [sparse(b"2\n0\n3\n1\n3\n", 9, b"xyzxyz")],
    "data that is not there": [sparse(b"1\n0\n9\n", 9, b"xyz")],
    "more data than it says": [sparse(b"1\n0\n1\n", 9, b"xyz")],
    "a piece of nothing": [sparse(b"2\n0\n0\n9\n0\n", 9)],
    "a list without end": [sparse(b"9999999999\n", 9)],
    "a list of one long number": [sparse(b"1" * 4096, 9)],
    "less than nothing": [sparse(b"1\n-1\n1\n", 9, b"x")],
    "larger than any file": [sparse(b"0\n", 1 << 63)],
    "other sparse": [
        ("workspace/x", {"pax_headers": {"GNU.sparse.major": "0", "GNU.sparse.minor": "1"}}, b"x")
    ],
    "size below nothing": [("workspace/x", {"pax_headers": {"size": "-512"}}, b"x")],
    "size of everything": [("workspace/x", {"pax_headers": {"size": str(1 << 62)}}, b"x")],
    "records without end": [("workspace/x", {"pax_headers": {"comment": "c" * (5 << 20)}}, b"x")],
    "unknown kind": [("workspace/x", {"type": b"S"}, b"x")],
}


@pytest.mark.parametrize("name", ENEMIES)
def test_what_an_enemy_writes_is_refused_and_touches_nothing(name: str, place: Path, into: Path) -> None:
    (place / "outside").write_text("untouched")
    assert importing(hostile(("workspace/good", {}, b"good"), *ENEMIES[name]), into) is None
    assert sorted(os.listdir(place)) == ["into", "outside"]
    assert (place / "outside").stat().st_nlink == 1
    assert not Path("/tmp/escaped-from-a-checkpoint").exists()


def test_what_an_enemy_writes_is_refused_for_what_it_is_and_not_by_accident(into: Path) -> None:
    whiteout = ("machine/gone", {"type": tarfile.CHRTYPE}, b"")
    directory = ("machine", {"type": tarfile.DIRTYPE}, b"")
    assert importing(
        hostile(("workspace/good", {}, b"good"), OUT, directory, whiteout, sparse(b"1\n2\n3\n", 9, b"xyz")),
        into,
    )
    assert (into / "workspace/sparse").read_bytes() == b"\0\0xyz\0\0\0\0"


def test_a_file_of_a_kind_that_no_export_has_is_refused(into: Path) -> None:
    contiguous = {"type": tarfile.CONTTYPE}
    assert importing(hostile(("workspace/file", contiguous, b"x")), into) is None


def test_an_attribute_whose_name_no_file_can_have_is_refused(into: Path) -> None:
    named = {"pax_headers": {"SCHILY.xattr.user.a%00b": "y"}}
    assert importing(hostile(("workspace/file", named, b"x")), into) is None


def test_attributes_of_the_host_are_not_taken(into: Path) -> None:
    def told(*names: str) -> dict[str, Any]:
        return {"type": tarfile.DIRTYPE, "pax_headers": {f"SCHILY.xattr.{name}": "y" for name in names}}

    names = (
        "trusted.overlay.opaque",
        "trusted.overlay.redirect",
        "trusted.overlay.metacopy",
        "security.evil",
    )
    data = hostile(*[(name, told(*names), b"") for name in ("workspace/d", "machine", "machine/d")])
    assert importing(data, into)
    assert os.listxattr(into / "workspace/d") == []
    assert os.listxattr(into / "machine/d") == ["trusted.overlay.opaque"]


def test_no_machine_is_taken_where_none_was_kept(into: Path) -> None:
    data = hostile(("machine", {"type": tarfile.DIRTYPE}, b""), persist="workspace")
    assert importing(data, into) is None


def test_a_newer_format_and_strange_facts_are_told_in_words() -> None:
    with pytest.raises(BadRequest, match="newer Bay"):
        Manifest.from_json(b'{"format": 2}')
    for text in (b"[", b"[" * 60_000, b"7", FACTS.to_json().replace("+00:00", "").encode()):
        with pytest.raises(BadRequest, match="did not export it"):
            Manifest.from_json(text)


@pytest.mark.parametrize(
    "change",
    [{"comment": "\ud800"}, {"image": "\udfff"}, {"name": "a\udc80"}, {"bay": "\udcff"}, {"sandbox_id": "\ud800"},
     {"created_at": "0001-01-01T00:00:00+14:00"}, {"created_at": "9999-12-31T23:59:59-14:00"}],
)  # fmt: skip
def test_facts_that_no_database_can_keep_are_refused(change: dict[str, str]) -> None:
    with pytest.raises(BadRequest, match="did not export it"):
        Manifest.from_json(json.dumps({**json.loads(FACTS.to_json()), **change}))


# Bounds


async def test_more_than_allowed_and_a_full_disk_are_storage_full(
    source: Path, into: Path, place: Path
) -> None:
    (source / "workspace/big").write_bytes(os.urandom(3 << 20))
    data = await exported(source)
    with pytest.raises(StorageFull, match="more than 1000000 bytes"):
        await imported(data, into, 1_000_000)
    with full_disk(place / "full") as full, pytest.raises(StorageFull, match="no space"):
        await imported(data, full)


@contextlib.contextmanager
def full_disk(at: Path) -> Generator[Path]:
    at.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", at], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


async def test_a_bomb_stops_at_the_limit(into: Path) -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 28))
    with pytest.raises(BadRequest):
        await imported(bomb, into, 1000)


def test_millions_of_pieces_that_are_none_cost_no_time(into: Path) -> None:
    count = 1_000_000
    data = hostile(sparse(b"%d\n" % count + b"0\n" * (2 * count) + bytes(512), 0))
    began = time.process_time()
    assert importing(data, into) is None
    assert (len(data) < 4096, time.process_time() - began < 0.3) == (True, True)


def test_memory_stays_flat_however_large_and_however_many(source: Path, into: Path) -> None:
    top = source / "workspace"
    with (top / "large").open("wb") as file:
        for _ in range(200):
            file.write(os.urandom(1 << 19) + bytes(1 << 19))
    for number in range(3000):
        (top / f"f{number}").touch()
        (top / f"g{number}").hardlink_to(top / f"f{number}")
    facts = FACTS.to_json().encode()
    (into.parent / "facts").write_bytes(facts)
    with (into.parent / "stream").open("w+b") as stream, (into.parent / "facts").open("rb") as told:
        exporting = run_small("export", source, stdin=told, stdout=stream)
        stream.seek(0)
        unpacking = run_small("import", into, stdin=stream, stdout=stream)
    assert max(exporting, unpacking) < 80 << 10  # KiB
    assert subprocess.run(["cmp", top / "large", into / "workspace/large"], check=False).returncode == 0


def run_small(act: str, path: Path, *, stdin: IO[bytes], stdout: IO[bytes]) -> int:
    """Run it with half the memory; gives the largest that it was, in KiB."""
    code = (
        "import sys; from bay.cargo import export_process; export_process.MEMORY_BYTES = 160 << 20; "
        "status = export_process.main(sys.argv[1:]); "
        "print(*[l.split()[1] for l in open('/proc/self/status') if l[:6] == 'VmHWM:'], file=sys.stderr); sys.exit(status)"
    )
    command = [sys.executable, "-c", code, act, str(path)]
    with subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return int(said.splitlines()[-1])


# The process


def transfers() -> list[str]:
    found = subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=True
    )
    return [line for line in found.stdout.splitlines() if "bay.cargo.export_process" in line]


async def test_an_export_that_nobody_reads_to_its_end_leaves_no_process(source: Path) -> None:
    (source / "workspace/big").write_bytes(os.urandom(8 << 20))
    stream = export_stream(source, FACTS)
    assert await anext(stream)
    assert len(transfers()) == 1
    await stream.aclose()
    assert transfers() == []


async def test_an_import_that_is_cancelled_or_whose_source_breaks_leaves_no_process(into: Path) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"\x28"
        begun.set()
        await asyncio.Event().wait()

    async def broken() -> AsyncIterator[bytes]:
        yield b"\x28"
        raise ConnectionResetError("the caller went away")

    task = asyncio.create_task(import_stream(endless(), into, None))
    async with asyncio.timeout(10):
        await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ConnectionResetError):
        await import_stream(broken(), into, None)
    assert transfers() == []


async def test_an_archive_that_is_refused_early_is_not_read_to_its_end(into: Path) -> None:
    taken = 0

    async def long() -> AsyncIterator[bytes]:
        nonlocal taken
        while taken < 10_000:
            taken += 1
            yield bytes(1 << 16)

    with pytest.raises(BadRequest, match="not a checkpoint"):
        await import_stream(long(), into, None)
    assert taken < 1000


async def test_what_the_host_lacks_is_not_the_archives_fault(place: Path, source: Path) -> None:
    data = await exported(source)
    with pytest.raises(DriverUnavailable, match="No such file"):
        await imported(data, place / "nowhere")
    with pytest.raises(DriverUnavailable, match="not empty"):
        await imported(data, source)
    with pytest.raises(DriverUnavailable, match="No such file"):
        await exported(place / "nowhere")
