"""The console's sign-in: who gets a cookie, what a cookie opens, and what neither a stranger's page nor an
app in a sandbox can do with it.
"""

import json
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from io import StringIO
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import structlog
from attaching import ask_in_process
from port_apps import Call, app
from server_harness import WAIT_S, Json, World, assert_error, create, world

from bay import __version__
from bay.clock import to_rfc3339
from bay.server import logs
from bay.server.console.service import CODE_S
from bay.server.ports.headers import SANDBOXED
from bay.server.web import edge
from bay.server.web.console_cookie import LIFE_S

pytestmark = pytest.mark.anyio

PATH = "/v1/console/sign_in"
CODES = "/v1/console/codes"
OURS = {"Bay-Console": "1"}
"""The header of the console, which no page of another origin can send."""


@dataclass(slots=True)
class Browser:
    """A client that keeps no cookie but the one it is given."""

    client: httpx.AsyncClient
    cookie: str = ""

    async def ask(
        self, method: str, path: str, headers: Json | None = None, **more: object
    ) -> httpx.Response:
        """A request as the console sends it, or with other headers."""
        self.client.cookies.clear()
        sent = {
            **(OURS if headers is None else headers),
            **({"Cookie": self.cookie.encode("latin-1")} if self.cookie else {}),
        }
        return await self.client.request(method, path, headers=sent, **more)  # type: ignore[arg-type]

    async def sign_in(self, **body: str) -> httpx.Response:
        """Sign in, and keep the cookie as a browser does."""
        answer = await self.ask("POST", PATH, json=body)
        if answer.status_code == 201:
            self.cookie = answer.headers["set-cookie"].partition(";")[0]
        return answer


async def browser(bay: World, scheme: str = "http") -> Browser:
    client = httpx.AsyncClient(
        transport=httpx.ASGITransport(bay.app), base_url=f"{scheme}://bay", timeout=WAIT_S
    )
    return Browser(await bay.stack.enter_async_context(client))


async def signed_in(bay: World, owner: str = "alice", scope: str = "write", scheme: str = "http") -> Browser:
    """A browser that has signed in with the key of an owner."""
    made = await browser(bay, scheme)
    answer = await made.sign_in(key=await bay.key(owner, scope))  # type: ignore[arg-type]
    assert answer.status_code == 201, answer.text
    return made


async def audit_rows(bay: World) -> list[Json]:
    await bay.bay.deferred.flush()
    answer = await (await bay.client("root", "admin")).get("/v1/audit", params={"limit": 200})
    return [row for row in answer.json()["items"] if row["path"].startswith("/v1/console")]


# Signing in


async def test_a_key_signs_a_browser_in_for_twelve_hours(bay: World) -> None:
    here = await browser(bay)
    answer = await here.sign_in(key=await bay.key("alice", "read"))
    key = bay.bay.keys.authenticate(f"Bearer {await bay.key('alice', 'read')}")
    until = (bay.clock() + timedelta(seconds=LIFE_S)).replace(microsecond=0)
    assert answer.json() == {
        "owner": "alice", "scope": "read", "key_id": key.key_id, "key_name": "alice-read",
        "expires_at": to_rfc3339(until), "version": __version__,
    }  # fmt: skip
    assert answer.headers["cache-control"] == "no-store"
    name, _, rest = answer.headers["set-cookie"].partition("=")
    assert name == "bay-console"
    assert rest.partition("; ")[2] == "Path=/; Max-Age=43200; HttpOnly; SameSite=Strict"
    assert (await here.ask("GET", "/v1/sandboxes")).status_code == 200
    bay.clock.advance(LIFE_S - 1)
    assert (await here.ask("GET", "/v1/sandboxes")).status_code == 200
    bay.clock.advance(1)
    error = assert_error(await here.ask("GET", "/v1/sandboxes"), 401, "unauthorized")
    assert "sign in again" in error["message"]


