"""Backup and restore for `bay admin`: a tar of the database, the admin key and, if asked for, the files.

A backup is made beside a running Bay: SQLite copies its database as it was at one moment. A restore needs the
data directory for itself, reads everything into a separate directory, checks it, and only then moves it into
place; the replaced files are moved aside and never deleted. A backup is untrusted input: see `archive`.
"""

import asyncio
import contextlib
import errno
import gzip
import json
import os
import re
import secrets
import sqlite3
import subprocess
import zlib
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast, get_args
from urllib.parse import quote

from bay import __version__
from bay.cargo import backend_detection
from bay.cargo.base_backend import MACHINE, WORKSPACE
from bay.cargo.tar_pack import Packer
from bay.cargo.tar_unpack import RULES, CargoPolicy, Digests, MakeDirectory
from bay.clock import utc_now
from bay.errors import BadRequest, BayError, Conflict, DriverUnavailable, StorageFull
from bay.ids import is_id
from bay.linux import btrfs, remove_tree
from bay.server.data_dir import DATABASE, KEY_FILE, UNFINISHED, configured
from bay.server.main import lock_data_dir
from bay.server.offline.database_choice import refuse_postgres
from bay.store.versions import MIGRATIONS
from tree_tar.beneath import Parts
from tree_tar.extract import Extractor
from tree_tar.headers import DIRECTORY, FILE
from tree_tar.reader import Member, Reader

FORMAT = 2
MANIFEST = "manifest.json"
_CARGO = "cargo"
_LOCK = "bay.lock"
_CHECKPOINTS = ".checkpoints"
_LARGEST_MANIFEST = 1 << 30
_OF_A_ROTATION = re.compile(r"bay-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ\.tar\.gz")
_COMPRESSED = b"\x1f\x8b"

# The rows have the sessions of the backup's time. Present sessions have other files, so they are ended and
# nothing is adopted.
_STOP_EVERYTHING = """
    UPDATE sessions SET phase = 'ending', end_reason = 'restored' WHERE phase NOT IN ('ending', 'ended');
    UPDATE sandboxes SET target = 'stopped' WHERE target IN ('running', 'paused', 'hibernated') AND deleted_at IS NULL;
    DELETE FROM facts WHERE name = 'event_id_key';
"""

_CHECKPOINTS_GONE = """
    UPDATE checkpoints SET deleted_at = strftime('%Y-%m-%d %H:%M:%f000', 'now') WHERE deleted_at IS NULL;
    UPDATE checkpoints SET state = 'ready', parent_id = NULL;
    UPDATE sandboxes SET checkpoint_id = NULL, restore_id = NULL;
"""
_CHECKPOINTS_THERE = "SELECT id FROM checkpoints WHERE deleted_at IS NULL"


@dataclass(frozen=True, slots=True)
class Made:
    """A backup: where it is, how many workspaces are in it with their files, what was left out, and which
    older backups were removed.
    """

    path: Path
    workspaces: int
    left_out: tuple[str, ...]
    removed: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Restored:
    """A restore: the time of its backup, its count of sandboxes, and where the replaced files are now."""

    created_at: str
    sandboxes: int
    data_dir: Path
    aside: Path | None


def backup(out: Path, data_dir: Path | None, *, with_files: bool) -> Made:
    """Back `data_dir` (None: BAY_DATA_DIR or the default) up to `out`, a .tar, .tar.gz or .tgz. Bay may run.
    Blocks. Raises Conflict when `out` exists or the rows are in PostgreSQL, DriverUnavailable for a database
    that is damaged or unreadable.
    """
    source = configured(data_dir)
    refuse_postgres(source, "backup")
    compressed = _is_compressed(out)
    if out.exists():
        raise Conflict(f"{out} exists; choose another name")
    partial = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        with _host_errors(out), _apart(out.parent) as apart:
            made = _write(partial, source, apart, compressed=compressed, with_files=with_files)
            partial.rename(out)
            _sync(out.parent)
    finally:
        partial.unlink(missing_ok=True)
    return Made(out, made.workspaces, made.left_out)


