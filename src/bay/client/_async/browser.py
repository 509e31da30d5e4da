"""The browser of one sandbox."""

from collections.abc import Sequence
from typing import Any, Unpack

from bay.client._async.http import AsyncSandboxNoun
from bay.client._calls import Call, given
from bay.client._options import BrowserCallOptions, known
from bay.models import BrowserBatch, BrowserReplay, BrowserResult, BrowserTrace

_TURN_S = 2.0
"""A call waits as long for its turn as for its end."""


class AsyncBrowser(AsyncSandboxNoun):
    """The browser of one sandbox, whose profile lists the capability `browser`. It stays open between calls,
    which run one at a time, and its cookies stay with the sandbox's files.
    """

    _noun = ("browser",)

    async def exec(
        self, cmd: str, *, timeout_s: int = 30, **options: Unpack[BrowserCallOptions]
    ) -> BrowserResult:
        """Run the command that `cmd` is behind `agent-browser` on a command line, such as ``open URL``.

        `timeout_s` is from 1 to 300; after that the result has exit code -1. `description` and `tags` are for
        the history; with `include_trace` or `learn` a trace is stored. Raises CapabilityNotSupported,
        QuotaExceeded when eight calls wait already, and Timeout when its turn does not come in time.
        """
        return await self._http.one(BrowserResult, self._call("exec", timeout_s, {"cmd": cmd}, **options))

    async def exec_batch(
        self,
        commands: Sequence[str],
        *,
        timeout_s: int = 60,
        stop_on_error: bool = True,
        **options: Unpack[BrowserCallOptions],
    ) -> BrowserBatch:
        """Run 1 to 200 commands one after the other, `timeout_s` (1 to 600) for all of them together. A
        failed one is no exception: see `success` and `results`. Else as `exec`.
        """
        body = {"commands": list(commands), "stop_on_error": stop_on_error}
        return await self._http.one(BrowserBatch, self._call("exec_batch", timeout_s, body, **options))

    async def run_skill(
        self,
        skill_key: str,
        *,
        timeout_s: int = 60,
        stop_on_error: bool = True,
        **options: Unpack[BrowserCallOptions],
    ) -> BrowserReplay:
        """Run the commands of the skill's active release, as `exec_batch`. Raises NotFound without one."""
        call = self._call("skills", timeout_s, {"stop_on_error": stop_on_error}, skill_key, "run", **options)
        return await self._http.one(BrowserReplay, call)

    async def trace(self, trace_ref: str) -> BrowserTrace:
        """A stored trace. Raises NotFound."""
        return await self._http.one(BrowserTrace, Call.get(self._path("traces", trace_ref)))

    def _call(
        self,
        name: str,
        timeout_s: int,
        body: dict[str, Any],
        *parts: str,
        **options: Unpack[BrowserCallOptions],
    ) -> Call:
        known(name, options, BrowserCallOptions)
        whole = {**body, "timeout": timeout_s, **given(**options)}
        return Call("POST", self._path(name, *parts), body=whole, wait_s=_TURN_S * timeout_s)