async def test_over_tls_the_cookie_is_one_that_only_this_host_can_have_set_over_tls(bay: World) -> None:
    here = await browser(bay, "https")
    answer = await here.sign_in(key=await bay.key())
    assert answer.headers["set-cookie"].startswith("__Host-bay-console=")
    assert answer.headers["set-cookie"].endswith("; HttpOnly; SameSite=Strict; Secure")
    assert "Path=/;" in answer.headers["set-cookie"]
    assert "domain" not in answer.headers["set-cookie"].lower()
    assert (await here.ask("GET", "/v1/sandboxes")).status_code == 200


async def test_a_cookie_of_plain_http_opens_nothing_over_tls(bay: World) -> None:
    plain, tls = await signed_in(bay), await browser(bay, "https")
    tls.cookie = plain.cookie
    assert_error(await tls.ask("GET", "/v1/sandboxes"), 401, "unauthorized")


@pytest.mark.parametrize(
    "body",
    [
        {"key": "bay_" + "x" * 43},
        {"key": " "},
        {"key": "Bearer"},
        {"code": "x"},
        {"code": "AAAA" * 30},
        {"code": "é" * 40},
    ],
)
async def test_a_key_or_code_that_is_none_opens_nothing_and_is_not_repeated(bay: World, body: Json) -> None:
    answer = await (await browser(bay)).ask("POST", PATH, json=body)
    assert_error(answer, 401, "unauthorized")
    assert "set-cookie" not in answer.headers
    (secret,) = body.values()
    assert len(secret) < 20 or secret not in answer.text


@pytest.mark.parametrize(
    "body", [{}, {"key": "a", "code": "b"}, {"key": None}, {"key": 1}, {"secret": "a"}, {"key": "x" * 1025}]
)
async def test_exactly_one_key_or_code_is_asked_for(bay: World, body: Json) -> None:
    answer = await (await browser(bay)).ask("POST", PATH, json=body)
    assert_error(answer, 422, "validation_error")
    assert "x" * 30 not in answer.text


async def test_who_has_no_key_cannot_send_much(bay: World) -> None:
    here = await browser(bay)
    assert_error(await here.ask("POST", PATH, content=b"[" * 5000), 413, "payload_too_large")


async def test_a_key_that_is_about_to_expire_ends_the_sign_in_with_it(bay: World) -> None:
    admin = await bay.client("root", "admin")
    made = await admin.post("/v1/keys", json={"name": "brief", "expires_in": 60})
    here = await browser(bay)
    answer = await here.sign_in(key=made.json()["secret"])
    assert answer.json()["expires_at"] == made.json()["expires_at"]
    bay.clock.advance(60)
    assert_error(await here.ask("GET", "/v1/sandboxes"), 401, "unauthorized")


async def test_a_revoked_key_ends_every_sign_in_that_began_with_it(bay: World) -> None:
    admin = await bay.client("root", "admin")
    here, there, other = await signed_in(bay), await signed_in(bay), await signed_in(bay, "bob")
    key_id = (await here.ask("GET", PATH)).json()["key_id"]
    assert (await admin.delete(f"/v1/keys/{key_id}")).status_code == 204
    for one in (here, there):
        error = assert_error(await one.ask("GET", "/v1/sandboxes"), 401, "unauthorized")
        assert "sign in again" in error["message"]
    assert (await other.ask("GET", "/v1/sandboxes")).status_code == 200


async def test_a_sign_in_outlives_a_restart_of_bay(root: Path) -> None:
    async with world(root) as bay:
        cookie = (await signed_in(bay)).cookie
    async with world(root) as bay:
        again = await browser(bay)
        again.cookie = cookie
        assert (await again.ask("GET", PATH)).json()["owner"] == "alice"
    (root / "data" / "ports.key").unlink()
    async with world(root) as bay:
        again = await browser(bay)
        again.cookie = cookie
        assert_error(await again.ask("GET", PATH), 401, "unauthorized")


async def test_looking_at_a_sign_in_renews_its_cookie(bay: World) -> None:
    here = await signed_in(bay, scope="read")
    bay.clock.advance(LIFE_S / 2)
    answer = await here.ask("GET", PATH)
    assert answer.json()["expires_at"] == to_rfc3339(
        (bay.clock() + timedelta(seconds=LIFE_S)).replace(microsecond=0)
    )
    here.cookie = answer.headers["set-cookie"].partition(";")[0]
    bay.clock.advance(LIFE_S * 0.75)
    assert (await here.ask("GET", "/v1/sandboxes")).status_code == 200


