"""Kernels in a sandbox, which keep their variables, the cells run in them, and their output."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from bay.cell_output import Shown
from bay.client._async.http import AsyncHttp, AsyncSandboxNoun
from bay.client._calls import Call, given
from bay.client._cells import CellCursor, CellResult, cell_result, lost
from bay.client._paths import sandbox_path
from bay.client._waits import START_S
from bay.models import CellEvent, Kernel, KernelSpec

DEFAULT_KERNEL = "default"


async def _events(http: AsyncHttp, cursor: CellCursor) -> AsyncGenerator[CellEvent, None]:
    """The events of one run of code, followed over as many connections as it takes."""
    async with aclosing(http.followed(cursor)) as events:
        async for event in events:
            yield event
    if cursor.lost:
        yield lost(cursor.next)


class AsyncKernelRuns(AsyncSandboxNoun):
    """Runs code in one kernel of a sandbox."""

    _noun = ("kernels",)

    def __init__(self, http: AsyncHttp, sandbox_id: str, kernel_id: str) -> None:
        super().__init__(http, sandbox_id)
        self._kernel_path = self._path(kernel_id)

    async def run(
        self,
        code: str,
        timeout_s: float = 300,
        *,
        env: Mapping[str, str] | None = None,
        attached: bool | None = None,
        describe: bool | None = None,
    ) -> CellResult:
        """Run code to its end and return what it printed, showed and gave; variables stay for the next.

        After `timeout_s` seconds of running it is interrupted, and the result says so: an exception or a
        timeout is no error here, `check()` makes it one. Calls at the same time run one after the other. A
        cancelled call leaves the code running until its time limit, unless it is `attached`: then it is
        interrupted, also when the connection breaks. `env` is set while this code runs. With `describe` the
        bundles of figures and tables also have them as data.
        """
        cursor, shown = self._cursor(code, timeout_s, env, attached=attached, describe=describe), Shown()
        async with aclosing(_events(self._http, cursor)) as events:
            async for event in events:
                shown.take(event)
        return cell_result(cursor.id, shown)

    def stream(
        self,
        code: str,
        timeout_s: float = 300,
        *,
        env: Mapping[str, str] | None = None,
        attached: bool | None = None,
        describe: bool | None = None,
    ) -> AsyncGenerator[CellEvent, None]:
        """Run code and yield what it does as it happens; the last event is its end.

        A dropped connection is taken up again where it broke, for as long as the client's `retry_s`.
        """
        return _events(self._http, self._cursor(code, timeout_s, env, attached=attached, describe=describe))

    def _cursor(
        self, code: str, timeout_s: float, env: Mapping[str, str] | None, **more: bool | None
    ) -> CellCursor:
        own = None if env is None else dict(env)
        body = given(code=code, timeout_s=timeout_s, env=own, **more)
        return CellCursor(self._kernel_path, body, self._http.config.retry_s)


class AsyncPython(AsyncKernelRuns):
    """The default Python kernel of a sandbox, made by the first code that is run in it."""

    def __init__(self, http: AsyncHttp, sandbox_id: str) -> None:
        super().__init__(http, sandbox_id, DEFAULT_KERNEL)


class AsyncRepl(AsyncKernelRuns):
    """A kernel of a sandbox, to run code in. `info` is what was last heard of it."""

    def __init__(self, http: AsyncHttp, sandbox_id: str, info: Kernel) -> None:
        super().__init__(http, sandbox_id, info.id)
        self.info = info

    @property
    def id(self) -> str:
        """Its id, ``kern-…``, or ``default``."""
        return self.info.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.info.spec} {self.info.state}>"

    async def refresh(self) -> Kernel:
        """Ask the server how it is; sets and returns `info`. Raises NotFound after its session's end."""
        return await self._ask(Call.get(self._kernel_path, wait_s=START_S))

    async def interrupt(self) -> Kernel:
        """Interrupt the cell that runs, which then ends as ``interrupted``."""
        return await self._ask(Call("POST", f"{self._kernel_path}/interrupt", wait_s=START_S))

    async def restart(self) -> Kernel:
        """Begin anew under the same id, without variables."""
        return await self._ask(Call("POST", f"{self._kernel_path}/restart", wait_s=START_S))

    async def delete(self) -> None:
        """End it and everything it started."""
        await self._http.json(Call("DELETE", self._kernel_path, wait_s=START_S))

    async def _ask(self, call: Call) -> Kernel:
        self.info = await self._http.one(Kernel, call)
        return self.info


class AsyncKernels(AsyncSandboxNoun):
    """The kernels of one sandbox."""

    _noun = ("kernels",)

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
        body = given(spec=spec, cwd=cwd, env=None if env is None else dict(env), user=user)
        return self._repl(await self._http.one(Kernel, Call.once(self._path(), body, wait_s=START_S)))

    async def get(self, kernel_id: str) -> AsyncRepl:
        """The kernel of that id. Raises NotFound when it ended with its session."""
        return self._repl(await self._http.one(Kernel, Call.get(self._path(kernel_id))))

    async def list(self) -> list[AsyncRepl]:
        """All there are: none in a sandbox without compute, which is not started for that."""
        return [self._repl(info) for info in await self._http.all(Kernel, Call.get(self._path()))]

    async def specs(self) -> tuple[KernelSpec, ...]:
        """The kinds of kernel that the sandbox's image has."""
        call = Call.get(sandbox_path(self._sandbox_id, "kernelspecs"), wait_s=START_S)
        return tuple(await self._http.all(KernelSpec, call))

    def _repl(self, info: Kernel) -> AsyncRepl:
        return AsyncRepl(self._http, self._sandbox_id, info)
