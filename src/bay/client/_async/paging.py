"""Pagination: lists that come page by page."""

from collections.abc import AsyncIterator, Mapping

from bay.client._answers import items, next_cursor
from bay.client._async.http import AsyncHttp
from bay.client._calls import Call, list_params


async def paged(http: AsyncHttp, path: str, filters: Mapping[str, object]) -> AsyncIterator[object]:
    """Every item of the list at `path` that matches; each page is asked for after the one before."""
    cursor: str | None = None
    more = True
    while more:
        params = list_params(filters, cursor)
        page = await http.json(Call(method="GET", path=path, params=params, safe=True))
        for item in items(page):
            yield item
        cursor = next_cursor(page)
        more = cursor is not None
