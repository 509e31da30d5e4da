"""A stand-in for Bay that really runs commands and keeps files, in a directory of this machine; it isolates nothing.

`python standin.py` serves on a free port, which it prints. The key is `KEY`. A prefix of the path asks for a fault:

    /html/…      an HTML page                     /redirect/…  a redirect elsewhere
    /garbage/…   200 with text that is no JSON    /busy/…      503 the first time each request comes, then as usual
    /cut/…       output and downloads break off after their first piece, the first time, then as usual
    /mute/…      no answer at all                 /full/…      507 to what has a body, before its end

It knows the wire, not the rules: what a real Bay refuses is tested on a real Bay.
"""

import base64
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

from network_standin import Network, Services
from storage_standin import Files, Refused, Storage, etag, now

KEY = "bay_standin"
FAULTS = ("html", "redirect", "garbage", "busy", "cut", "mute", "full")
Json = dict[str, Any]

POOL: Json = {
    "profile": "python-default",
    "size": 2,
    "ready": 1,
    "starting": 1,
    "oldest_at": "2030-01-01T00:00:00Z",
    "hits": 5,
    "misses": 3,
    "failures": 1,
    "last_error": "no space left",
    "refill_at": "2030-01-01T00:00:01Z",
}
PROFILE: Json = {"id": "python-default", "resources": {"cpus": 1.0, "memory": 1 << 30}, "containers": []}
SANDBOX: Json = {
    "id": f"sandbox-{'0' * 24}",
    "name": "box",
    "status": "ready",
    "compute": "running",
    "profile": "p",
    "image": "host",
    "isolation": "container",
    "cargo_id": "ws-1",
    "capabilities": [],
    "labels": {},
    "created_at": "2030-01-01T00:00:00Z",
    "expires_at": None,
    "idle_timeout": None,
    "idle_expires_at": None,
}
"""One that never ran, for canned answers."""


@dataclass
class Command:
    """A process and what it printed, with who waits for more."""

    info: Json
    process: "subprocess.Popen[bytes] | None" = None
    chunks: list[Json] = field(default_factory=list[Json])
    text: dict[str, bytes] = field(default_factory=lambda: {"stdout": b"", "stderr": b""})
    changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, stream: str, data: bytes) -> None:
        with self.changed:
            offset = self.info["output_bytes"]
            self.chunks.append(
                {"offset": offset, "stream": stream, "data": base64.b64encode(data).decode(), "t": now()}
            )
            self.info["output_bytes"] = offset + len(data)
            self.text[stream] += data
            self.changed.notify_all()

    def end(self, code: int, *, timed_out: bool) -> None:
        with self.changed:
            killed = code < 0
            self.info |= {
                "state": "killed" if killed else "exited",
                "exit_code": None if killed else code,
                "signal": -code if killed else None,
                "ended_at": now(),
                "timed_out": timed_out,
            }
            self.changed.notify_all()

    def write(self, data: bytes, *, eof: bool) -> None:
        stdin = cast("subprocess.Popen[bytes]", self.process).stdin
        if stdin is None or stdin.closed:
            return
        with stdin if eof else nullcontext():
            stdin.write(data)
            stdin.flush()

    def wait(self, seconds: float) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.info["state"] != "running", seconds)

    def more(self, index: int) -> tuple[list[Json], bool]:
        with self.changed:
            self.changed.wait_for(lambda: len(self.chunks) > index or self.info["state"] != "running", 20)
            return self.chunks[index:], self.info["state"] != "running"

    def with_text(self) -> Json:
        return self.info | {name: data.decode("utf-8", "replace") for name, data in self.text.items()}