async def test_a_caller_with_a_key_sees_who_it_is_and_gets_no_cookie(
    bay: World, alice: httpx.AsyncClient
) -> None:
    answer = await alice.get(PATH)
    assert (answer.status_code, answer.json()["owner"], answer.json()["expires_at"]) == (200, "alice", None)
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("scope", ["read", "admin"])
async def test_signing_out_removes_the_cookie_for_every_key(bay: World, scope: str) -> None:
    here = await signed_in(bay, scope=scope)
    answer = await here.ask("DELETE", PATH)
    assert (answer.status_code, answer.text) == (204, "")
    assert answer.headers["set-cookie"] == "bay-console=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"


async def test_signing_out_works_when_the_sign_in_has_ended_or_never_was(bay: World) -> None:
    here = await signed_in(bay)
    bay.clock.advance(LIFE_S)
    assert (await here.ask("DELETE", PATH)).status_code == 204
    for cookie in ("", "bay-console=nothing", "bay-console=a; bay-console=b"):
        here.cookie = cookie
        assert (await here.ask("DELETE", PATH)).headers["set-cookie"].startswith("bay-console=; ")


async def test_the_audit_says_which_key_signed_in_and_out_and_has_no_secret(bay: World) -> None:
    here = await signed_in(bay)
    key_id = (await here.ask("GET", PATH)).json()["key_id"]
    code = (await here.ask("POST", CODES)).json()["code"]
    assert (await here.sign_in(code=code)).status_code == 201
    assert (await here.sign_in(code=code)).status_code == 401
    assert (await here.sign_in(key="bay_" + "n" * 43)).status_code == 401
    assert (await here.ask("DELETE", PATH)).status_code == 204
    rows = await audit_rows(bay)
    assert {row["key_id"] for row in rows} == {key_id}, "also of who fails, in a browser that is signed in"
    assert Counter((row["method"], row["path"], row["status"]) for row in rows) == {
        ("POST", PATH, 201): 2,
        ("POST", CODES, 201): 1,
        ("POST", PATH, 401): 2,
        ("DELETE", PATH, 204): 1,
    }
    everything = json.dumps(rows) + json.dumps(await bay.sql("SELECT * FROM used_links"), default=str)
    for secret in (code, here.cookie.partition("=")[2], await bay.key()):
        assert secret not in everything


