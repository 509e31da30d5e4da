"""The history of one sandbox: executions, and notes on them."""

from typing import TypedDict, Unpack

from bay.client._answers import listed, model
from bay.client._async.http import AsyncHttp
from bay.client._calls import Call, Json, given, list_params
from bay.client._options import known
from bay.client._paths import sandbox_path
from bay.models import ExecType, HistoryEntry


class HistoryOptions(TypedDict, total=False):
    """The options of `box.history`. `tags`, with commas between, finds entries with any of them."""

    exec_type: ExecType | None
    success_only: bool | None
    failed_only: bool | None
    tags: str | None
    has_notes: bool | None
    has_description: bool | None
    limit: int | None
    offset: int | None


class AsyncHistory:
    """The executions of `shell/exec` and `python/exec` in one sandbox, as far back as they are kept."""

    def __init__(self, http: AsyncHttp, sandbox_id: str) -> None:
        self._http = http
        self._sandbox_id = sandbox_id

    async def list(self, **options: Unpack[HistoryOptions]) -> list[HistoryEntry]:
        """Up to `limit` entries (100, at most 500) behind the first `offset`, newest first."""
        known("history", options, HistoryOptions)
        call = Call(method="GET", path=self._path(), params=list_params(options, None), safe=True)
        found = listed(await self._http.json(call), "entries")
        return [model(HistoryEntry, item) for item in found]

    async def last(self, exec_type: ExecType | None) -> HistoryEntry:
        """The newest. Raises NotFound when there is none."""
        params = list_params({"exec_type": exec_type}, None)
        return await self._entry(Call(method="GET", path=self._path("last"), params=params, safe=True))

    async def get(self, execution_id: str) -> HistoryEntry:
        """One entry. Raises NotFound."""
        return await self._entry(Call(method="GET", path=self._path(execution_id), safe=True))

    async def annotate(self, execution_id: str, **notes: str | None) -> HistoryEntry:
        """Set `description`, `tags` or `notes`."""
        body: Json = given(**notes)
        return await self._entry(Call(method="PATCH", path=self._path(execution_id), body=body, safe=True))

    async def _entry(self, call: Call) -> HistoryEntry:
        return model(HistoryEntry, await self._http.json(call))

    def _path(self, *rest: str) -> str:
        return sandbox_path(self._sandbox_id, "history", *rest)