class World:
    """All sandboxes of one stand-in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sandboxes: dict[str, Json] = {}
        self.by_key: dict[str, str] = {}
        self.commands: dict[str, Command] = {}
        self.seen: list[str] = []
        self.lock = threading.Lock()
        self.storage = Storage(root)
        self.network = Network()
        self.services = Services(self._run_service)
        self.after_cut: Callable[[Path], object] = lambda _: None
        """Called with the file of a download that was broken off."""

    def first_time(self, what: str) -> bool:
        with self.lock:
            self.seen.append(what)
            return self.seen.count(what) == 1

    def create(self, body: Json, key: str | None) -> Json:
        with self.lock:
            if key in self.by_key:
                return self.sandboxes[self.by_key[key]]
            if body.get("name") and any(s["name"] == body["name"] for s in self.sandboxes.values()):
                raise Refused(409, "conflict", f"the name {body['name']} is taken")
            sandbox = self._new(body)
            self.sandboxes[sandbox["id"]] = sandbox
            if key:
                self.by_key[key] = sandbox["id"]
        self.workspace(sandbox).mkdir()
        if "from_checkpoint" in body:
            self.storage.fill(body["from_checkpoint"], self.workspace(sandbox))
        self.network.create(sandbox, body)
        self.services.create(sandbox, body.get("services", []))
        return sandbox

    def _run_service(self, sandbox: Json, service: Json) -> Command:
        what = {"argv": service["argv"], "env": service["env"]}
        return self.start(sandbox, {"id": f"exec-{secrets.token_hex(12)}", **what})

    def _new(self, body: Json) -> Json:
        return {
            "id": f"sandbox-{secrets.token_hex(12)}",
            "name": body.get("name"),
            "status": "failed" if body.get("image") == "broken" else "ready",
            "compute": "running",
            "profile": body.get("profile", "python-default"),
            "image": body.get("image", "host"),
            "isolation": body.get("isolation", "container"),
            "cargo_id": f"ws-{secrets.token_hex(12)}",
            "capabilities": ["shell", "filesystem", "exec"],
            "labels": body.get("labels", {}),
            "created_at": now(),
            "expires_at": None,
            "idle_timeout": body.get("idle_timeout"),
            "idle_expires_at": None,
            "warm_timeout": body.get("warm_timeout"),
            "warm_expires_at": None,
            "containers": None,
            "error": {"code": "driver_unavailable", "message": "no such image: broken", "at": now()}
            if body.get("image") == "broken"
            else None,
            "env": body.get("env", {}),
            "checkpoint_id": body.get("from_checkpoint"),
            "checkpoint_policy": body.get("checkpoint_policy"),
            "a field of a newer server": True,
        }

    def find(self, ref: str) -> Json:
        for sandbox in self.sandboxes.values():
            if ref in (sandbox["id"], sandbox["name"]):
                return sandbox
        raise Refused(404, "not_found", f"there is no sandbox {ref}")

    def workspace(self, sandbox: Json) -> Path:
        return self.root / sandbox["id"]

    def files(self, sandbox: Json) -> Files:
        return Files(self.workspace(sandbox), self.root / f"{sandbox['id']}-machine")

    def start(self, sandbox: Json, body: Json) -> Command:
        argv = body.get("argv") or ["bash", "-c", body["command"]]
        if body["id"] in self.commands:
            raise Refused(409, "conflict", f"{body['id']} exists")
        info = {
            "id": body["id"],
            "argv": argv,
            "pid": 7,
            "tty": False,
            "state": "running",
            "exit_code": None,
            "signal": None,
            "started_at": now(),
            "ended_at": None,
            "output_bytes": 0,
            "first_offset": 0,
            "keep_alive": body.get("keep_alive", True),
            "timed_out": False,
        }
        command = Command(info)
        self.commands[body["id"]] = command
        given = body.get("stdin", "").encode() + base64.b64decode(body.get("stdin_base64", ""))
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.workspace(sandbox))}
        try:
            command.process = subprocess.Popen(
                argv,
                cwd=self.workspace(sandbox) / body.get("cwd", "."),
                env=environment | sandbox["env"] | body.get("env", {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError:
            command.add("stderr", f"{argv[0]}: not found\n".encode())
            command.end(127, timed_out=False)
        else:
            threading.Thread(
                target=self._attend,
                args=(command, given, body.get("timeout_s"), bool(body.get("stdin_open"))),
                daemon=True,
            ).start()
        return command

    def _attend(self, command: Command, given: bytes, timeout_s: float | None, stdin_open: bool) -> None:
        process = cast("subprocess.Popen[bytes]", command.process)
        pipes = {"stdout": process.stdout, "stderr": process.stderr}
        readers = [
            threading.Thread(target=self._read, args=(command, *item), daemon=True) for item in pipes.items()
        ]
        for reader in readers:
            reader.start()
        with suppress(BrokenPipeError):
            command.write(given, eof=not stdin_open)
        timed_out = False
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
        for reader in readers:
            reader.join()
        with suppress(BrokenPipeError):
            command.write(b"", eof=True)
        command.end(process.returncode, timed_out=timed_out)

    def _read(self, command: Command, stream: str, pipe: Any) -> None:
        with pipe:
            while data := os.read(pipe.fileno(), 65536):
                command.add(stream, data)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    world: World

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 — the base class calls it so
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_DELETE = do_PUT = do_PATCH = do_GET

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.query = {
            name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()
        }
        words = [unquote(word) for word in parts.path.strip("/").split("/")]
        fault = words.pop(0) if words[0] in FAULTS else ""
        if fault == "full" and self.command in ("PUT", "POST"):
            return self._full()
        self.whole = True
        self.body = self._read_body()
        self.world.seen.append(f"{self.command} {parts.path}")
        self.cut = fault == "cut" and self.world.first_time(f"cut {parts.path}")
        try:
            if not self._misbehave(fault, f"{self.command} {self.path}"):
                self._route(words)
        except Refused as refused:
            self._json(refused.status, refused.body)

    def _full(self) -> None:
        """The answer comes while the body does, and the connection ends with it."""
        body = json.dumps(Refused(507, "storage_full", "the disk is full").body).encode()
        self._bytes(507, body, "application/json", {"Connection": "close"})
        self.close_connection = True
        with suppress(ConnectionError):
            while self.rfile.read1(1 << 20):
                pass

    def _misbehave(self, fault: str, what: str) -> bool:
        if fault == "html":
            self._bytes(200, b"<html>It works!</html>", "text/html")
        elif fault == "garbage":
            self._bytes(200, b'{"id": ', "application/json")
        elif fault == "redirect":
            self._bytes(302, b"", "text/plain", {"Location": "http://elsewhere.invalid/"})
        elif fault == "busy" and self.world.first_time(what):
            error = Refused(503, "session_not_ready", "not yet", {"retry_after_ms": 1})
            self._bytes(503, json.dumps(error.body).encode(), "application/json", {"Retry-After": "1"})
        elif fault == "mute":
            self.close_connection = True
            self.connection.recv(1)  # until the client goes
        else:
            return False
        return True

    def _route(self, words: list[str]) -> None:
        if words == ["health"]:
            return self._json(200, {"status": "ok", "version": "0.1.0"})
        if words == ["v1", "profiles"]:
            return self._json(200, {"items": [PROFILE]})
        if self.headers.get("Authorization") != f"Bearer {KEY}":
            raise Refused(401, "unauthorized", "no such key; set BAY_API_KEY")
        if words == ["v1", "admin", "pool"]:
            return self._json(200, {"items": [POOL]})
        if words == ["v1", "sandboxes"]:
            return self._sandboxes()
        if words[:2] == ["v1", "cargos"]:
            return self._cargos(words[2:])
        return self._sandbox(self.world.find(words[2]), words[3:])

    def _cargos(self, words: list[str]) -> None:
        storage = self.world.storage
        if words:
            answer = storage.cargo_call(self.command, words, self.body, self.world.find)
            return self._bytes(204, b"", "text/plain") if answer is None else self._json(200, answer)
        if self.command == "POST":
            return self._json(201, storage.once(self._key(), lambda: storage.cargo(json.loads(self.body))))
        managed = self.query.get("managed", "false") == "true"
        return self._page([cargo for cargo in storage.cargos.values() if cargo["managed"] == managed])

    def _key(self) -> str | None:
        return self.headers.get("Idempotency-Key")

    def _sandboxes(self) -> None:
        if self.command == "POST":
            return self._json(
                201, self.world.create(json.loads(self.body), self.headers.get("Idempotency-Key"))
            )
        found = [s for s in self.world.sandboxes.values() if self._matches(s)]
        return self._page(found)

    def _page(self, found: list[Json]) -> None:
        start, size = int(self.query.get("cursor", 0)), int(self.query.get("limit", 50))
        more = start + size < len(found)
        page = {
            "items": found[start : start + size],
            "has_more": more,
            "next_cursor": str(start + size) if more else None,
        }
        self._json(200, page)

    def _matches(self, sandbox: Json) -> bool:
        name, _, value = self.query.get("label", ":").partition(":")
        return (
            self.query.get("status", sandbox["status"]) == sandbox["status"]
            and self.query.get("compute", sandbox["compute"]) == sandbox["compute"]
            and (not name or sandbox["labels"].get(name) == value)
            and (sandbox["name"] or "").startswith(self.query.get("name_prefix", ""))
        )

    def _sandbox(self, sandbox: Json, words: list[str]) -> None:
        match (self.command, words):
            case ("GET", []):
                self._json(200, sandbox)
            case ("DELETE", []):
                del self.world.sandboxes[sandbox["id"]]
                self._bytes(204, b"", "text/plain")
            case ("PATCH", []):
                self._json(200, self.world.network.patch(sandbox, json.loads(self.body)))
            case ("POST", ["pause"]):
                if sandbox["compute"] == "cold":
                    raise Refused(409, "conflict", "the sandbox is cold already; there is nothing to pause")
                sandbox |= {"compute": "warm"}
                self._json(200, sandbox)
            case ("POST", ["start" | "resume"]):
                sandbox |= {"status": "ready", "compute": "running"}
                self._json(200, sandbox)
            case ("POST", ["stop"]):
                sandbox |= {"status": "idle", "compute": "cold"}
                self._json(200, {"status": "stopped"})
            case ("POST", ["keepalive"]):
                self._json(200, {"status": "ok"})
            case ("POST", ["extend_ttl"]):
                self._json(200, sandbox | {"expires_at": "2040-01-01T00:00:00Z"})
            case ("POST", ["shell", "exec"]):
                self._shell(sandbox)
            case (_, ["execs", *rest]):
                self._execs(sandbox, rest)
            case (_, ["network-policy"]):
                answer = self.world.network.policy_call(self.command, sandbox, json.loads(self.body or b"{}"))
                self._json(200, answer)
            case ("GET", ["network"]):
                self._json(200, self.world.network.state(sandbox))
            case (_, ["ports", *rest]):
                self._ports(sandbox, rest)
            case (_, ["services", *rest]):
                self._services(sandbox, rest)
            case (_, ["files", *what]):
                self._files(self.world.files(sandbox), "".join(what))
            case (_, ["checkpoints", *rest]):
                self._checkpoints(sandbox, rest)
            case ("POST", ["fork"]):
                self._json(201, self.world.storage.once(self._key(), lambda: self._fork(sandbox)))
            case _:
                raise Refused(404, "not_found", "no such route")

    def _shell(self, sandbox: Json) -> None:
        body = json.loads(self.body)
        command = self.world.start(
            sandbox, {"id": f"exec-{secrets.token_hex(12)}", "command": body["command"]}
        )
        command.wait(body["timeout"])
        code = command.info["exit_code"]
        answer = {
            "success": code == 0,
            "output": command.text["stdout"].decode(),
            "error": None,
            "exit_code": code,
        }
        self._json(
            200, answer | {"execution_id": command.info["id"], "execution_time_ms": 1, "command": None}
        )

    def _execs(self, sandbox: Json, rest: list[str]) -> None:
        if not rest and self.command == "GET":
            found = [command.info for command in self.world.commands.values()]
            return self._json(200, {"items": found, "has_more": False, "next_cursor": None})
        if not rest:
            command = self.world.start(sandbox, json.loads(self.body))
        elif rest[0] not in self.world.commands:
            raise Refused(404, "not_found", f"there is no exec {rest[0]}")
        else:
            command = self.world.commands[rest[0]]
        if rest[1:] == ["output"]:
            return self._output(command)
        if rest[1:] == ["stdin"]:
            return self._stdin(command)
        if rest[1:] == ["signal"]:
            os.killpg(
                cast("Any", command.process).pid, getattr(signal, f"SIG{json.loads(self.body)['signal']}")
            )
            return self._json(200, command.info)
        if self.command == "DELETE" and command.process:
            with suppress(ProcessLookupError):
                os.killpg(command.process.pid, signal.SIGTERM)
            command.wait(5)
        if "wait" in self.query:
            command.wait(float(self.query["wait"]))
            return self._json(201, command.with_text())
        return self._json(201, command.info)

    def _stdin(self, command: Command) -> None:
        if command.info["state"] != "running":
            raise Refused(409, "conflict", f"{command.info['id']} has ended")
        try:
            command.write(self.body, eof="eof" in self.query)
        except BrokenPipeError as error:
            raise Refused(409, "conflict", "nobody reads any more") from error
        self._json(200, {"written": len(self.body)})

    def _output(self, command: Command) -> None:
        since = int(self.query.get("since", 0))
        self._head("application/x-ndjson")
        index = 0
        while True:
            ready, ended = command.more(index)
            for chunk in ready:
                if chunk["offset"] + len(base64.b64decode(chunk["data"])) > since:
                    self._piece(json.dumps(chunk).encode() + b"\n")
                    if self.cut:
                        return self._hang_up(b'{"offset": 12, "stre')
            index += len(ready)
            if ended and index == len(command.chunks):
                break
            if self.query["follow"] == "false":
                return self._piece(b"")
        end = {name: command.info[name] for name in ("exit_code", "signal", "state", "timed_out")}
        self._piece(json.dumps(end).encode() + b"\n")
        return self._piece(b"")

    def _ports(self, sandbox: Json, rest: list[str]) -> None:
        network = self.world.network
        if not rest:
            return self._json(200, {"items": network.listening(sandbox)})
        answer = network.port_call(self.command, sandbox, rest, json.loads(self.body or b"{}"))
        if answer is None:
            return self._bytes(204, b"", "text/plain")
        return self._json(201 if self.command == "POST" else 200, answer)

    def _services(self, sandbox: Json, rest: list[str]) -> None:
        if rest[1:] == ["logs"]:
            return self._output(self.world.services.command(sandbox, rest[0]))
        body = json.loads(self.body or b"{}")
        status, answer = self.world.services.call(self.command, sandbox, rest, body)
        return self._bytes(status, b"", "text/plain") if answer is None else self._json(status, answer)

    def _checkpoints(self, sandbox: Json, rest: list[str]) -> None:
        storage, workspace = self.world.storage, self.world.workspace(sandbox)
        match (self.command, rest):
            case ("GET", []):
                self._page(storage.of(sandbox, self.query.get("auto")))
            case ("POST", []):
                body = json.loads(self.body)
                self._json(
                    201, storage.once(self._key(), lambda: storage.checkpoint(sandbox, body, workspace))
                )
            case ("POST", ["import"]):
                self._json(201, storage.import_(sandbox, self.query, self.body))
            case ("GET", [name]):
                self._json(200, storage.find(sandbox, name))
            case ("DELETE", [name]):
                storage.delete(storage.find(sandbox, name))
                self._json(200, {"status": "ok"})
            case ("POST", [name, "restore"]):
                found = storage.find(sandbox, name)
                storage.fill(found["id"], workspace)
                sandbox["checkpoint_id"] = found["id"]
                self._json(200, sandbox)
            case ("GET", [name, "export"]):
                self._export(storage.export(storage.find(sandbox, name)))
            case _:
                raise Refused(404, "not_found", "no such route")

    def _export(self, data: bytes) -> None:
        """Streamed; with the fault it is cut and yet ends as if it were whole."""
        self._head("application/zstd")
        self._piece(data[: len(data) - 1] if self.cut else data)
        self._piece(b"")

    def _fork(self, sandbox: Json) -> Json:
        body = json.loads(self.body)
        named = body.get("checkpoint")
        origin = self.world.storage.find(sandbox, named) if named else None
        made = [self._forked(sandbox, body, number) for number in range(body["count"])]
        for fork in made:
            if origin is None:
                shutil.copytree(self.world.workspace(sandbox), self.world.workspace(fork), dirs_exist_ok=True)
            else:
                self.world.storage.fill(origin["id"], self.world.workspace(fork))
        return {"items": made}

    def _forked(self, sandbox: Json, body: Json, number: int) -> Json:
        name = body.get("name")
        wanted = f"{name}-{number + 1}" if name and body["count"] > 1 else name
        return self.world.create({"name": wanted, "profile": sandbox["profile"]}, None)

    def _files(self, files: Files, what: str) -> None:
        match (self.command, what):
            case ("GET", "content"):
                self._download(files.existing(self.query["path"]))
            case ("PUT", "content" | "archive") if not self.whole:
                self.close_connection = True
            case ("PUT", "content"):
                given = self.query.get("mode"), self.query.get("mtime")
                self._json(200, files.put(self.query["path"], self.body, *given))
            case ("PUT", "archive"):
                self._json(200, files.unpack(self.query["path"], self.body))
            case ("GET", "archive"):
                self._tar(files.pack(self.query["path"]))
            case ("GET", "stat"):
                path = files.existing(self.query["path"])
                self._json(200, files.info(path, follow=self.query["follow"] == "true"))
            case ("GET", "list"):
                self._list(files)
            case ("GET", "search"):
                self._json(200, files.search(self.query))
            case ("DELETE", ""):
                self._delete(files.existing(self.query["path"]))
            case ("POST", _):
                self._json(200, files.post(what, json.loads(self.body)))
            case _:
                raise Refused(404, "not_found", "no such route")

    def _delete(self, path: Path) -> None:
        if path.is_dir() and any(path.iterdir()) and self.query["recursive"] == "false":
            raise Refused(409, "conflict", "it is not empty")
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._json(200, {"status": "ok"})

    def _list(self, files: Files) -> None:
        path = files.existing(self.query["path"])
        if not path.is_dir():
            raise Refused(400, "validation_error", "it is no directory")
        found = list(files.matching(path, self.query.get("glob"), int(self.query["depth"])))
        limit = int(self.query["limit"])
        lines = [
            *(files.info(entry, follow=False) for entry in found[:limit]),
            {"truncated": len(found) > limit},
        ]
        self._head("application/x-ndjson")
        for line in lines:
            self._piece(json.dumps(line).encode() + b"\n")
        self._piece(b"")

    def _tar(self, data: bytes) -> None:
        self._head("application/x-tar")
        if self.cut:
            return self._hang_up(data[:700])
        self._piece(data)
        return self._piece(b"")

    def _download(self, path: Path) -> None:
        if path.is_dir():
            raise Refused(400, "validation_error", "it is a directory")
        data, tag, found = path.read_bytes(), etag(path), path.stat()
        first, end = self._range(len(data), tag)
        self.send_response(206 if end is not None else 200)
        if end is not None:
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(data)}")
        wanted = data[first:end]
        self.send_header("Content-Length", str(len(wanted)))
        self.send_header("ETag", tag)
        self.send_header("X-Bay-Mode", f"{found.st_mode & 0o7777:04o}")
        self.send_header("X-Bay-Mtime", str(found.st_mtime))
        self.end_headers()
        self.wfile.write(wanted[: max(1, len(wanted) // 2)] if self.cut else wanted)
        if self.cut:
            self.close_connection = True
            self.world.after_cut(path)

    def _range(self, size: int, tag: str) -> tuple[int, int | None]:
        """The first byte and the end that are wanted; no end where it is the whole file."""
        wanted = self.headers.get("Range")
        if wanted is None or self.headers.get("If-Range", tag) != tag:
            return 0, None
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        if int(first) >= size:
            raise Refused(416, "range_not_satisfiable", "the file is shorter")
        return int(first), min(size, int(last) + 1 if last else size)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = bytearray()
        # An upload that its client gave up ends without the last, empty piece.
        while size := int(line := self.rfile.readline() or b"0", 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.whole = line != b"0"
        self.rfile.readline()
        return bytes(body)

    def _json(self, status: int, body: Json) -> None:
        self._bytes(status, json.dumps(body).encode(), "application/json")

    def _bytes(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _head(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _piece(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _hang_up(self, half: bytes) -> None:
        self.wfile.write(f"{len(half) + 9:x}\r\n".encode() + half)
        self.close_connection = True


class Server(ThreadingHTTPServer):
    """Quiet about clients that go away."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def standing_in() -> Generator[tuple[str, World], None, None]:
    """Serve until the block is left; gives the URL and what happens behind it."""
    with tempfile.TemporaryDirectory(prefix="bay-standin-", ignore_cleanup_errors=True) as root:
        world = World(Path(root))
        handler = type("BoundHandler", (Handler,), {"world": world})
        with Server(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(
                target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
            )
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}", world
            finally:
                server.shutdown()
                for command in world.commands.values():
                    if command.process and command.process.poll() is None:
                        os.killpg(command.process.pid, signal.SIGKILL)


if __name__ == "__main__":
    with standing_in() as (url, _):
        sys.stdout.write(url + "\n")
        sys.stdout.flush()
        sys.stdin.read()  # until the test that started it goes
