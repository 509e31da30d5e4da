"""The history of one sandbox: executions, and notes on them."""

from typing import Unpack

from bay.client._answers import listed, model
from bay.client._async.http import AsyncSandboxNoun
from bay.client._calls import Call, given, list_params
from bay.client._options import HistoryOptions, known
from bay.models import ExecType, HistoryEntry


class AsyncHistory(AsyncSandboxNoun):
    """The executions of `shell/exec`, `python/exec` and the browser in one sandbox, as far back as they are
    kept.
    """

    async def history(self, **options: Unpack[HistoryOptions]) -> list[HistoryEntry]:
        """The executions of `shell` here, newest first: up to `limit` (100, at most 500) after `offset`.

        Filters: `exec_type`, `success_only`, `failed_only`, `tags`, `has_notes`, `has_description`. Never
        starts compute.
        """
        known("history", options, HistoryOptions)
        page = await self._http.json(Call.get(self._path("history"), list_params(options, None)))
        return [model(HistoryEntry, item) for item in listed(page, "entries")]

    async def history_entry(self, execution_id: str) -> HistoryEntry:
        """One entry of the history. Raises NotFound when there is none, or when it has expired."""
        return await self._http.one(HistoryEntry, Call.get(self._path("history", execution_id)))

    async def last_execution(self, exec_type: ExecType | None = None) -> HistoryEntry:
        """The newest entry of the history. Raises NotFound when there is none."""
        call = Call.get(self._path("history", "last"), given(exec_type=exec_type))
        return await self._http.one(HistoryEntry, call)

    async def annotate(
        self,
        execution_id: str,
        *,
        description: str | None = None,
        tags: str | None = None,
        notes: str | None = None,
    ) -> HistoryEntry:
        """Note something about an entry. None leaves a field as it is, an empty text takes it away."""
        body = given(description=description, tags=tags, notes=notes)
        call = Call("PATCH", self._path("history", execution_id), body=body, safe=True)
        return await self._http.one(HistoryEntry, call)
