"""The routes `/v1/audit`: which key changed what, and the outcome."""

from typing import Annotated, Literal

from fastapi import Query

from bay.models import AuditEntry
from bay.server.keys.service import Audits
from bay.server.web.bodies import Moment
from bay.server.web.dependencies import Limit, Paging, Reader, noun_router, service
from bay.server.web.replies import PageOf, WireResponse
from bay.store.records import AuditFilters

router = noun_router("audit", "/v1/audit")

AuditsDep = Annotated[Audits, service(Audits)]

Id = Annotated[str | None, Query(max_length=128)]


class AuditList(PageOf[AuditEntry]):
    """A page of calls, in the order that was asked for."""


@router.get("", response_model=AuditList)
async def list_audit(
    caller: Reader,
    audits: AuditsDep,
    paging: Paging,
    limit: Limit = 50,
    owner: Annotated[
        str | None, Query(max_length=128, description="Only of this owner; for admin keys")
    ] = None,
    key_id: Id = None,
    method: Literal["POST", "PUT", "PATCH", "DELETE", "WEBSOCKET"] | None = None,
    path: Annotated[
        str | None, Query(max_length=1024, description="Only paths that begin so, such as /v1/sandboxes")
    ] = None,
    status: Annotated[
        str | None,
        Query(pattern=r"^[1-5](\d\d|xx)$", description="A status such as 404, or 4xx for all of its kind"),
    ] = None,
    request_id: Id = None,
    resource_id: Id = None,
    since: Annotated[Moment | None, Query(description="Calls that began then or later")] = None,
    until: Annotated[Moment | None, Query(description="Calls that began before")] = None,
    order: Annotated[
        Literal["oldest", "newest"], Query(description="Which come first; the same for each page of a list")
    ] = "oldest",
) -> WireResponse:
    """Calls that may have changed something: all for an admin key, else those of your owner."""
    filters = AuditFilters(
        owner=owner, key_id=key_id, method=method, path=path, status=status, request_id=request_id,
        resource_id=resource_id, since=since, until=until,
    )  # fmt: skip
    newest_first = order == "newest"
    page = await audits.page(caller, filters, after=paging.after, limit=limit, newest_first=newest_first)
    return WireResponse(paging.reply(page))