def rotate(directory: Path, data_dir: Path | None, *, with_files: bool, keep: int) -> Made:
    """Back up to a new file in `directory`, named by the time as bay-2030-01-31T12-00-00Z.tar.gz, and then
    remove the oldest files of such names, so that `keep` stay. Raises as `backup` does, and BadRequest where
    `directory` is none.
    """
    if not directory.is_dir():
        raise BadRequest(f"{directory} is not a directory; make it, or leave --keep out to write one file")
    made = backup(directory / f"bay-{utc_now():%Y-%m-%dT%H-%M-%SZ}.tar.gz", data_dir, with_files=with_files)
    names = sorted(name for name in os.listdir(directory) if _OF_A_ROTATION.fullmatch(name))
    removed = [directory / name for name in names[:-keep]]
    with _host_errors(directory):
        for path in removed:
            path.unlink(missing_ok=True)  # a person may remove it at the same time
    return replace(made, removed=tuple(removed))


def restore(source: Path, data_dir: Path | None, *, force: bool) -> Restored:
    """Put the backup `source` into `data_dir` (None: BAY_DATA_DIR or the default), which no Bay may be using.

    `force`: existing files are moved aside, into a directory in it. Files that the backup does not have stay
    where they are, except workspaces that its database does not know: those are moved aside as well, because
    Bay would remove them. Blocks. Raises Conflict, BadRequest for a backup that is not sound, or
    DriverUnavailable.
    """
    target = configured(data_dir)
    refuse_postgres(target, "restore")
    with _host_errors(target), _locked(target):
        if (there := sorted(set(os.listdir(target)) - {_LOCK})) and not force:
            raise Conflict(
                f"the data directory {target} is not empty (it has {there[0]}); choose another, or move its "
                "contents aside with --force"
            )
        with _apart(target) as apart:
            kind = _kind(target)
            manifest = _unpack(source, apart, kind)
            with_files = bool(manifest["with_files"])
            sandboxes, known = _prepare_database(apart / DATABASE, with_files=with_files)
            with _unknown_aside(target, known, with_files=with_files) as aside:
                _put_in_place(apart, target, aside, kind if with_files else None)
    return Restored(str(manifest["created_at"]), sandboxes, target, aside if aside.exists() else None)


def _kind(target: Path) -> backend_detection.Kind:
    """Who keeps the cargos of the data directory, or will."""
    setting = os.environ.get("BAY_CARGO_BACKEND") or "auto"
    if setting not in get_args(backend_detection.Setting):
        raise BadRequest(
            f"BAY_CARGO_BACKEND is {setting!r}; set it to one of {', '.join(get_args(backend_detection.Setting))}"
        )
    return backend_detection.decide(
        cast("backend_detection.Setting", setting), backend_detection.look(target)
    )


def _is_compressed(out: Path) -> bool:
    if out.name.endswith((".tar.gz", ".tgz")):
        return True
    if out.name.endswith(".tar"):
        return False
    raise BadRequest(f"{out} has no known suffix; end its name in .tar or .tar.gz")


@contextlib.contextmanager
def _apart(parent: Path) -> Generator[Path]:
    """A private directory in `parent`, removed at the end with its content."""
    apart = parent / f".bay-{secrets.token_hex(6)}"
    apart.mkdir(mode=0o700)
    try:
        yield apart
    finally:
        asyncio.run(remove_tree.remove(apart))


@contextlib.contextmanager
def _locked(data_dir: Path) -> Generator[None]:
    lock = lock_data_dir(data_dir)
    try:
        yield
    finally:
        os.close(lock)


def _write(out: Path, source: Path, apart: Path, *, compressed: bool, with_files: bool) -> Made:
    schema = _copy_database(source / DATABASE, apart / DATABASE)
    descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        with _stream(file, compressed=compressed) as stream:
            packer = Packer(stream)
            _pack_own(packer, source, apart)
            workspaces = _pack_all_workspaces(packer, source) if with_files else 0
            facts = {"schema": schema, "with_files": with_files}
            _pack_manifest(packer, {**facts, "members": packer.digests, "left_out": packer.left_out}, apart)
            packer.finish()
        file.flush()
        os.fsync(file.fileno())
    return Made(out, workspaces, tuple(packer.left_out))


