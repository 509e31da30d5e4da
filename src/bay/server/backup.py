"""`bay admin backup` and `bay admin restore`: the database, the admin key and, when asked for, the files, in one tar.

A backup is made beside a running Bay: SQLite copies its database as it was at one moment. A restore needs the data
directory for itself, reads everything into a directory apart, checks it, and only then moves it into place;
what was there before is moved aside and never deleted. A backup may come from an enemy: see `archive`.
"""

import asyncio
import contextlib
import errno
import gzip
import json
import os
import secrets
import sqlite3
import tarfile
import zlib
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote

from bay import __version__, trees
from bay.errors import BadRequest, BayError, Conflict, DriverUnavailable, StorageFull
from bay.ids import is_id
from bay.server.app import DATABASE, KEY_FILE
from bay.server.archive import BUFFER, Packer, Parts, Unpacker
from bay.server.data_dir import UNFINISHED
from bay.server.main import lock_data_dir
from bay.server.settings import Settings
from bay.store.engine import MIGRATIONS

FORMAT = 1
MANIFEST = "manifest.json"
_CARGO = "cargo"
_LOCK = "bay.lock"
_LARGEST_MANIFEST = 1 << 30

# The rows say what ran when the backup was made. What runs now has other files, so it is ended and nothing is adopted.
_STOP_EVERYTHING = """
    UPDATE sessions SET phase = 'ending', end_reason = 'restored' WHERE phase NOT IN ('ending', 'ended');
    UPDATE sandboxes SET target = 'stopped' WHERE target IN ('running', 'paused') AND deleted_at IS NULL;
    DELETE FROM facts WHERE name = 'event_id_key';
"""


@dataclass(frozen=True, slots=True)
class Made:
    """A backup: where it is, how many workspaces are in it with their files, and what was left out."""

    path: Path
    workspaces: int
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Restored:
    """A restore: when its backup was made, how many sandboxes it has, and where the files it replaced are now."""

    created_at: str
    sandboxes: int
    data_dir: Path
    aside: Path | None


def backup(out: Path, data_dir: Path | None, *, with_files: bool) -> Made:
    """Write a backup of `data_dir` (None: BAY_DATA_DIR or the default) to `out`, a name in .tar, .tar.gz or .tgz; Bay may run.

    Blocks. Raises Conflict when `out` exists, DriverUnavailable when the database cannot be read or is damaged.
    """
    source = _data_dir(data_dir)
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


def restore(source: Path, data_dir: Path | None, *, force: bool) -> Restored:
    """Put the backup `source` into `data_dir` (None: BAY_DATA_DIR or the default), which no Bay may be using.

    `force`: what is there already is moved aside, into a directory in it. Files that the backup does not have stay
    where they are, except workspaces that its database does not know: those are moved aside as well, because
    Bay would remove them. Blocks. Raises Conflict, BadRequest for a backup that is not sound, or DriverUnavailable.
    """
    target = _data_dir(data_dir)
    with _host_errors(target), _locked(target):
        if (there := sorted(set(os.listdir(target)) - {_LOCK})) and not force:
            raise Conflict(
                f"the data directory {target} is not empty (it has {there[0]}); with --force what is there is moved aside"
            )
        with _apart(target) as apart:
            manifest = _unpack(source, apart)
            sandboxes, known = _prepare_database(apart / DATABASE)
            aside = _put_in_place(apart, target, known, with_files=bool(manifest["with_files"]))
    return Restored(str(manifest["created_at"]), sandboxes, target, aside)


def _data_dir(given: Path | None) -> Path:
    """Only this one setting is read: others, such as BAY_API_KEY, may be meant for a client."""
    return given or Path(os.environ.get("BAY_DATA_DIR") or Settings.model_fields["data_dir"].default)


def _is_compressed(out: Path) -> bool:
    if out.name.endswith((".tar.gz", ".tgz")):
        return True
    if out.name.endswith(".tar"):
        return False
    raise BadRequest(f"{out} says no kind of file; let its name end in .tar or .tar.gz")


@contextlib.contextmanager
def _apart(parent: Path) -> Generator[Path]:
    """A directory in `parent` that nobody else gets into, gone at the end with whatever is in it."""
    apart = parent / f".bay-{secrets.token_hex(6)}"
    apart.mkdir(mode=0o700)
    try:
        yield apart
    finally:
        asyncio.run(trees.remove(apart))


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
        with _tar(file, compressed=compressed) as tar:
            packer = Packer(tar)
            _pack_own(packer, source, apart)
            workspaces = _pack_workspaces(packer, source / _CARGO) if with_files else 0
            facts = {"schema": schema, "with_files": with_files}
            _pack_manifest(packer, {**facts, "members": packer.digests, "left_out": packer.left_out}, apart)
        file.flush()
        os.fsync(file.fileno())
    return Made(out, workspaces, tuple(packer.left_out))


@contextlib.contextmanager
def _tar(file: IO[bytes], *, compressed: bool) -> Generator[tarfile.TarFile]:
    with contextlib.ExitStack() as stack:
        stream: IO[bytes] = file
        if compressed:
            packed = gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6)
            stream = cast("IO[bytes]", stack.enter_context(packed))
        yield stack.enter_context(
            tarfile.TarFile(
                fileobj=stream,
                mode="w",
                format=tarfile.PAX_FORMAT,
                encoding="utf-8",
                errors="surrogateescape",
                copybufsize=BUFFER,
            )
        )