@pytest.mark.usefixtures("own_logs")
async def test_no_log_has_a_key_a_code_or_a_cookie(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(edge, "log", structlog.get_logger("bay.http"))  # the other keeps its first stream
    logs.configure("debug", "json")
    async with world(root) as bay:
        here = await signed_in(bay)
        code = (await here.ask("POST", CODES)).json()["code"]
        await here.sign_in(code=code)
        await here.sign_in(code=code)
        secrets = [code, here.cookie.partition("=")[2], await bay.key()]
    assert said.getvalue().count(PATH) == 3
    assert [secret for secret in secrets if secret in said.getvalue()] == []


# Codes


async def test_a_code_signs_one_browser_in_as_the_one_who_asked(bay: World) -> None:
    reader = await bay.client("alice", "read")
    made = (await reader.post(CODES)).json()
    assert made["expires_at"] == to_rfc3339((bay.clock() + timedelta(seconds=CODE_S)).replace(microsecond=0))
    url = urlsplit(str(made["url"]))
    assert (url.scheme, url.netloc, url.path, url.query) == ("http", "bay", "/", "")
    assert url.fragment == f"code={made['code']}", "which no browser sends to a server"
    here, there = await browser(bay), await browser(bay)
    answer = await here.sign_in(code=made["code"])
    assert (answer.json()["owner"], answer.json()["scope"]) == ("alice", "read")
    error = assert_error(await there.sign_in(code=made["code"]), 401, "unauthorized")
    assert "`bay open`" in error["message"]
    assert (await here.ask("GET", "/v1/sandboxes")).status_code == 200


async def test_a_code_is_good_for_a_minute(bay: World, alice: httpx.AsyncClient) -> None:
    codes = [(await alice.post(CODES)).json()["code"] for _ in range(2)]
    here = await browser(bay)
    bay.clock.advance(CODE_S - 1)
    assert (await here.sign_in(code=codes[0])).status_code == 201
    bay.clock.advance(1)
    assert_error(await here.sign_in(code=codes[1]), 401, "unauthorized")


async def test_the_code_of_a_revoked_key_opens_nothing(bay: World, alice: httpx.AsyncClient) -> None:
    code = (await alice.post(CODES)).json()["code"]
    key_id = (await alice.get(PATH)).json()["key_id"]
    assert (await (await bay.client("root", "admin")).delete(f"/v1/keys/{key_id}")).status_code == 204
    assert_error(await (await browser(bay)).sign_in(code=code), 401, "unauthorized")


async def test_a_code_is_no_cookie_and_a_cookie_is_no_code(bay: World, alice: httpx.AsyncClient) -> None:
    code = (await alice.post(CODES)).json()["code"]
    here = await signed_in(bay)
    assert_error(await here.sign_in(code=here.cookie.partition("=")[2]), 401, "unauthorized")
    here.cookie = f"bay-console={code}"
    assert_error(await here.ask("GET", "/v1/sandboxes"), 401, "unauthorized")


async def test_the_links_and_cookies_of_ports_sign_nobody_in(bay: World, alice: httpx.AsyncClient) -> None:
    await create(alice, name="web")
    url = (await alice.post("/v1/sandboxes/web/ports/80/links", json={"once": True})).json()["url"]
    token = urlsplit(str(url)).query.removeprefix("token=").partition("&")[0]
    here = await browser(bay)
    assert_error(await here.sign_in(code=token), 401, "unauthorized")
    opened = await here.client.get(url)
    assert opened.status_code == 303
    for value in (token, opened.headers["set-cookie"].partition(";")[0].partition("=")[2]):
        here.cookie = f"bay-console={value}"
        assert_error(await here.ask("GET", "/v1/sandboxes"), 401, "unauthorized")


async def test_a_code_leads_to_the_public_address_of_a_bay_that_has_one(root: Path) -> None:
    async with world(root, public_url="https://bay.example.com") as bay:
        url = (await (await bay.client()).post(CODES)).json()["url"]
        assert url.startswith("https://bay.example.com/#code=")


# What a cookie opens


async def test_a_caller_by_cookie_is_an_ordinary_caller(bay: World) -> None:
    here, reader, root = (
        await signed_in(bay),
        await signed_in(bay, scope="read"),
        await signed_in(bay, "root", "admin"),
    )
    made = await here.ask("POST", "/v1/sandboxes", json={"name": "mine"})
    assert made.status_code == 201
    assert (await bay.record(made.json()["id"])).owner == "alice"
    assert (await reader.ask("GET", "/v1/sandboxes/mine")).status_code == 200
    assert_error(await reader.ask("DELETE", "/v1/sandboxes/mine"), 403, "forbidden")
    assert_error(await (await signed_in(bay, "bob")).ask("GET", "/v1/sandboxes/mine"), 404, "not_found")
    assert_error(await here.ask("GET", "/v1/keys"), 403, "forbidden")
    assert (await root.ask("GET", "/v1/keys")).status_code == 200


async def test_a_changed_or_invented_cookie_opens_nothing(bay: World) -> None:
    here = await signed_in(bay)
    value = here.cookie.partition("=")[2]
    for wrong in ("", "x", value[:-1], value + "A", value[::-1], "x" * 600, '"' + value + '"', "\u00e9" * 40):
        here.cookie = f"bay-console={wrong}"
        assert_error(await here.ask("GET", "/v1/sandboxes"), 401, "unauthorized")


async def test_a_wrong_key_is_not_made_up_for_by_a_cookie_and_a_right_one_wins(bay: World) -> None:
    here = await signed_in(bay)
    for wrong in ("Bearer bay_nothing", "Bearer ", "Basic YTpi", ""):
        answer = await here.ask("GET", "/v1/sandboxes", {**OURS, "Authorization": wrong})
        assert_error(answer, 401, "unauthorized")
    as_bob = {**OURS, "Authorization": f"Bearer {await bay.key('bob')}"}
    assert (await here.ask("GET", PATH, as_bob)).json()["owner"] == "bob"
    del as_bob["Bay-Console"]
    assert (await here.ask("GET", PATH, as_bob)).json()["owner"] == "bob"


@pytest.mark.parametrize("path", ["/e2b/sandboxes", "/v1/sprites", "/mcp"])
async def test_the_cookie_opens_no_foreign_format(bay: World, path: str) -> None:
    assert (await (await signed_in(bay)).ask("GET", path)).status_code == 401


# A stranger's page, which has the browser send the cookie along


@pytest.mark.parametrize("headers", [{}, {"Bay-Console": "0"}, {"Bay-Console": ""}, {"X-Bay-Console": "1"}])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", "/v1/sandboxes"), ("POST", "/v1/sandboxes"), ("GET", "/v1/events"), ("GET", "/metrics")),
        *(("GET", PATH), ("POST", CODES), ("DELETE", "/v1/keys/x"), ("GET", "/v1/sandboxes/x/ports/80/")),
    ],
)
async def test_a_cookie_without_the_header_of_the_console_opens_nothing(
    bay: World, method: str, path: str, headers: Json
) -> None:
    error = assert_error(
        await (await signed_in(bay, "root", "admin")).ask(method, path, headers), 401, "unauthorized"
    )
    assert "Bay-Console: 1" in error["message"]


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_a_strangers_page_can_sign_nobody_in_or_out(bay: World, method: str) -> None:
    here = await browser(bay)
    for cookie in ("", (await signed_in(bay)).cookie):
        here.cookie = cookie
        answer = await here.ask(
            method, PATH, {"Content-Type": "text/plain"}, content=json.dumps({"key": await bay.key()})
        )
        assert_error(answer, 401, "unauthorized")
        assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/v1/sandboxes", PATH, CODES, "/v1/sandboxes/x/ports/80/", "/", "/console/assets/x.js"]
)
async def test_no_preflight_is_answered_so_no_other_origin_sends_the_header(bay: World, path: str) -> None:
    here = await signed_in(bay)
    for cookie in (here.cookie, ""):
        here.cookie = cookie
        asks = {
            "Origin": "http://8000-x.localhost:8700",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "bay-console",
        }
        answer = await here.ask("OPTIONS", path, asks)
        assert answer.status_code in (401, 405)
        assert [name for name in answer.headers if name.startswith("access-control")] == []


