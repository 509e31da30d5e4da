"""The routes `…/history`: executions in a sandbox, and notes on them."""

from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, Field

from bay.models import ExecType, HistoryEntry
from bay.server.execs.history import History
from bay.server.web.bodies import Body, Description, normal_tags, split_tags
from bay.server.web.dependencies import Reader, Writer, noun_router, service
from bay.server.web.replies import WireResponse
from bay.store.records import HistoryFilters

router = noun_router("history", "/v1/sandboxes/{sandbox_id}/history")

HistoryDep = Annotated[History, service(History)]


Kind = Annotated[ExecType | None, Query(description="Only entries of this type")]


class HistoryPage(BaseModel):
    """Entries, newest first, and how many there are in all."""

    entries: list[HistoryEntry]
    total: int


class Annotate(Body):
    """The fields to set; omitted and null ones stay, and an empty text removes one."""

    description: Description = None
    tags: Annotated[str | None, Field(max_length=1024, description="Separated by commas")] = None
    notes: Annotated[str | None, Field(max_length=16 * 1024)] = None

    def values(self) -> dict[str, str | None]:
        """The columns to set."""
        given: dict[str, str | None] = {**self.model_dump(exclude_none=True)}
        return {**given, "tags": normal_tags(self.tags)} if self.tags is not None else given


@router.get("", response_model=HistoryPage)
async def list_history(
    caller: Reader,
    history: HistoryDep,
    sandbox_id: str,
    exec_type: Kind = None,
    success_only: bool = False,
    failed_only: bool = False,
    limit: Annotated[int, Query(ge=1, le=500, description="Most entries to return")] = 100,
    offset: Annotated[int, Query(ge=0, lt=2**63, description="Entries to skip")] = 0,
    tags: Annotated[
        str | None, Query(max_length=1024, description="Entries with any of these tags, separated by commas")
    ] = None,
    has_notes: bool = False,
    has_description: bool = False,
) -> WireResponse:
    """The calls of `shell/exec` and `python/exec` in the sandbox, newest first. Never starts compute."""
    filters = HistoryFilters(
        exec_type=exec_type, success_only=success_only, failed_only=failed_only, tags=split_tags(tags or ""),
        has_notes=has_notes, has_description=has_description,
    )  # fmt: skip
    entries, total = await history.page(caller, sandbox_id, filters, limit=limit, offset=offset)
    return WireResponse({"entries": entries, "total": total})


@router.get("/last", response_model=HistoryEntry)
async def last_execution(
    caller: Reader, history: HistoryDep, sandbox_id: str, exec_type: Kind = None
) -> WireResponse:
    """The newest entry; 404 without any."""
    return WireResponse(await history.last(caller, sandbox_id, exec_type))


@router.get("/{execution_id}", response_model=HistoryEntry)
async def get_execution(
    caller: Reader, history: HistoryDep, sandbox_id: str, execution_id: str
) -> WireResponse:
    """One entry."""
    return WireResponse(await history.get(caller, sandbox_id, execution_id))


@router.patch("/{execution_id}", response_model=HistoryEntry)
async def annotate_execution(
    caller: Writer, history: HistoryDep, sandbox_id: str, execution_id: str, body: Annotate
) -> WireResponse:
    """Set its description, tags or notes."""
    return WireResponse(await history.annotate(caller, sandbox_id, execution_id, body.values()))
