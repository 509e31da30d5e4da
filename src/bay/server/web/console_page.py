"""The console's one page, which draws all the others, and the files that it loads.

`make console` builds them. Each answer has a nonce of its own, so that the styles which the page's libraries
add as they run need no `'unsafe-inline'`.
"""

import secrets
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response

from bay.server.web.static_site import StaticSite

PLACEHOLDER = "__NONCE__"
"""Stands in the page where the nonce goes."""

ASSETS = "assets/"
"""Each file below it has a hash of its content in its name."""

_FOR_EVER = "public, max-age=31536000, immutable"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data: blob:; "
    "font-src 'self'; connect-src 'self'; frame-src {previews}; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; object-src 'none'"
)


class ConsolePage:
    """The files of a build. `previews` gives the source, for a policy, of the apps that the page may frame;
    `headers` are those of all of Bay's pages.
    """

    def __init__(self, site: StaticSite, previews: Callable[[], str], headers: dict[str, str]) -> None:
        self._site = site
        self._previews = previews
        self._headers = headers

    async def page(self) -> Response | None:
        """The page; None when it was not built."""
        text = await self._site.text("index.html")
        if text is None:
            return None
        nonce = secrets.token_urlsafe(18)
        policy = _POLICY.format(nonce=nonce, previews=self._previews())
        headers = {**self._headers, "Content-Security-Policy": policy, "Cache-Control": "no-store"}
        return HTMLResponse(text.replace(PLACEHOLDER, nonce), headers=headers)

    async def asset(self, name: str, given: Headers) -> Response | None:
        """A file below `assets/`, or 304 for a client that has it; None when there is none of that name."""
        return await self._site.answer(name, given, {**self._headers, "Cache-Control": _FOR_EVER})