async def test_of_two_cookies_of_that_name_neither_is_believed(bay: World) -> None:
    here, other = await signed_in(bay), await signed_in(bay, "bob")
    mine = here.cookie
    for both in (
        f"{mine}; {other.cookie}",
        f"{other.cookie}; a=b; {mine}",
        f"{mine};{mine}",
        f"{mine}; bay-console=",
    ):
        here.cookie = both
        error = assert_error(await here.ask("GET", "/v1/sandboxes"), 400, "validation_error")
        assert "2 cookies named bay-console" in error["message"]
        assert mine.partition("=")[2] not in error["message"]


async def test_a_second_header_line_is_a_second_cookie(bay: World) -> None:
    mine = (await signed_in(bay)).cookie
    client = await bay.open_client()
    client.cookies.clear()
    lines = [("Cookie", mine), ("Cookie", mine), ("Bay-Console", "1")]
    assert_error(await client.get("/v1/sandboxes", headers=lines), 400, "validation_error")


@pytest.mark.parametrize(
    "origin",
    [
        *(
            None,
            "null",
            "http://8000-x.bay",
            "http://bay:81",
            "http://bay.example.com",
            "http://bay@evil.com",
        ),
        *("bay", "://bay", "http://", "http://bay/", "http://bay bay"),
    ],
)
async def test_a_strangers_page_opens_no_websocket(bay: World, origin: str | None) -> None:
    here = await signed_in(bay)
    await here.ask("POST", "/v1/sandboxes", json={"name": "box"})
    headers = {"Cookie": here.cookie, **OURS, **({} if origin is None else {"Origin": origin})}
    status, body, _ = await ask_in_process(bay.app, "/v1/sandboxes/box/files/watch", headers)
    assert (status, json.loads(body)["error"]["code"]) == (401, "unauthorized")