def _stream(file: IO[bytes], *, compressed: bool) -> contextlib.AbstractContextManager[IO[bytes]]:
    if not compressed:
        return contextlib.nullcontext(file)
    return cast("Any", gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6))


def _copy_database(live: Path, copy: Path) -> str:
    """Copy the database as it is at one moment, under concurrent writes; gives its schema's revision."""
    if not live.is_file():
        raise DriverUnavailable(
            f"there is no database {live} to back up; name the data directory with --data-dir"
        )
    try:
        with _database(live) as source, _database(copy, "rwc") as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")
            _check_sound(target)
            return str(target.execute("SELECT version_num FROM alembic_version").fetchone()[0])
    except (sqlite3.DatabaseError, TypeError) as error:
        raise DriverUnavailable(
            f"the database {live} is damaged ({error}); restore it with `bay admin restore`"
        ) from error


def _pack_own(packer: Packer, source: Path, apart: Path) -> None:
    for name, place in ((DATABASE, apart), (KEY_FILE, source)):
        with _directory(place) as directory, contextlib.suppress(FileNotFoundError):  # no key of its own
            packer.add_file(name, directory, name)


def _pack_all_workspaces(packer: Packer, source: Path) -> int:
    try:
        with backend_detection.files_of(source) as cargo:
            return _pack_workspaces(packer, cargo)
    except OSError as error:
        raise DriverUnavailable(f"the workspaces in {source} cannot be read: {error}") from error


def _pack_workspaces(packer: Packer, cargo: Path) -> int:
    found = sorted(path.name for path in cargo.iterdir() if is_id(path.name)) if cargo.is_dir() else []
    if cargo.is_dir():
        packer.add_directory(_CARGO, cargo)
    for name in found:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # removed meanwhile
            packer.add_directory(f"{_CARGO}/{name}", cargo / name)
            packer.add_tree(f"{_CARGO}/{name}/{WORKSPACE}", cargo / name / WORKSPACE)
            packer.add_tree(f"{_CARGO}/{name}/{MACHINE}", cargo / name / MACHINE, system=True)
    return len(found)


def _pack_manifest(packer: Packer, facts: dict[str, Any], apart: Path) -> None:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = {"format": FORMAT, "bay": __version__, "created_at": created, **facts}
    (apart / MANIFEST).write_text(json.dumps(manifest, indent=1))
    with _directory(apart) as directory:
        packer.add_file(MANIFEST, directory, MANIFEST)


def _unpack(source: Path, apart: Path, kind: backend_detection.Kind) -> dict[str, Any]:
    """Unpack everything into `apart` and check it against the manifest, which it gives."""
    with _place_for_cargos(apart, kind) as new_directory:
        digests = _unpack_all(source, apart, new_directory)
        if digests.pop(MANIFEST, None) is None:
            raise BadRequest(f"{source} is not a Bay backup, or is truncated: it has no {MANIFEST}")
        manifest = _manifest(source, apart / MANIFEST)
        if digests != manifest["members"] or DATABASE not in digests:
            raise BadRequest(f"{source} is damaged: {_difference(digests, manifest['members'])}")
    return manifest


def _unpack_all(source: Path, apart: Path, new_directory: MakeDirectory) -> dict[str, str]:
    policy = CargoPolicy(_belongs, own=os.geteuid() == 0, depth=2, new_directory=new_directory)
    digests = Digests()
    try:
        with (
            _opened(source) as stream,
            _directory(apart) as top,
            contextlib.closing(Extractor(top, policy)) as extractor,
        ):
            for event in Reader(RULES).pull(stream.read):
                digests.take(event)
                extractor.take(event)
            extractor.finish()
    except (EOFError, ValueError, zlib.error, gzip.BadGzipFile) as error:
        raise BadRequest(f"{source} is damaged or not a Bay backup: {error}") from error
    return digests.by_name()


