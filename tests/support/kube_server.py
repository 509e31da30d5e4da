"""An API server of Kubernetes that says what a test has it say: pods, faults, and watches of which the test
writes each line.

Written on aiohttp, which the client library brings. kmock, a mock server of that kind, has pods and selectors
too, but no watch whose every byte and whose end belong to the test.
"""

import asyncio
import contextlib
import json
import ssl
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

Json = dict[str, Any]
WAIT_S = 20.0
TOKEN = "a-token-that-no-log-may-have"


def status(code: int, reason: str = "", message: str = "", **details: Any) -> Json:
    """An object of kind Status, as the API server words a refusal."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
        "details": details,
    }


@dataclass
class Said:
    """A scripted answer. A body that is no bytes is sent as JSON."""

    status: int
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict[str, str])


@dataclass
class Seen:
    """A request that came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


async def cut(request: web.BaseRequest) -> None:
    """The fault of a connection that breaks."""
    assert request.transport is not None
    request.transport.abort()


Fault = Said | Callable[[web.BaseRequest], Awaitable[None]]


class Pauses:
    """The time that a program wanted to wait, in the order in which it wanted to. It waits for none of it,
    apart from pauses of a minute and more: those end when the test says so.
    """

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.long: asyncio.Queue[float] = asyncio.Queue()
        self._long_over = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        if seconds < 60:
            self.taken.append(seconds)
            await asyncio.sleep(0)
            return
        self.long.put_nowait(seconds)
        await self._long_over.wait()
        self._long_over.clear()

    async def end_long(self) -> float:
        """End the next pause of a minute or more, and return its length."""
        async with asyncio.timeout(WAIT_S):
            seconds = await self.long.get()
        self._long_over.set()
        return seconds