@pytest.mark.parametrize("origin", ["http://bay", "https://bay", "https://console.example.com"])
async def test_the_consoles_own_page_opens_websockets(root: Path, origin: str) -> None:
    """Also where a proxy took the TLS away, or changed the host."""
    async with world(root, public_url="https://console.example.com:443") as bay:
        here = await signed_in(bay)
        headers = {"Cookie": here.cookie, "Origin": origin}
        status, body, _ = await ask_in_process(bay.app, "/v1/sandboxes/none/files/watch", headers)
        assert (status, json.loads(body)["error"]["code"]) == (404, "not_found"), "it was let in"
        del headers["Cookie"]
        status, _, _ = await ask_in_process(bay.app, "/v1/sandboxes/none/files/watch", headers)
        assert status == 401


# An app in a sandbox


@pytest.mark.parametrize("by", ["host", "path"])
async def test_an_app_neither_sees_nor_sets_the_consoles_cookie(bay: World, by: str) -> None:
    async def try_it(call: Call) -> None:
        await call.answer(
            b"hello",
            "Set-Cookie: bay-console=evil; Path=/",
            "Set-Cookie: __Host-bay-console=evil",
            "Set-Cookie: mine=1",
        )

    async with app(try_it) as made:
        here = await signed_in(bay)
        await here.ask("POST", "/v1/sandboxes", json={"name": "web"})
        secret = here.cookie.partition("=")[2]
        if by == "path":
            answer = await here.ask("GET", f"/v1/sandboxes/web/ports/{made.port}/")
            assert answer.headers["content-security-policy"] == SANDBOXED.decode()
        else:
            headers = {
                "Host": f"{made.port}-web.localhost:8700",
                "Authorization": f"Bearer {await bay.key()}",
                **OURS,
            }
            answer = await here.ask("GET", "/", headers)
        assert (answer.status_code, answer.text) == (200, "hello")
        assert [value.partition(";")[0] for value in answer.headers.get_list("set-cookie")] == ["mine=1"]
        (call,) = made.calls
        assert not call.has(secret)
        assert not call.has("bay-console=")


async def test_the_consoles_cookie_opens_no_port_by_its_host(bay: World) -> None:
    async with app() as made:
        here = await signed_in(bay)
        await here.ask("POST", "/v1/sandboxes", json={"name": "web"})
        for name in ("bay-console", "__Host-bay-console", "bay-port", "__Host-bay-port"):
            sent = Browser(here.client, f"{name}={here.cookie.partition('=')[2]}")
            headers = {"Host": f"{made.port}-web.localhost:8700", **OURS}
            assert_error(await sent.ask("GET", "/", headers), 401, "unauthorized")
        assert made.calls == []


async def test_the_page_of_an_app_cannot_call_the_api_with_the_consoles_cookie(bay: World) -> None:
    """Its browser sends the cookie where both are of one site, and the header to its own host alone."""
    here = await signed_in(bay)
    await here.ask("POST", "/v1/sandboxes", json={"name": "web"})
    page = {"Origin": "http://8000-web.localhost:8700", "Sec-Fetch-Site": "same-site"}
    for method, path in (
        ("GET", "/v1/sandboxes"),
        ("POST", "/v1/sandboxes"),
        ("DELETE", "/v1/sandboxes/web"),
    ):
        assert_error(await here.ask(method, path, page), 401, "unauthorized")
    for origin in (page["Origin"], "null"):  # by its host, and by path, where it is of no origin
        headers = {"Cookie": here.cookie, "Origin": origin}
        status, _, _ = await ask_in_process(bay.app, "/v1/sandboxes/web/terminal", headers)
        assert status == 401
    assert len((await here.ask("GET", "/v1/sandboxes")).json()["items"]) == 1