@contextlib.contextmanager
def _opened(source: Path) -> Generator[IO[bytes]]:
    with source.open("rb") as file:
        compressed = file.read(len(_COMPRESSED)) == _COMPRESSED
        file.seek(0)
        yield cast("IO[bytes]", gzip.GzipFile(fileobj=file, mode="rb")) if compressed else file


@contextlib.contextmanager
def _place_for_cargos(apart: Path, kind: backend_detection.Kind) -> Generator[MakeDirectory]:
    """How to make directories as the backend keeps its cargos: on btrfs subvolumes, in a new pool."""
    pool = backend_detection.pool_of(apart)

    def make(parent: int, parts: Parts) -> None:
        if parts == (_CARGO,) and kind == "pool":
            pool.open()
        elif len(parts) == 2 and kind != "directory":
            _make_subvolume(apart / _CARGO / parts[1])
        else:
            os.mkdir(parts[-1], 0o700, dir_fd=parent)

    try:
        yield make
    finally:
        if kind == "pool" and pool.file.exists() and pool.is_mounted():
            os.sync()
            pool.close()


def _make_subvolume(path: Path) -> None:
    if path.exists():
        raise FileExistsError(errno.EEXIST, "the backup has it twice", str(path))
    btrfs.create(path)
    path.chmod(0o700)
    if btrfs.are_quotas_on(path.parent):
        btrfs.join_group(path, btrfs.group_of(btrfs.subvolume_id(path)))


def _belongs(parts: Parts, member: Member) -> bool:
    if parts[0] != _CARGO:
        return len(parts) == 1 and member.kind == FILE and parts[0] in (DATABASE, KEY_FILE, MANIFEST)
    if len(parts) > 1 and not is_id(parts[1]):
        return False
    return len(parts) > 2 or member.kind == DIRECTORY


