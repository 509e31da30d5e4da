"""HTTP routes of kernels and cells: parse, one call, answer."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from functools import partial

from ship.errors import InvalidArgument, NotFound
from ship.execs import request as exec_request
from ship.http.conversation import Answer, Request, json_answer
from ship.kernels import specs
from ship.kernels.cells import Cell, CellRequest
from ship.kernels.kernel import KernelRequest
from ship.kernels.kernels import Kernels, default_order
from ship.kernels.process import PYTHON
from ship.process.identity import Identity
from ship.settings import Settings
from ship.wire import printable

_CODE_BODY_BYTES = 16 << 20
_READ_BYTES = 256 * 1024


class KernelRoutes:
    def __init__(self, settings: Settings, kernels: Kernels) -> None:
        self._settings = settings
        self._kernels = kernels

    async def answer(self, request: Request) -> Answer:
        """Raises ShipError."""
        match request.method, request.segments:
            case "GET", ("kernelspecs",):
                return await self._specs()
            case "GET", ("cells", cell_id):
                return json_answer(200, self._kernels.cell(cell_id).to_wire())
            case "GET", ("kernels",):
                return json_answer(200, {"items": [item.to_wire() for item in self._kernels.list()]})
            case "POST", ("kernels",):
                return await self._create(request)
            case "GET", ("kernels", kernel_id):
                return json_answer(200, self._kernels.get(kernel_id).to_wire())
            case "DELETE", ("kernels", kernel_id):
                await self._kernels.delete(kernel_id)
                return json_answer(200, {"status": "ok"})
            case "POST", ("kernels", kernel_id, "cells"):
                return await self._run(request, kernel_id)
            case "GET", ("kernels", kernel_id, "cells", cell_id, "events"):
                return self._events(request, kernel_id, cell_id)
            case "POST", ("kernels", kernel_id, "interrupt"):
                self._kernels.get(kernel_id).interrupt()
            case "POST", ("kernels", kernel_id, "restart"):
                await self._kernels.get(kernel_id).restart()
            case _:
                raise NotFound("there is no such route")
        return json_answer(200, self._kernels.get(kernel_id).to_wire())

    async def _specs(self) -> Answer:
        found = await self._found(self._settings.user, self._settings.kernel_environment)
        return json_answer(200, {"items": found})

    async def _found(self, identity: Identity, environment: Mapping[str, str]) -> list[specs.Spec]:
        path = {**self._settings.environment, **environment}.get("PATH", "")
        return await asyncio.get_running_loop().run_in_executor(None, specs.find, identity, path)

    async def _create(self, request: Request) -> Answer:
        wanted = self._kernel_order(await request.read_object())
        if wanted.spec != PYTHON:
            await self._check_spec(wanted)
        return json_answer(201, (await self._kernels.create(wanted)).to_wire())

    async def _check_spec(self, wanted: KernelRequest) -> None:
        found = await self._found(wanted.identity, wanted.environment)
        names = [spec["name"] for spec in found]
        if wanted.spec not in names:
            problem = f"the image has no kernel spec {wanted.spec}; it has {', '.join(names)}"
            raise InvalidArgument(problem, field="spec")

    async def _run(self, request: Request, kernel_id: str) -> Answer:
        given = await request.read_object(_CODE_BODY_BYTES)
        wanted, cwd = _cell_order(given), exec_request.optional_text(given, "cwd")
        default = default_order(self._settings.user, wanted.environment, cwd)
        cell = self._kernels.run(kernel_id, wanted, default)
        if not request.flag("follow"):
            return json_answer(201, cell.to_wire())
        leave = partial(self._leave, kernel_id, cell) if request.flag("attached") else None
        return Answer(200, _stream_events(request, cell, 0), "application/x-ndjson", close=leave)

    async def _leave(self, kernel_id: str, cell: Cell) -> None:
        """The reader of an attached cell is gone, or the cell has ended."""
        with suppress(NotFound):  # deleted, and the cell with it
            self._kernels.get(kernel_id).abandon(cell)

    def _events(self, request: Request, kernel_id: str, cell_id: str) -> Answer:
        cell = self._kernels.cell(cell_id)
        if cell.kernel_id != kernel_id:
            raise NotFound(f"kernel {kernel_id} has no such cell")
        since = request.offset("since", "the number of an event") or 0
        if since > cell.next_seq:
            raise InvalidArgument(f"since is beyond the cell's {cell.next_seq} events", field="since")
        return Answer(200, _stream_events(request, cell, since), "application/x-ndjson")

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


async def _stream_events(request: Request, cell: Cell, since: int) -> AsyncGenerator[bytes]:
    while True:
        # In this order: an event that comes between the two lines belongs before the end.
        ended = cell.ended
        lines = cell.events(since, _READ_BYTES)
        if lines:
            since += len(lines)
            yield b"".join(lines)
        elif ended or not request.flag("follow") or request.gone.done():
            return
        else:
            await cell.news.wait(request.gone)


def _cell_order(given: dict[str, object]) -> CellRequest:
    code, timeout_s = given.get("code"), given.get("timeout_s")
    if not isinstance(code, str):
        raise InvalidArgument("code must be text", field="code")
    return CellRequest(
        id=exec_request.identifier(given.get("id")),
        code=printable(code),
        timeout_s=None if timeout_s is None else exec_request.seconds(timeout_s, "timeout_s", positive=True),
        environment=exec_request.environment(given.get("env")),
        own_environment=exec_request.environment(given.get("own_env")),
        trace=exec_request.environment(given.get("trace")),
        describe=given.get("describe") is True,
    )
