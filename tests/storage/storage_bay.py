"""A Bay on a pool, as the tests of storage call it: through its API, and with a look at what lies on the
host.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crash_host
import httpx
from crash_case import KEY, WAIT_S, Json, Place

from bay.cargo.base import checkpoint_files
from bay.server.app import build_app
from bay.server.backends import layers_of
from bay.server.control_plane import ControlPlane
from bay.server.settings import Settings

MIB = 1 << 20
FORKS: Json = {"count": 5}
_EACH: Json = {"start": "eager", "idle_timeout": None, "memory_mb": 128}
PROFILES: dict[str, Json] = {
    "python-default": {**_EACH, "max_memory_mb": 256},
    "machine": {**_EACH, "persist": "machine"},
    "tight": {**_EACH, "disk_mb": 96},
    "tiny": {**_EACH, "disk_mb": 16},
    "boundless": {**_EACH, "disk_mb": None},
}


def settings(place: Place, pool_gb: int = 1) -> Settings:
    """Of a Bay in `place` whose pool is never larger than that."""
    return Settings.model_validate(
        {"data_dir": place.data_dir, "run_dir": place.run_dir, "cache_dir": place.cache, "api_key": KEY,
         "cargo_backend": "btrfs", "pool_max_gb": pool_gb, "stop_grace": 1, "start_timeout": WAIT_S, "profiles": PROFILES}
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended in a sandbox."""

    exit_code: int | None
    stdout: str
    stderr: str


@dataclass(slots=True)
class Pooled:
    """A Bay in this process, and a caller with a key."""

    place: Place
    bay: ControlPlane
    app: Any
    client: httpx.AsyncClient

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """An answer, whatever it says; `path` is below /v1."""
        async with asyncio.timeout(WAIT_S * 2):
            return await self.client.request(method, f"/v1{path}", **options)

    async def ask(self, method: str, path: str, **options: Any) -> Any:
        """An answer that must be good."""
        answer = await self.call(method, path, **options)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.headers.get("content-type") == "application/json" else answer.content

    async def create(self, profile: str = "python-default", **body: Any) -> str:
        """A sandbox that runs."""
        made = await self.ask(
            "POST", "/sandboxes", params={"wait": WAIT_S}, json={"profile": profile, **body}
        )
        assert made["status"] == "ready", made
        return made["id"]

    async def begin(self, sandbox: str, *argv: str, user: str = "ship") -> str:
        """The id of an exec that runs on."""
        made = await self.ask("POST", f"/sandboxes/{sandbox}/execs", json={"argv": argv, "user": user})
        return made["id"]

    async def run(self, sandbox: str, *argv: str, user: str = "ship") -> Done:
        """How a program ended, which it must."""
        body = {"argv": argv, "user": user}
        made = await self.ask("POST", f"/sandboxes/{sandbox}/execs", params={"wait": WAIT_S * 2}, json=body)
        assert made["state"] == "exited", made
        return Done(made["exit_code"], made["stdout"], made["stderr"])

    async def python(self, sandbox: str, script: str, *arguments: str, user: str = "root") -> str:
        """What a script prints that must end well."""
        done = await self.run(sandbox, "python3", "-c", script, *arguments, user=user)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    async def sh(self, sandbox: str, command: str, user: str = "ship") -> str:
        """What a command prints, both streams, whether it ended well or not."""
        done = await self.run(sandbox, "sh", "-c", f"{command} 2>&1", user=user)
        return done.stdout.strip()

    async def read(self, sandbox: str, path: str) -> bytes:
        """A file's bytes."""
        return await self.ask("GET", f"/sandboxes/{sandbox}/files/content", params={"path": path})

    async def write(self, sandbox: str, path: str, content: bytes) -> httpx.Response:
        """How an upload is answered."""
        return await self.call(
            "PUT", f"/sandboxes/{sandbox}/files/content", params={"path": path}, content=content
        )

    async def checkpoint(self, sandbox: str, **body: Any) -> str:
        return (await self.ask("POST", f"/sandboxes/{sandbox}/checkpoints", json=body))["id"]

    async def restore(self, sandbox: str, checkpoint: str) -> Json:
        return await self.ask("POST", f"/sandboxes/{sandbox}/checkpoints/{checkpoint}/restore")

    async def fork(self, sandbox: str, **body: Any) -> list[str]:
        made = await self.ask("POST", f"/sandboxes/{sandbox}/fork", json=body)
        return [item["id"] for item in made["items"]]

    async def cargo_of(self, sandbox: str) -> str:
        return (await self.ask("GET", f"/sandboxes/{sandbox}"))["cargo_id"]

    async def delete(self, sandbox: str) -> None:
        await self.ask("DELETE", f"/sandboxes/{sandbox}")

    async def delete_all(self) -> None:
        """Remove every sandbox, and then every external cargo."""
        for kind in ("sandboxes", "cargos"):
            for item in (await self.ask("GET", f"/{kind}", params={"limit": 200}))["items"]:
                await self.ask("DELETE", f"/{kind}/{item['id']}")

    def checkpoint_files(self, checkpoint: str) -> Path:
        """Where the workspace of a checkpoint is on this host."""
        return checkpoint_files(self.bay.cargo).checkpoint_path(checkpoint) / "workspace"

    def leftovers(self) -> list[str]:
        """What is in the pool of no sandbox that there is; all of it goes by and by."""
        return [*crash_host.unfinished(self.place), *sorted(crash_host.checkpoints(self.place))]

    async def attach(self, sandbox: str, exec_id: str, is_attached: asyncio.Event) -> Json:
        """What a client that is attached to an exec is told at its end, with the code that it
        is left with.
        """
        told: list[Json] = []
        connected = iter([{"type": "websocket.connect"}])

        async def receive() -> Json:
            for message in connected:
                return message
            return await asyncio.Future[Json]()

        async def send(message: Json) -> None:
            told.append(message)
            if '"attached"' in (message.get("text") or ""):
                is_attached.set()

        await self.app(_scope(f"/v1/sandboxes/{sandbox}/execs/{exec_id}/attach"), receive, send)
        assert told[-1]["type"] == "websocket.close", told
        said = [json.loads(message["text"]) for message in told if message.get("text")]
        return {**said[-1], "code": told[-1]["code"]}


@asynccontextmanager
async def pooled(place: Place) -> AsyncGenerator[Pooled]:
    """A Bay in `place`."""
    place.data_dir.mkdir(exist_ok=True)
    chosen = settings(place)
    app = build_app(chosen, driver=place.driver(layers=layers_of(chosen)))
    bay: ControlPlane = app.state.bay
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(app),
        base_url="http://bay",
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=WAIT_S * 2,
    )
    async with bay.running(), client:
        yield Pooled(place, bay, app, client)


def _scope(path: str) -> Json:
    headers = [(b"host", b"bay"), (b"authorization", f"Bearer {KEY}".encode())]
    return {
        "type": "websocket", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1",
        "scheme": "ws", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"",
        "headers": headers, "subprotocols": [], "extensions": {"websocket.http.response": {}}, "state": {},
    }  # fmt: skip