class OpenWatch:
    """A watch that a client has opened."""

    def __init__(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        self.since = request.query["resourceVersion"]
        self.ended = asyncio.Event()
        self._request = request
        self._response = response

    async def send(self, kind: str, found: Json) -> None:
        """A whole event."""
        await self.raw(json.dumps({"type": kind, "object": found}).encode() + b"\n")

    async def bookmark(self, version: int) -> None:
        found = {"kind": "Pod", "apiVersion": "v1", "metadata": {"resourceVersion": str(version)}}
        await self.send("BOOKMARK", found)

    async def raw(self, data: bytes) -> None:
        await self._response.write(data)

    def end(self) -> None:
        """The end that a server makes, as it does every few minutes."""
        self.ended.set()

    async def cut(self) -> None:
        await cut(self._request)
        self.ended.set()


class KubeServer:
    """The server. `pods` are its objects by name, `version` is that of its store."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.pods: dict[str, Json] = {}
        self.version = 1000
        self.page = 500
        """The most items of a page, whatever a client asks for."""
        self.seen: list[Seen] = []
        self.watches: asyncio.Queue[OpenWatch] = asyncio.Queue()
        self.port = 0
        self.scheme = "https" if tls else "http"
        self._tls = tls
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}
        self._open: set[OpenWatch] = set()
        self._came = asyncio.Event()
        self._runner = web.ServerRunner(web.Server(self.handle), access_log=None, shutdown_timeout=1)
        self._site: web.TCPSite | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def next(self, what: str, *faults: Fault) -> None:
        """The answers of the next requests of one sort: version, list, metadata, watch or other."""
        self._faults[what].extend(faults)

    def always(self, what: str, fault: Fault) -> None:
        self._always[what] = fault

    def put(self, name: str, **more: Any) -> Json:
        """Make a pod, or change it. No watch hears of it by itself."""
        self.version += 1
        made = pod(name, self.version, **more)
        self.pods[name] = made
        return made

    def remove(self, name: str) -> Json:
        self.version += 1
        gone = self.pods.pop(name)
        gone["metadata"]["resourceVersion"] = str(self.version)
        return gone

    def count(self, what: str) -> int:
        """How many requests of a sort came."""
        return sum(_sort(seen.method, seen.path, seen.query, seen.headers) == what for seen in self.seen)

    async def asked(self, what: str, times: int = 1) -> None:
        """Return when so many requests of a sort have come."""
        async with asyncio.timeout(WAIT_S):
            while self.count(what) < times:
                self._came.clear()
                await self._came.wait()

    async def watch(self) -> OpenWatch:
        """The next watch that a client opens."""
        async with asyncio.timeout(WAIT_S):
            return await self.watches.get()

    def kubeconfig(
        self, directory: Path, *, ca: Path | None = None, user: str = "", token: str = TOKEN
    ) -> Path:
        """A kubeconfig for this server. `user`: how it says who one is, in YAML."""
        path = directory / "kubeconfig"
        trusted = f', certificate-authority: "{ca}"' if ca else ""
        path.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n"
            f'clusters: [{{name: there, cluster: {{server: "{self.url}"{trusted}}}}}]\n'
            f"users: [{{name: bay, user: {user or f'{{token: {token}}}'}}}]\n"
            "contexts: [{name: test, context: {cluster: there, user: bay, namespace: boxes}}]\n"
        )
        return path

    async def listen(self) -> None:
        """Take connections, on the same port as before where there was one."""
        if self._runner.server is None:
            await self._runner.setup()
        self._site = web.TCPSite(
            self._runner, "127.0.0.1", self.port, ssl_context=self._tls, reuse_address=True
        )
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    async def stop_listening(self) -> None:
        """Refuse connections."""
        assert self._site is not None
        await self._site.stop()

    async def aclose(self) -> None:
        for watch in self._open:
            watch.end()
        await self._runner.cleanup()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        data = await request.read()
        query, headers = dict(request.query), dict(request.headers)
        self.seen.append(
            Seen(request.method, request.path, query, headers, json.loads(data) if data else None)
        )
        self._came.set()
        what = _sort(request.method, request.path, query, headers)
        waiting = self._faults[what]
        fault = waiting.popleft() if waiting else self._always.get(what)
        if isinstance(fault, Said):
            body = fault.body if isinstance(fault.body, bytes) else json.dumps(fault.body).encode()
            return web.Response(status=fault.status, body=body, headers=fault.headers)
        if fault is not None:
            await fault(request)
            return web.Response()
        match what:
            case "version":
                return web.json_response({"major": "1", "minor": "37+"})
            case "watch":
                return await self._watch(request)
            case "list" | "metadata":
                return web.json_response(self._list(query, only_metadata=what == "metadata"))
            case _:
                return web.json_response(status(404, "NotFound", "none", name="x"), status=404)

    async def _watch(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        watch = OpenWatch(request, response)
        self._open.add(watch)
        self.watches.put_nowait(watch)
        try:
            await watch.ended.wait()
        finally:
            self._open.discard(watch)
        return response

    def _list(self, query: dict[str, str], *, only_metadata: bool) -> Json:
        start = int(query.get("continue", "0"))
        end = start + min(int(query.get("limit", "500")), self.page)
        items = list(self.pods.values())
        metadata = {"resourceVersion": str(self.version)}
        if end < len(items):
            metadata["continue"] = str(end)
        shown = [{"metadata": one["metadata"]} if only_metadata else one for one in items[start:end]]
        return {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": shown}


def pod(name: str, version: int, **more: Any) -> Json:
    """A pod, as the API server has it. `more` is laid over it at the top."""
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)},
        "spec": {},
        "status": {"phase": "Pending"},
        **more,
    }


def _sort(method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> str:
    if path == "/version":
        return "version"
    if method == "GET" and "watch" in query:
        return "watch"
    if method == "GET" and path.endswith("/pods"):
        return "metadata" if "PartialObjectMetadataList" in headers.get("Accept", "") else "list"
    return "other"


@contextlib.asynccontextmanager
async def kube_server(tls: ssl.SSLContext | None = None) -> AsyncGenerator[KubeServer]:
    """A server on a port of loopback, and nothing left of it afterwards."""
    server = KubeServer(tls)
    try:
        await server.listen()
        yield server
    finally:
        await server.aclose()


def name_of(fault: object) -> str:
    """A name for a test's id: it is the same in each process, as that of a function's repr is not."""
    return str(fault.status) if isinstance(fault, Said) else getattr(fault, "__name__", str(fault))