def _copy_database(live: Path, copy: Path) -> str:
    """Copy the database as it is at one moment, whoever writes to it; gives its schema's revision."""
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
        with (
            _directory(place) as directory,
            contextlib.suppress(FileNotFoundError),
        ):  # no key: it came from the settings
            packer.add_file(name, directory, name)


def _pack_workspaces(packer: Packer, cargo: Path) -> int:
    found = sorted(path.name for path in cargo.iterdir() if is_id(path.name)) if cargo.is_dir() else []
    if cargo.is_dir():
        directory = tarfile.TarInfo(_CARGO)
        directory.type, directory.mode = tarfile.DIRTYPE, 0o700
        packer.tar.addfile(directory)
    for name in found:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # removed meanwhile
            packer.add_tree(f"{_CARGO}/{name}", cargo / name)
    return len(found)


def _pack_manifest(packer: Packer, facts: dict[str, Any], apart: Path) -> None:
    created = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = {"format": FORMAT, "bay": __version__, "created_at": created, **facts}
    (apart / MANIFEST).write_text(json.dumps(manifest, indent=1))
    with _directory(apart) as directory:
        packer.add_file(MANIFEST, directory, MANIFEST)


def _unpack(source: Path, apart: Path) -> dict[str, Any]:
    """Unpack everything into `apart` and check it against the manifest, which it gives."""
    try:
        with (
            tarfile.open(source, "r:*", encoding="utf-8") as tar,
            _directory(apart) as directory,
        ):
            unpacker = Unpacker(tar, directory, _belongs, own=os.geteuid() == 0)
            unpacker.run()
    except (tarfile.TarError, EOFError, ValueError, zlib.error) as error:
        raise BadRequest(f"{source} is damaged or no backup of Bay: {error}") from error
    digests = dict(unpacker.digests)
    if digests.pop(MANIFEST, None) is None:
        raise BadRequest(f"{source} is no backup of Bay, or its end is missing: it has no {MANIFEST}")
    manifest = _manifest(source, apart / MANIFEST)
    if digests != manifest["members"] or DATABASE not in digests:
        raise BadRequest(f"{source} is damaged: {_difference(digests, manifest['members'])}")
    return manifest


def _belongs(parts: Parts, member: tarfile.TarInfo) -> bool:
    if len(parts) == 1:
        return (
            member.isdir()
            if parts[0] == _CARGO
            else member.isreg() and parts[0] in (DATABASE, KEY_FILE, MANIFEST)
        )
    if parts[0] != _CARGO or not is_id(parts[1]):
        return False
    return len(parts) > 2 or member.isdir()


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
            if version > FORMAT or not list((MIGRATIONS / "versions").glob(f"{_plain(schema)}_*.py")):
                raise BadRequest(f"{source} was made by a newer Bay; restore it with that one")
            return cast("dict[str, Any]", found)
        case _:
            raise BadRequest(f"{source} is no backup of Bay: its {MANIFEST} is not one")


def _plain(text: str) -> str:
    return text if text.isalnum() else "-"


def _difference(found: dict[str, str], expected: dict[str, str]) -> str:
    wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    return f"{wrong[0] if wrong else DATABASE} is not what was backed up"


def _prepare_database(database: Path) -> tuple[int, set[str]]:
    """Check it and let nothing run; gives how many sandboxes there are, and every workspace it knows."""
    try:
        with _database(database) as db:
            db.execute("PRAGMA trusted_schema = OFF")
            _check_sound(db)
            db.executescript(f"BEGIN; {_STOP_EVERYTHING} COMMIT;")
            (sandboxes,) = db.execute("SELECT count(*) FROM sandboxes WHERE deleted_at IS NULL").fetchone()
            known = {str(row[0]) for row in db.execute("SELECT id FROM cargos WHERE deleted_at IS NULL")}
    except sqlite3.DatabaseError as error:
        raise BadRequest(f"the database in the backup is damaged: {error}; restore another backup") from error
    database.chmod(0o600)
    return int(sandboxes), known


def _check_sound(db: sqlite3.Connection) -> None:
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)


def _put_in_place(apart: Path, target: Path, known: set[str], *, with_files: bool) -> Path | None:
    """Move what was there aside and what is new in. Interrupted, it leaves a mark that keeps Bay from starting."""
    mark = target / UNFINISHED
    mark.touch(mode=0o600)
    os.sync()  # what was unpacked is on the disk before anything is moved for it
    aside = target / f"before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
    for path in _replaced(target, known, with_files=with_files):
        place = aside / path.relative_to(target)
        _make_private(aside, place.parent)
        path.rename(place)
    for name in (_CARGO, KEY_FILE, DATABASE):
        if (apart / name).exists():
            (apart / name).rename(target / name)
    _sync(target)
    mark.unlink()
    _sync(target)
    return aside if aside.exists() else None


def _replaced(target: Path, known: set[str], *, with_files: bool) -> list[Path]:
    """What has to make way: the database with what belongs to it, the key, and workspaces that are replaced or would be orphans."""
    names = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", KEY_FILE)
    own = [target / name for name in names]
    cargo = target / _CARGO
    if with_files:
        own.append(cargo)
    elif cargo.is_dir():
        own += [path for path in cargo.iterdir() if is_id(path.name) and path.name not in known]
    return [path for path in own if os.path.lexists(path)]


def _make_private(*directories: Path) -> None:
    for directory in directories:
        directory.mkdir(mode=0o700, exist_ok=True)


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
