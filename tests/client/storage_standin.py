"""The part of the stand-in that keeps files, checkpoints and cargos, in directories of this machine.

Archives are made and unpacked by `tarfile`, so that the SDK's own reading and writing of them is held to another's.
"""

import fnmatch
import io
import json
import os
import re
import secrets
import shutil
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Json = dict[str, Any]
MAGIC = bytes.fromhex("28b52ffd")


class Refused(Exception):
    """What is answered with an error of Bay's shape."""

    def __init__(self, status: int, code: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "error": {"code": code, "message": message, "details": details or {}, "request_id": "req-1"}
        }


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def etag(path: Path) -> str:
    found = path.stat()
    return f'"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"'


def zstd(data: bytes) -> bytes:
    """A zstd frame of blocks that are not packed (RFC 8878, raw blocks)."""
    pieces = [data[i : i + 100_000] for i in range(0, len(data), 100_000)] or [b""]
    blocks = [(len(piece) << 3 | (piece is pieces[-1])).to_bytes(3, "little") + piece for piece in pieces]
    return MAGIC + b"\x00\x58" + b"".join(blocks)


def unzstd(data: bytes) -> bytes:
    """What `zstd` packed; refused where it is damaged."""
    if data[:4] != MAGIC:
        raise Refused(400, "validation_error", "this is no checkpoint")
    at, out, last = 6, b"", 0
    while not last:
        head = int.from_bytes(data[at : at + 3], "little")
        last, size = head & 1, head >> 3
        out += data[at + 3 : at + 3 + size]
        at += 3 + size
    return out


def tarred(path: Path) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for child in sorted(path.iterdir()):
            tar.add(child, child.name)
    return packed.getvalue()


