"""Foreign formats name callers and word errors; all else of the edge holds for them as for Bay's own."""

import re
from pathlib import Path

import httpx
import pytest
from server_harness import clear, world
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from bay.errors import BayError, NotFound
from bay.server.web.auth import Caller, Keys
from bay.server.web.edge import Edge
from bay.server.web.wire_format import Headers, WireFormat, format_of
from bay.server.web.wire_format import Scope as WireScope
from bay.tracing import Tracing
from bay.units import MIB

pytestmark = pytest.mark.anyio


def _caller(keys: Keys, _scope: WireScope, headers: Headers) -> Caller | None:
    given = headers.one("x-key")
    return None if given == "open" else keys.authenticate(f"Bearer {given}")


def _error(error: BayError, request_id: str, _scope: WireScope) -> JSONResponse:
    return JSONResponse({"sorry": error.code, "id": request_id}, error.status)


FOREIGN = WireFormat(
    prefix="/foreign",
    authenticate=_caller,
    error=_error,
    uploads=re.compile("/foreign/upload"),
    streams=re.compile("/foreign/stream"),
    readers=re.compile("/foreign/look"),
)


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/foreign/lost":
        raise NotFound("there is no such thing")
    while (await receive()).get("more_body"):
        pass
    await JSONResponse({"owner": scope["state"]["caller"].owner})(scope, receive, send)


def test_a_prefix_ends_at_a_slash() -> None:
    found = [format_of([FOREIGN], p) for p in ("/foreign", "/foreign/x", "/foreigner", "/")]
    assert found == [FOREIGN, FOREIGN, None, None]


async def test_a_format_names_the_caller_and_words_the_errors(tmp_path: Path) -> None:
    async with world(tmp_path) as bay:
        edge = Edge(
            _app, keys=bay.bay.keys, cookies=bay.bay.console_cookies, auditor=bay.bay.auditor, formats=(FOREIGN,),
            max_body_bytes=2 * MIB, max_upload_bytes=4 * MIB, meters=bay.bay.meters, tracing=Tracing(),
        )  # fmt: skip
        transport = httpx.ASGITransport(edge)
        async with httpx.AsyncClient(transport=transport, base_url="http://bay") as client:
            writer, reader = {"X-Key": await bay.key()}, {"X-Key": await bay.key(scope="read")}
            large = b"x" * (3 * MIB)
            got = {
                name: await client.post(f"/foreign/{path}", headers=headers, content=body)
                for name, path, headers, body in (
                    ("known", "x", writer, b""),
                    ("stranger", "x", {"X-Key": "nobody"}, b""),
                    ("native key", "x", {"Authorization": f"Bearer {writer['X-Key']}", "X-Key": "no"}, b""),
                    ("lost", "lost", writer, b""),
                    ("reader", "x", reader, b""),
                    ("reader looks", "look", reader, b""),
                    ("large", "x", writer, large),
                    ("upload", "upload", writer, large),
                    ("too large an upload", "upload", writer, large * 2),
                    ("stream", "stream", writer, large * 2),
                )
            }
        statuses = {name: answer.status_code for name, answer in got.items()}
        await bay.bay.deferred.flush()
        rows = {row[0] for row in await bay.sql("SELECT path FROM audit")}
    await clear(tmp_path)
    assert statuses == {
        "known": 200, "stranger": 401, "native key": 401, "lost": 404, "reader": 403, "reader looks": 200,
        "large": 413, "upload": 200, "too large an upload": 413, "stream": 200,
    }  # fmt: skip
    assert got["known"].json() == {"owner": "alice"}
    lost = got["lost"]
    assert lost.json() == {"sorry": "not_found", "id": lost.headers["x-request-id"]}
    assert "/foreign/x" in rows
    assert "/foreign/look" not in rows