def _manifest(source: Path, file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            found = json.loads(opened.read(_LARGEST_MANIFEST))
    except (ValueError, RecursionError):
        found = None
    match found:
        case {
            "format": int(version),
            "schema": str(schema),
            "members": dict(),
            "with_files": bool(),
            "created_at": str(),
        }:
            name = schema if schema.isalnum() else "-"
            if version != FORMAT or not list((MIGRATIONS / "versions").glob(f"{name}_*.py")):
                raise BadRequest(f"{source} was made by another version of Bay; restore it with that one")
            return cast("dict[str, Any]", found)
        case _:
            raise BadRequest(f"{source} is not a Bay backup: its {MANIFEST} is invalid")


def _difference(found: dict[str, str], expected: dict[str, str]) -> str:
    wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    return f"{wrong[0] if wrong else DATABASE} is not what was backed up"


def _prepare_database(database: Path, *, with_files: bool) -> tuple[int, set[str]]:
    """Check it and let nothing run; gives how many sandboxes there are, and every workspace it knows."""
    try:
        with _database(database) as db:
            db.execute("PRAGMA trusted_schema = OFF")
            _check_sound(db)
            db.executescript(f"BEGIN; {_STOP_EVERYTHING} COMMIT;")
            (sandboxes,) = db.execute("SELECT count(*) FROM sandboxes WHERE deleted_at IS NULL").fetchone()
            known = {str(row[0]) for row in db.execute("SELECT id FROM cargos WHERE deleted_at IS NULL")}
            if _has_checkpoints(db):
                if with_files:  # theirs are not in a backup, and those that are there are moved aside
                    db.executescript(f"BEGIN; {_CHECKPOINTS_GONE} COMMIT;")
                known |= {str(row[0]) for row in db.execute(_CHECKPOINTS_THERE)}
    except sqlite3.DatabaseError as error:
        raise BadRequest(f"the database in the backup is damaged: {error}; restore another backup") from error
    database.chmod(0o600)
    return int(sandboxes), known


def _check_sound(db: sqlite3.Connection) -> None:
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def _has_checkpoints(db: sqlite3.Connection) -> bool:
    """Whether the schema is one with checkpoints; an older one is brought up when Bay starts."""
    there = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'checkpoints'"
    return db.execute(there).fetchone() is not None


def _put_in_place(apart: Path, target: Path, aside: Path, kind: backend_detection.Kind | None) -> None:
    """Move the old aside and the new in. Interrupted, it leaves a mark that keeps Bay from starting."""
    for path in _replaced(target, with_files=kind is not None):
        aside.mkdir(mode=0o700, exist_ok=True)
        path.rename(aside / path.name)
    for name in (backend_detection.POOL_FILE, KEY_FILE, DATABASE):
        if (apart / name).exists():
            (apart / name).rename(target / name)
    if kind is not None and (apart / _CARGO).exists():
        if kind != "pool":
            (apart / _CARGO).rename(target / _CARGO)
        backend_detection.record(target, kind)
    _sync(target)
    (target / UNFINISHED).unlink()
    _sync(target)


@contextlib.contextmanager
def _unknown_aside(target: Path, known: set[str], *, with_files: bool) -> Generator[Path]:
    """Where the replaced files go, and first the cargos that stay and have no row: Bay would remove them."""
    mark = target / UNFINISHED
    mark.touch(mode=0o600)
    os.sync()  # the unpacked files are on the disk before anything is moved for them
    aside = target / f"before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
    if with_files:
        _unmount(target)
    else:
        with backend_detection.files_of(target) as cargo:
            # Out of a pool nothing can be moved.
            _move_unknown(cargo, cargo / aside.name if _is_pool(target) else aside / _CARGO, known)
    yield aside


def _is_pool(target: Path) -> bool:
    return backend_detection.pool_of(target).file.exists()


def _unmount(target: Path) -> None:
    """Unmount the pool. Running sandboxes keep it, until the next Bay ends them."""
    while _is_pool(target) and backend_detection.pool_of(target).is_mounted():
        try:
            umount = ["umount", "--lazy", str(target / _CARGO)]
            subprocess.run(umount, capture_output=True, text=True, check=True, timeout=60)
        except (OSError, subprocess.SubprocessError) as error:
            raise DriverUnavailable(f"{target / _CARGO} cannot be unmounted: {error}") from error


def _move_unknown(cargo: Path, aside: Path, known: set[str]) -> None:
    for parent in (cargo, cargo / _CHECKPOINTS):
        for path in sorted(parent.iterdir()) if parent.is_dir() else ():
            if is_id(path.name) and path.name not in known:
                _move(path, aside / path.relative_to(cargo))


def _move(path: Path, place: Path) -> None:
    """Also a subvolume that is read-only, which is such a one again afterwards."""
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    frozen = btrfs.is_btrfs(path) and btrfs.is_subvolume(path) and btrfs.is_read_only(path)
    if frozen:
        btrfs.set_read_only(path, False)
    path.rename(place)
    if frozen:
        btrfs.set_read_only(place, True)


def _replaced(target: Path, *, with_files: bool) -> list[Path]:
    """The files to replace: the database with its companions, the key, and cargos if the backup has some."""
    names = [DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", KEY_FILE]
    if with_files:
        names += [_CARGO, backend_detection.RECORD, backend_detection.POOL_FILE]
    return [target / name for name in names if os.path.lexists(target / name)]


@contextlib.contextmanager
def _database(path: Path, mode: str = "rw") -> Generator[sqlite3.Connection]:
    address = f"file:{quote(str(path.absolute()))}?mode={mode}"
    with closing(sqlite3.connect(address, uri=True, isolation_level=None, timeout=30)) as db:
        yield db


@contextlib.contextmanager
def _directory(path: Path) -> Generator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _sync(directory: Path) -> None:
    with _directory(directory) as descriptor:
        os.fsync(descriptor)


@contextlib.contextmanager
def _host_errors(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no space left beside {path}; free space on its file system") from error
        raise BayError(f"{error.filename or path}: {error.strerror or error}") from error
