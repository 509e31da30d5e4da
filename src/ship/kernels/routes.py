"""HTTP routes of kernels and cells: parse, one call, answer."""

import asyncio
from collections.abc import AsyncGenerator
from typing import cast

from ship.errors import InvalidArgument, NotFound
from ship.execs import request as exec_request
from ship.http.conversation import Answer, Request, json_answer
from ship.kernels import specs
from ship.kernels.cells import Cell
from ship.kernels.kernel import KernelRequest
from ship.kernels.kernels import CellRequest, Kernels, default_order
from ship.kernels.process import PYTHON
from ship.settings import Settings

_CODE_BODY_BYTES = 16 << 20
_READ_BYTES = 256 * 1024


class KernelRoutes:
    """The host's requests on kernels."""

    def __init__(self, settings: Settings, kernels: Kernels) -> None:
        self._settings = settings
        self._kernels = kernels

    async def answer(self, request: Request) -> Answer:
        """The answer to `request`. Raises ShipError."""
        match request.method, request.segments:
            case "GET", ("kernelspecs",):
                return await self._specs()
            case "GET", ("cells", cell_id):
                return json_answer(200, self._kernels.cell(cell_id).to_wire())
            case "GET", ("kernels",):
                return json_answer(200, {"items": [item.to_wire() for item in self._kernels.list()]})
            case "POST", ("kernels",):
                return await self._create(request)
            case method, ("kernels", kernel_id):
                return await self._one(method, kernel_id)
            case method, ("kernels", kernel_id, *rest):
                return await self._of_one(request, method, kernel_id, tuple(rest))
            case _:
                raise NotFound("there is no such route")

    async def _one(self, method: str, kernel_id: str) -> Answer:
        if method == "GET":
            return json_answer(200, self._kernels.get(kernel_id).to_wire())
        if method == "DELETE":
            await self._kernels.delete(kernel_id)
            return json_answer(200, {"status": "ok"})
        raise NotFound("there is no such route")

    async def _of_one(self, request: Request, method: str, kernel_id: str, rest: tuple[str, ...]) -> Answer:
        match method, rest:
            case "POST", ("interrupt",):
                self._kernels.get(kernel_id).interrupt()
            case "POST", ("restart",):
                await self._kernels.get(kernel_id).restart()
            case "POST", ("cells",):
                return await self._run(request, kernel_id)
            case "GET", ("cells", cell_id, "events"):
                return self._events(request, kernel_id, cell_id)
            case _:
                raise NotFound("there is no such route")
        return json_answer(200, self._kernels.get(kernel_id).to_wire())

    async def _specs(self) -> Answer:
        user = self._settings.user
        found = await asyncio.get_running_loop().run_in_executor(None, specs.find, user)
        return json_answer(200, {"items": found})

    async def _create(self, request: Request) -> Answer:
        wanted = self._kernel_order(_object(await request.read_json(1 << 20)))
        if wanted.spec != PYTHON:
            await self._check_spec(wanted)
        return json_answer(201, (await self._kernels.create(wanted)).to_wire())

    async def _check_spec(self, wanted: KernelRequest) -> None:
        found = await asyncio.get_running_loop().run_in_executor(None, specs.find, wanted.identity)
        names = [spec["name"] for spec in found]
        if wanted.spec not in names:
            raise InvalidArgument(
                f"the image has no kernel spec {wanted.spec}; it has {', '.join(names)}", field="spec"
            )

    async def _run(self, request: Request, kernel_id: str) -> Answer:
        wanted = _cell_order(_object(await request.read_json(_CODE_BODY_BYTES)))
        default = default_order(self._settings.user, wanted.environment)
        cell = self._kernels.run(kernel_id, wanted, default)
        if _follows(request):
            return Answer(200, _stream_events(request, cell, 0, follow=True), "application/x-ndjson")
        return json_answer(201, cell.to_wire())

    def _events(self, request: Request, kernel_id: str, cell_id: str) -> Answer:
        cell = self._kernels.cell(cell_id)
        if cell.kernel_id != kernel_id:
            raise NotFound(f"kernel {kernel_id} has no such cell")
        since = _sequence(request)
        if since > cell.next_seq:
            raise InvalidArgument(f"since is beyond the cell's {cell.next_seq} events", field="since")
        follow = _follows(request)
        return Answer(200, _stream_events(request, cell, since, follow=follow), "application/x-ndjson")

    def _kernel_order(self, given: dict[str, object]) -> KernelRequest:
        shared = exec_request.environment(given.get("env"))
        own = given.get("own_env")
        spec = exec_request.optional_text(given, "spec")
        return KernelRequest(
            id=exec_request.identifier(given.get("id")),
            spec=PYTHON if spec is None else exec_request.identifier(spec),
            cwd=exec_request.optional_text(given, "cwd"),
            environment=shared if own is None else exec_request.environment(own),
            shared=shared,
            identity=self._settings.accounts.find(given.get("user")),
        )


async def _stream_events(request: Request, cell: Cell, since: int, *, follow: bool) -> AsyncGenerator[bytes]:
    gone = request.talk.wire.gone
    while True:
        # In this order: an event that comes between the two lines belongs before the end.
        ended = cell.ended
        lines = cell.events(since, _READ_BYTES)
        if lines:
            since += len(lines)
            yield b"".join(lines)
        elif ended or not follow or gone.done():
            return
        else:
            await cell.news.wait(gone)


def _cell_order(given: dict[str, object]) -> CellRequest:
    code, timeout_s = given.get("code"), given.get("timeout_s")
    if not isinstance(code, str):
        raise InvalidArgument("code must be text", field="code")
    return CellRequest(
        id=exec_request.identifier(given.get("id")),
        code=code.encode("utf-8", "replace").decode(),
        timeout_s=None if timeout_s is None else exec_request.seconds(timeout_s, "timeout_s", positive=True),
        environment=exec_request.environment(given.get("env")),
    )


def _object(body: object) -> dict[str, object]:
    if not isinstance(body, dict):
        raise InvalidArgument("the body must be a JSON object")
    return cast("dict[str, object]", body)


def _follows(request: Request) -> bool:
    return request.query.get("follow", "false") in ("true", "1")


def _sequence(request: Request) -> int:
    text = request.query.get("since", "0")
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidArgument("since must be the number of an event", field="since")
    return int(text)
