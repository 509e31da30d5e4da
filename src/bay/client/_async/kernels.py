"""Kernels in a sandbox, which keep their variables, the cells run in them, and their output."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from bay.cell_output import Shown
from bay.client._answers import items, model
from bay.client._async.http import AsyncHttp, accepted
from bay.client._calls import Call, given
from bay.client._cells import CellCursor, CellResult, cell_result
from bay.client._paths import sandbox_path
from bay.client._seam import async_sleep
from bay.errors import ConnectionFailed, HostError, NotFound, Timeout
from bay.ids import new_id
from bay.models import CellEvent, Kernel, KernelSpec

DEFAULT_KERNEL = "default"

START_S = 60.0
"""How much longer than other calls a kernel may take to start."""


class _Cell:
    """One run of code, followed over as many connections as it takes."""

    def __init__(self, http: AsyncHttp, sandbox_id: str, kernel_id: str, code: str, timeout_s: float) -> None:
        self.id = new_id("cell")
        self._http = http
        self._path = sandbox_path(sandbox_id, "kernels", kernel_id)
        self._body = {"id": self.id, "code": code, "timeout_s": timeout_s}

    async def result(self) -> CellResult:
        shown = Shown()
        async with aclosing(self.events()) as events:
            async for event in events:
                shown.take(event)
        return cell_result(self.id, shown)

    async def events(self) -> AsyncGenerator[CellEvent, None]:
        cursor = CellCursor(self._http.config.retry_s)
        while not cursor.ended:
            async with aclosing(self._connection(cursor)) as events:
                async for event in events:
                    yield event

    async def _connection(self, cursor: CellCursor) -> AsyncGenerator[CellEvent, None]:
        """The events of one connection; returns when a new one should be made."""
        connected = False
        try:
            async with self._http.stream(self._call(cursor)) as response:
                connected = cursor.begun = True
                async with aclosing(accepted(response, cursor)) as events:
                    async for event in events:
                        yield event
            if cursor.ended:
                return
            error = ConnectionFailed(f"the events of {self.id} ended before its end")
        except NotFound:
            if not cursor.begun:
                raise
            yield cursor.lose()
            return
        except (HostError, ConnectionFailed) as failed:
            # Code that prints nothing for a while looks like a timeout: ask again, it costs nothing.
            if connected and isinstance(failed, Timeout):
                return
            error = failed
        await async_sleep(cursor.pause(error))

    def _call(self, cursor: CellCursor) -> Call:
        """The run; once the server has it, what came of it since.

        The id keeps a repeated run from running twice.
        """
        if not cursor.begun:
            return Call(method="POST", path=f"{self._path}/run", body=self._body, safe=True, wait_s=START_S)
        params = {"since": cursor.next, "follow": "true"}
        return Call(method="GET", path=f"{self._path}/cells/{self.id}/events", params=params, safe=True)


class AsyncPython:
    """The default Python kernel of a sandbox, made by the first code that is run in it."""

    def __init__(self, http: AsyncHttp, sandbox_id: str) -> None:
        self._http = http
        self._sandbox_id = sandbox_id

    async def run(self, code: str, timeout_s: float = 300) -> CellResult:
        """Run code to its end and return what it printed, showed and gave; variables stay for the next.

        After `timeout_s` seconds of running it is interrupted, and the result says so: an exception or a
        timeout is no error here, `check()` makes it one. Calls at the same time run one after the other. A
        cancelled call leaves the code running until its time limit.
        """
        return await _Cell(self._http, self._sandbox_id, DEFAULT_KERNEL, code, timeout_s).result()

    def stream(self, code: str, timeout_s: float = 300) -> AsyncGenerator[CellEvent, None]:
        """Run code and yield what it does as it happens; the last event is its end.

        A dropped connection is taken up again where it broke, for as long as the client's `retry_s`.
        """
        return _Cell(self._http, self._sandbox_id, DEFAULT_KERNEL, code, timeout_s).events()


class AsyncRepl:
    """A kernel of a sandbox, to run code in. `info` is what was last heard of it."""

    def __init__(self, http: AsyncHttp, sandbox_id: str, info: Kernel) -> None:
        self._http = http
        self._sandbox_id = sandbox_id
        self.info = info

    @property
    def id(self) -> str:
        """Its id, ``kern-…``, or ``default``."""
        return self.info.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.info.spec} {self.info.state}>"

    async def run(self, code: str, timeout_s: float = 300) -> CellResult:
        """Run code in this kernel to its end; see `AsyncPython.run`."""
        return await _Cell(self._http, self._sandbox_id, self.id, code, timeout_s).result()

    def stream(self, code: str, timeout_s: float = 300) -> AsyncGenerator[CellEvent, None]:
        """Run code in this kernel and yield what it does as it happens; see `AsyncPython.stream`."""
        return _Cell(self._http, self._sandbox_id, self.id, code, timeout_s).events()

    async def refresh(self) -> Kernel:
        """Ask the server how it is; sets and returns `info`.

        Raises NotFound when it ended with its session.
        """
        return await self._ask("GET")

    async def interrupt(self) -> Kernel:
        """Interrupt the cell that runs, which then ends as ``interrupted``."""
        return await self._ask("POST", "interrupt")

    async def restart(self) -> Kernel:
        """Begin anew under the same id, without variables."""
        return await self._ask("POST", "restart")

    async def delete(self) -> None:
        """End it and everything it started."""
        await self._http.json(Call(method="DELETE", path=self._path(), safe=False, wait_s=START_S))

    async def _ask(self, method: str, *rest: str) -> Kernel:
        call = Call(
            method="GET" if method == "GET" else "POST",
            path=self._path(*rest),
            safe=method == "GET",
            wait_s=START_S,
        )
        self.info = model(Kernel, await self._http.json(call))
        return self.info

    def _path(self, *rest: str) -> str:
        return sandbox_path(self._sandbox_id, "kernels", self.id, *rest)


class AsyncKernels:
    """The kernels of one sandbox."""

    def __init__(self, http: AsyncHttp, sandbox_id: str) -> None:
        self._http = http
        self._sandbox_id = sandbox_id

    async def create(
        self,
        spec: str | None = None,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> AsyncRepl:
        """A kernel of its own, beside the default one; `spec` is one of `specs` (python3 unless named).

        `cwd` is absolute or relative to /workspace; `env` adds to the sandbox's.
        """
        call = Call(
            method="POST",
            path=sandbox_path(self._sandbox_id, "kernels"),
            body=given(spec=spec, cwd=cwd, env=None if env is None else dict(env), user=user),
            headers={"Idempotency-Key": new_id("key")},
            safe=True,
            wait_s=START_S,
        )
        return AsyncRepl(self._http, self._sandbox_id, model(Kernel, await self._http.json(call)))

    async def get(self, kernel_id: str) -> AsyncRepl:
        """The kernel of that id. Raises NotFound when it ended with its session."""
        call = Call(method="GET", path=sandbox_path(self._sandbox_id, "kernels", kernel_id), safe=True)
        return AsyncRepl(self._http, self._sandbox_id, model(Kernel, await self._http.json(call)))

    async def list(self) -> list[AsyncRepl]:
        """All there are: none in a sandbox without compute, which is not started for that."""
        call = Call(method="GET", path=sandbox_path(self._sandbox_id, "kernels"), safe=True)
        found = items(await self._http.json(call))
        return [AsyncRepl(self._http, self._sandbox_id, model(Kernel, item)) for item in found]

    async def specs(self) -> tuple[KernelSpec, ...]:
        """The kinds of kernel that the sandbox's image has."""
        call = Call(
            method="GET", path=sandbox_path(self._sandbox_id, "kernelspecs"), safe=True, wait_s=START_S
        )
        return tuple(model(KernelSpec, item) for item in items(await self._http.json(call)))
