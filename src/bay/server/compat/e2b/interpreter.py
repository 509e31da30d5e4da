"""The interpreter of code: its contexts are kernels of Bay, and each execution is a cell of one.

Each language has a default context, which is a kernel with a fixed id: `default` for Python, and for others
one made of the sandbox's id, so that no row need say which it is. It is made by its first code.
"""

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

from bay.errors import BayError, CallerError, NotFound, QuotaExceeded, ShipError, Unauthorized
from bay.ids import new_id
from bay.models import CellEvent, Kernel, Profile
from bay.server.compat.e2b.process_service import sandbox_facts
from bay.server.kernels.service import DEFAULT, Kernels, NewCell, NewKernel
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.store.records import SandboxRecord

PYTHON = "python"
_SPECS = {PYTHON: "python3", "javascript": "javascript", "js": "javascript"}
"""The kernel specs of languages; any other is the spec of the same name, which an image may have."""
_LANGUAGES = {"python3": PYTHON}
_LISTED = (PYTHON, "javascript")
"""The languages whose default context is listed before anybody used it."""
_HOME = "~"
_LONGEST_S = 86_400.0
"""Clients have time limits of their own; a sandbox of theirs lives for a day at most."""


class InterpreterRefusal(Exception):
    """An answer that is no execution, in the interpreter's form: a status and a text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class CodeContext:
    """A context of variables, in which code runs."""

    id: str
    language: str
    cwd: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """Code to run, in a context or in the default one of its language."""

    code: str
    context_id: str | None
    language: str
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


class Interpreter:
    """The service behind a sandbox's `interpreter` plane. Raises NotFound for a sandbox that the caller does
    not have, InterpreterRefusal for a context or a language that is not there, and BayError for all else.
    """

    def __init__(self, *, waker: Waker, kernels: Kernels, profiles: Mapping[str, Profile]) -> None:
        self._waker = waker
        self._profiles = profiles
        self._kernels = kernels

    @asynccontextmanager
    async def execute(
        self, caller: Caller, ref: str, wanted: Execution
    ) -> AsyncGenerator[AsyncIterator[CellEvent]]:
        """Run code; its events. It is interrupted when this is left before its end."""
        sandbox = await self._waker.find(caller, ref)
        kernel_id, spec = self._wanted(sandbox, wanted)
        if kernel_id != DEFAULT and spec is not None:
            await self._make_default(caller, sandbox, kernel_id, spec)
        cell = NewCell(
            id=new_id("cell"), code=wanted.code, timeout_s=_LONGEST_S, env={**sandbox_facts(sandbox), **wanted.env}, attached=True,
            describe=True, default_cwd=_HOME,
        )  # fmt: skip
        try:
            async with self._kernels.run(caller, sandbox.id, kernel_id, cell) as events:
                yield self._until_gone(caller, sandbox, kernel_id, events)
        except NotFound as error:
            raise _no_context(kernel_id) from error

    async def _until_gone(
        self, caller: Caller, sandbox: SandboxRecord, kernel_id: str, events: AsyncIterator[CellEvent]
    ) -> AsyncGenerator[CellEvent]:
        """The events, but no end of code that ended with its sandbox. ShipError, which cuts the connection:
        clients take an answer's end for that of the code, and ask after a cut whether the sandbox runs.
        """
        ended = False
        async for event in events:
            ended = event.type == "end"
            if ended and event.status == "lost" and not event.restarted:
                with _cutting():
                    await self._kernels.get(caller, sandbox.id, kernel_id)
            yield event
        if not ended:
            raise ShipError("the events of the code broke off before its end")

    async def create(self, caller: Caller, ref: str, language: str, cwd: str | None) -> CodeContext:
        """A new context, which begins in `cwd`."""
        sandbox = await self._waker.find(caller, ref)
        made = await self._make(caller, sandbox, _spec_of(language), _below_home(cwd or _HOME), None)
        return _context(made, sandbox, self._home(sandbox))

    async def contexts(self, caller: Caller, ref: str) -> list[CodeContext]:
        """The default contexts, and then all others, the newest last."""
        sandbox = await self._waker.find(caller, ref)
        home = self._home(sandbox)
        found = [CodeContext(_default_id(sandbox, _spec_of(name)), name, home) for name in _LISTED]
        known = {context.id: context for context in found}
        for kernel in await self._kernels.every(caller, sandbox.id):
            known[kernel.id] = _context(kernel, sandbox, home)
        return list(known.values())

    async def restart(self, caller: Caller, ref: str, context_id: str) -> None:
        """Forget its variables, and lose the code that runs in it."""
        sandbox = await self._waker.find(caller, ref)
        with suppress(NotFound):
            await self._kernels.act(caller, sandbox.id, context_id, "restart")
            return
        _refuse_unknown(sandbox, context_id)

    async def delete(self, caller: Caller, ref: str, context_id: str) -> None:
        """End it, and the code that runs in it."""
        sandbox = await self._waker.find(caller, ref)
        with suppress(NotFound):
            await self._kernels.delete(caller, sandbox.id, context_id)
            return
        _refuse_unknown(sandbox, context_id)

    def _wanted(self, sandbox: SandboxRecord, wanted: Execution) -> tuple[str, str | None]:
        """The kernel to run in, and its spec if it is the default one of a language."""
        if wanted.context_id is None:
            spec = _spec_of(wanted.language)
            return _default_id(sandbox, spec), spec
        specs = (_spec_of(name) for name in _LISTED)
        named = next((spec for spec in specs if _default_id(sandbox, spec) == wanted.context_id), None)
        return wanted.context_id, named

    async def _make_default(self, caller: Caller, sandbox: SandboxRecord, kernel_id: str, spec: str) -> None:
        """Make the default context of a language unless it is there."""
        with suppress(NotFound):
            await self._kernels.get(caller, sandbox.id, kernel_id)
            return
        await self._make(caller, sandbox, spec, _HOME, kernel_id)

    async def _make(
        self, caller: Caller, sandbox: SandboxRecord, spec: str, cwd: str, kernel_id: str | None
    ) -> Kernel:
        new = NewKernel(spec=spec, cwd=cwd)
        try:
            return await self._kernels.create(caller, sandbox.id, new, None, kernel_id)
        except (Unauthorized, QuotaExceeded):
            raise
        except CallerError as error:
            raise InterpreterRefusal(500, error.message) from error

    def _home(self, sandbox: SandboxRecord) -> str:
        profile = self._profiles.get(sandbox.profile)
        return "/workspace" if profile is None else profile.home


@contextmanager
def _cutting() -> Generator[None]:
    try:
        yield
    except BayError as error:
        raise ShipError("the code ended with its sandbox") from error


def _below_home(cwd: str) -> str:
    """A path as Bay reads it, for which relative ones lie in the workspace."""
    return cwd if cwd.startswith(("/", _HOME)) else f"{_HOME}/{cwd}"


def _spec_of(language: str) -> str:
    return _SPECS.get(language, language)


def _default_id(sandbox: SandboxRecord, spec: str) -> str:
    if spec == _SPECS[PYTHON]:
        return DEFAULT
    return "kern-" + hashlib.sha256(f"{sandbox.id} {spec}".encode()).hexdigest()[:24]


def _context(kernel: Kernel, sandbox: SandboxRecord, home: str) -> CodeContext:
    return CodeContext(kernel.id, _LANGUAGES.get(kernel.spec, kernel.spec), kernel.cwd or home)


def _refuse_unknown(sandbox: SandboxRecord, context_id: str) -> None:
    """Raises InterpreterRefusal, except for a default context that nobody has used yet."""
    if context_id not in {_default_id(sandbox, _spec_of(name)) for name in _LISTED}:
        raise _no_context(context_id)


def _no_context(context_id: str) -> InterpreterRefusal:
    return InterpreterRefusal(404, f"Context {context_id[:100]} not found")