class Files:
    """The files of one sandbox: `workspace` is /workspace, `machine` everything else."""

    def __init__(self, workspace: Path, machine: Path) -> None:
        self.workspace = workspace
        self.machine = machine

    def at(self, path: str) -> Path:
        if "\0" in path:
            raise Refused(400, "invalid_path", "the path has a NUL", {"reason": "nul"})
        absolute = os.path.normpath(os.path.join("/workspace", path))
        if absolute == "/workspace" or absolute.startswith("/workspace/"):
            return self.workspace / absolute[len("/workspace/") :]
        return self.machine / absolute[1:]

    def existing(self, path: str) -> Path:
        found = self.at(path)
        if not found.exists() and not found.is_symlink():
            raise Refused(404, "file_not_found", f"there is no {path}")
        return found

    def shown(self, path: Path) -> str:
        if path.is_relative_to(self.workspace):
            return str(Path("/workspace") / path.relative_to(self.workspace))
        return f"/{path.relative_to(self.machine)}"

    def info(self, path: Path, *, follow: bool = True) -> Json:
        found = path.stat() if follow else path.lstat()
        link = path.is_symlink() and not follow
        kind = "symlink" if link else "directory" if path.is_dir() else "file"
        return {
            "name": path.name,
            "path": self.shown(path),
            "type": kind,
            "size": found.st_size if kind == "file" else None,
            "mode": f"{found.st_mode & 0o7777:04o}",
            "uid": 1000,
            "gid": 1000,
            "mtime": found.st_mtime,
            "target": os.readlink(path) if link else None,
        }

    def below(self, path: Path, depth: int) -> Iterator[Path]:
        for child in sorted(path.iterdir()):
            yield child
            if depth > 1 and child.is_dir() and not child.is_symlink():
                yield from self.below(child, depth - 1)

    def matching(self, path: Path, glob: str | None, depth: int = 64) -> Iterator[Path]:
        for found in self.below(path, depth):
            name = str(found.relative_to(path))
            if glob is None or fnmatch.fnmatch(name, glob) or fnmatch.fnmatch(f"/{name}", glob):
                yield found

    def put(self, path: str, data: bytes, mode: str | None, mtime: str | None) -> Json:
        target = self.at(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        kept = target.stat().st_mode & 0o7777 if target.exists() else 0o644
        partial = target.with_name(f".{secrets.token_hex(4)}")
        partial.write_bytes(data)
        partial.chmod(int(mode, 8) if mode else kept)
        if mtime:
            os.utime(partial, (float(mtime), float(mtime)))
        partial.replace(target)
        return self.info(target)

    def post(self, what: str, body: Json) -> Json:
        """The calls that take JSON."""
        acts: dict[str, Callable[[Json], Json]] = {
            "move": self._move,
            "copy": self._copy,
            "mkdir": self._mkdir,
            "chmod": self._chmod,
            "edit": self._edit,
        }
        return acts[what](body)

    def _move(self, body: Json) -> Json:
        source, destination = self._free(body)
        source.replace(destination)
        return self.info(destination)

    def _copy(self, body: Json) -> Json:
        source, destination = self._free(body)
        shutil.copytree(source, destination) if source.is_dir() else shutil.copy2(source, destination)
        return self.info(destination)

    def _free(self, body: Json) -> tuple[Path, Path]:
        source, destination = self.existing(body["source"]), self.at(body["destination"])
        if destination.exists() and not body["overwrite"]:
            raise Refused(409, "conflict", f"{body['destination']} exists")
        return source, destination

    def _mkdir(self, body: Json) -> Json:
        target = self.at(body["path"])
        target.mkdir(int(body["mode"], 8), parents=body["parents"], exist_ok=True)
        return self.info(target)

    def _chmod(self, body: Json) -> Json:
        target = self.existing(body["path"])
        target.chmod(int(body["mode"], 8))
        return self.info(target)

    def _edit(self, body: Json) -> Json:
        target = self.existing(body["path"])
        text = target.read_text()
        matches = text.count(body["old"])
        if matches == 0 or (matches > 1 and not body["all"]):
            raise Refused(409, "conflict", f"it is there {matches} times", {"matches": matches})
        target.write_text(text.replace(body["old"], body["new"]))
        return {"replaced": matches}

    def search(self, query: dict[str, str]) -> Json:
        root = self.existing(query["path"])
        files = [path for path in self.matching(root, query.get("glob")) if path.is_file()]
        wanted = query.get("query")
        matches = [match for path in files for match in self._found(path, wanted, query)]
        limit = int(query["limit"])
        return {
            "matches": matches[:limit],
            "truncated": len(matches) > limit,
            "files_searched": len(files),
            "files_skipped": 0,
        }

    def _found(self, path: Path, wanted: str | None, query: dict[str, str]) -> Iterator[Json]:
        shown = self.shown(path)
        if wanted is None:
            yield {"path": shown, "line": None, "column": None, "text": None}
            return
        flags = re.IGNORECASE if query["ignore_case"] == "true" else 0
        pattern = re.compile(wanted if query["regex"] == "true" else re.escape(wanted), flags)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if hit := pattern.search(line):
                yield {"path": shown, "line": number, "column": hit.start() + 1, "text": line}

    def pack(self, path: str) -> bytes:
        found = self.existing(path)
        if not found.is_dir():
            raise Refused(400, "validation_error", f"{path} is no directory")
        return tarred(found)

    def unpack(self, path: str, data: bytes) -> Json:
        target = self.at(path)
        target.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as tar:
            tar.extractall(target, filter="data")
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            sizes = [member.size for member in tar if member.isreg()]
        return {"files": len(sizes), "bytes": sum(sizes)}


class Storage:
    """All checkpoints and cargos."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.checkpoints: dict[str, Json] = {}
        self.cargos: dict[str, Json] = {}
        self.answers: dict[str, Any] = {}
        """What was answered under an idempotency key."""

    def directory(self, identifier: str) -> Path:
        return self.root / identifier

    def once(self, key: str | None, make: Callable[[], Any]) -> Any:
        if key is None:
            return make()
        if key not in self.answers:
            self.answers[key] = make()
        return self.answers[key]

    def of(self, sandbox: Json, auto: str | None = None) -> list[Json]:
        return [
            self._now(found, sandbox)
            for found in self.checkpoints.values()
            if found["sandbox_id"] == sandbox["id"] and auto in (None, str(found["auto"]).lower())
        ]

    def _now(self, found: Json, sandbox: Json) -> Json:
        return found | {"current": sandbox["checkpoint_id"] == found["id"]}

    def find(self, sandbox: Json, name: str) -> Json:
        for found in self.of(sandbox):
            if name in (found["id"], found["name"]):
                return found
        raise Refused(404, "not_found", f"there is no checkpoint {name}")

    def checkpoint(self, sandbox: Json, body: Json, files: Path) -> Json:
        if any(found["name"] == body.get("name") is not None for found in self.of(sandbox)):
            raise Refused(409, "conflict", f"there is a checkpoint {body['name']}")
        made = self._record(sandbox, body)
        shutil.copytree(files, self.directory(made["id"]), symlinks=True)
        return self._now(made, sandbox)

    def _record(self, sandbox: Json, body: Json) -> Json:
        made: Json = {
            "id": f"ckpt-{secrets.token_hex(12)}",
            "sandbox_id": sandbox["id"],
            "name": body.get("name"),
            "comment": body.get("comment"),
            "created_at": now(),
            "kind": "files",
            "auto": False,
            "parent_id": sandbox["checkpoint_id"],
            "persist": "workspace",
            "size_bytes": 3 << 20,
            "exclusive_bytes": 4096,
            "inodes": 2,
            "measured_at": now(),
        }
        self.checkpoints[made["id"]] = made
        sandbox["checkpoint_id"] = made["id"]
        return made

    def fill(self, checkpoint_id: str, files: Path) -> None:
        """Have `files` be what the checkpoint has."""
        if checkpoint_id not in self.checkpoints:
            raise Refused(404, "not_found", f"there is no checkpoint {checkpoint_id}")
        shutil.rmtree(files, ignore_errors=True)
        shutil.copytree(self.directory(checkpoint_id), files, symlinks=True)

    def delete(self, checkpoint: Json) -> None:
        del self.checkpoints[checkpoint["id"]]
        shutil.rmtree(self.directory(checkpoint["id"]))

    def export(self, checkpoint: Json) -> bytes:
        return zstd(tarred(self.directory(checkpoint["id"])))

    def import_(self, sandbox: Json, query: Json, data: bytes) -> Json:
        packed = unzstd(data)
        made = self._record(sandbox | {}, query)
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            tar.extractall(self.directory(made["id"]), filter="data")
        return self._now(made, sandbox)

    def cargo(self, body: Json) -> Json:
        made: Json = {
            "id": f"ws-{secrets.token_hex(12)}",
            "managed": False,
            "managed_by_sandbox_id": None,
            "backend": "directory",
            "size_limit_mb": body.get("size_limit_mb"),
            "created_at": now(),
            "last_accessed_at": now(),
            "size_limit_enforced": True,
            "used_bytes": 5 << 20,
            "used_inodes": 7,
            "charged_bytes": 6 << 20,
            "measured_at": now(),
            "sandbox_ids": [],
        }
        self.cargos[made["id"]] = made
        return made

    def cargo_call(
        self, method: str, words: list[str], body: bytes, find: Callable[[str], Json]
    ) -> Json | None:
        """What a call about one cargo answers; None for nothing."""
        if words[0] not in self.cargos:
            raise Refused(404, "not_found", f"there is no cargo {words[0]}")
        cargo = self.cargos[words[0]]
        match method, words[1:]:
            case "GET", []:
                pass
            case "PATCH", []:
                cargo |= json.loads(body)
            case "DELETE", [] if cargo["sandbox_ids"]:
                raise Refused(409, "conflict", "a sandbox has it", {"sandbox_ids": cargo["sandbox_ids"]})
            case "DELETE", []:
                del self.cargos[words[0]]
                return None
            case "POST", ["move"]:
                self._move(cargo, find(json.loads(body)["sandbox"]))
            case _:
                raise Refused(404, "not_found", "no such route")
        return cargo

    def _move(self, cargo: Json, sandbox: Json) -> None:
        if sandbox["compute"] != "cold":
            raise Refused(409, "conflict", f"{sandbox['name']} is not cold", {"sandbox_ids": [sandbox["id"]]})
        cargo["sandbox_ids"] = [sandbox["id"]]
        sandbox["cargo_id"] = cargo["id"]
