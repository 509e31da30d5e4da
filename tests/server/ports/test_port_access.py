"""Who reaches a port: by key, by link and cookie, or because it is public; and what nobody gets to see."""

import base64
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from port_apps import App, Call, app, listen
from server_harness import Json, World, assert_error, clear, create, world

from bay.errors import Unauthorized
from bay.server.ports.gate import PortHosts

pytestmark = pytest.mark.anyio

OWN_PAGE = {"Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True, slots=True)
class Place:
    """alice's sandbox with an app, and clients of all kinds."""

    bay: World
    alice: httpx.AsyncClient
    anybody: httpx.AsyncClient
    app: App
    box: Json

    @property
    def host(self) -> str:
        return f"{self.app.port}-web.localhost:8700"

    async def get(self, client: httpx.AsyncClient, path: str = "/", **headers: str) -> httpx.Response:
        return await self.ask(client, "GET", path, headers)

    async def ask(
        self,
        client: httpx.AsyncClient,
        method: str,
        path: str,
        headers: dict[str, str],
        host: str | None = None,
    ) -> httpx.Response:
        client.cookies.clear()
        return await client.request(method, path, headers={"Host": host or self.host, **headers})

    async def share(self, access: str = "public") -> None:
        answer = await self.alice.put(f"/v1/sandboxes/web/ports/{self.app.port}", json={"access": access})
        assert answer.json() == {"port": self.app.port, "access": access}

    async def link(self, client: httpx.AsyncClient | None = None, **body: object) -> str:
        """Path and query of a new link."""
        answer = await (client or self.alice).post(
            f"/v1/sandboxes/web/ports/{self.app.port}/links", json=body
        )
        assert answer.status_code == 201, answer.text
        url = urlsplit(str(answer.json()["url"]))
        assert url.netloc == self.host
        return f"{url.path}?{url.query}"

    async def cookie(self, link: str | None = None) -> str:
        """The cookie that a link sets."""
        answer = await self.get(self.anybody, link or await self.link())
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        return answer.headers["set-cookie"].partition(";")[0]


@pytest.fixture
async def place(bay: World, alice: httpx.AsyncClient) -> AsyncGenerator[Place]:
    box = await create(alice, name="web")
    async with app() as made:
        yield Place(bay, alice, await bay.open_client(), made, box)


async def test_the_owners_key_opens_a_port_by_name_and_by_id(place: Place) -> None:
    for sandbox in ("web", place.box["id"]):
        answer = await place.ask(
            place.alice, "GET", "/x?y=1", {}, f"{place.app.port}-{sandbox}.localhost:8700"
        )
        assert (answer.status_code, answer.text) == (200, "hello")
    assert [call.line for call in place.app.calls] == ["GET /x?y=1 HTTP/1.1"] * 2


async def test_the_key_is_not_shown_to_the_app(place: Place) -> None:
    secret = await place.bay.key("alice")
    await place.get(place.alice)
    await place.share()
    bob = await place.bay.client("bob")
    assert (await place.get(bob)).status_code == 200  # another's key, with which he is anybody
    assert (await place.get(place.anybody, Authorization="Bearer bay_" + "x" * 43)).status_code == 200
    for call in place.app.calls:
        assert not call.has("authorization")
        assert not call.has(secret)
    assert (await place.get(place.anybody, Authorization="Bearer for-the-app")).status_code == 200
    assert place.app.calls[-1].all("authorization") == ["Bearer for-the-app"]


async def test_no_key_is_shown_to_the_app_wherever_it_is_sent(root: Path) -> None:
    """Not even one that was chosen, and changed since: somebody may still send it."""
    before, now = "the first key that was chosen", "the second key that was chosen"
    try:
        async with world(root, api_key=before):
            pass
        async with world(root, api_key=now) as bay, app() as made:
            alice = await bay.client("alice")
            await create(alice, name="web")
            access = {"access": "public"}
            assert (await alice.put(f"/v1/sandboxes/web/ports/{made.port}", json=access)).status_code == 200
            place = Place(bay, alice, await bay.open_client(), made, {})
            for secret in (before, now, await bay.key("alice")):
                basic = base64.b64encode(f"bay:{secret}".encode()).decode()
                for headers in (
                    {"X-Api-Key": secret},
                    {"Authorization": f"Basic {basic}"},
                    {"X-A": f"Key {secret}"},
                ):
                    answer = await place.ask(place.anybody, "GET", "/", headers)
                    assert answer.status_code == 200
                    assert not made.calls[-1].has(secret)
                    assert not made.calls[-1].has(basic)
        async with world(root, api_key=before) as bay:  # one that is given again is good again
            assert bay.bay.keys.authenticate(f"Bearer {before}").scope == "admin"
            with pytest.raises(Unauthorized):
                bay.bay.keys.authenticate(f"Bearer {now}")
    finally:
        await clear(root)


async def test_strangers_see_no_difference_between_what_is_closed_and_what_is_not_there(place: Place) -> None:
    bob = await place.bay.client("bob")
    hosts = [
        place.host,
        "1-web.localhost:8700",
        "8000-nobody.localhost:8700",
        "web.localhost:8700",
        "x.localhost",
    ]
    for client, status in ((place.anybody, 401), (bob, 404)):
        found = [await place.ask(client, "GET", "/", {"X-Request-Id": "r"}, host) for host in hosts]
        assert [answer.status_code for answer in found] == [status] * len(hosts)
        assert len({answer.text for answer in found}) == 1
    assert place.app.calls == []


async def test_a_public_port_is_everybodys_and_forgetting_that_closes_it(place: Place) -> None:
    await place.share()
    assert (await place.get(place.anybody)).text == "hello"
    assert (await place.ask(place.anybody, "GET", "/", {}, "web.localhost:8700")).status_code == 401
    for _ in range(2):
        path = f"/v1/sandboxes/web/ports/{place.app.port}"
        assert (await place.alice.delete(path)).status_code == 204
    assert (await place.get(place.anybody)).status_code == 401


async def test_a_read_key_looks_and_changes_nothing(place: Place) -> None:
    reader = await place.bay.client("alice", "read")
    assert (await place.get(reader)).status_code == 200
    assert_error(await place.ask(reader, "POST", "/", {}), 403, "forbidden")
    below = f"/v1/sandboxes/web/ports/{place.app.port}/"
    assert (await reader.get(below)).status_code == 200
    assert (await reader.delete(below)).status_code == 403
    assert (await reader.post(f"{below}links", json={})).status_code == 403
    assert len(place.app.calls) == 2


async def test_a_sandboxs_own_url_leads_to_the_port_of_its_setting(place: Place) -> None:
    setting = {"port": place.app.port, "access": "public"}
    answer = await place.alice.patch("/v1/sandboxes/web", json={"url": setting})
    assert answer.json()["url"] == {"href": "http://web.localhost:8700/", **setting}
    assert (await place.ask(place.anybody, "GET", "/", {}, "web.localhost:8700")).text == "hello"
    assert (await place.get(place.anybody)).status_code == 401  # which is another setting's
    assert (await place.alice.patch("/v1/sandboxes/web", json={"url": None})).json()["url"] is None
    assert (await place.ask(place.alice, "GET", "/", {}, "web.localhost:8700")).status_code == 404


async def test_settings_of_ports_come_with_the_create_and_are_checked(alice: httpx.AsyncClient) -> None:
    ports = [{"port": 80, "access": "public"}, {"port": 81, "access": "owner"}]
    made = await create(alice, url={"port": 80}, ports=ports)
    assert made["ports"] == ports
    assert made["url"] == {"href": f"http://{made['id']}.localhost:8700/", "port": 80, "access": "owner"}
    for body in (
        {"ports": [ports[0], ports[0]]},
        {"ports": [{"port": 0}]},
        {"ports": [{"port": 80, "acess": "public"}]},
        {"ports": [{"port": 80, "access": "all"}]},
        {"url": {"port": 65536}},
        {"ports": [{"port": n} for n in range(1, 66)]},
    ):
        assert (await alice.post("/v1/sandboxes", json=body)).status_code == 422
    for n in range(100, 162):
        assert (
            await alice.put(f"/v1/sandboxes/{made['id']}/ports/{n}", json={"access": "public"})
        ).status_code == 200
    assert (
        await alice.put(f"/v1/sandboxes/{made['id']}/ports/9", json={"access": "public"})
    ).status_code == 400
    fork = (await alice.post(f"/v1/sandboxes/{made['id']}/fork", json={})).json()["items"][0]
    assert (len(fork["ports"]), fork["url"]["port"]) == (64, 80)
    assert {reached["access"] for reached in (*fork["ports"], fork["url"])} == {"owner"}


async def test_a_name_is_the_host_of_who_had_it_first(place: Place) -> None:
    bob = await place.bay.client("bob")
    await place.share()
    his = await create(bob, name="web", url={"port": 1}, ports=[{"port": place.app.port, "access": "public"}])
    assert his["url"]["href"] == f"http://{his['id']}.localhost:8700/"
    assert (await place.get(bob)).status_code == 200  # of alice's, as for anybody
    assert place.app.calls[-1].all("host") == [place.host]
    await place.share("owner")
    assert (await place.get(bob)).status_code == 404
    mine = await create(bob, name="other")
    renamed = (
        await bob.patch(f"/v1/sandboxes/{mine['id']}", json={"url": {"port": 1}, "name": "third"})
    ).json()
    assert renamed["url"]["href"] == "http://third.localhost:8700/"
    await place.alice.delete("/v1/sandboxes/web")
    assert (await place.get(place.anybody)).status_code == 401  # nobody inherits a name in passing
    again = (await bob.patch(f"/v1/sandboxes/{his['id']}", json={"name": "web"})).json()
    assert again["url"]["href"] == "http://web.localhost:8700/"


async def test_a_link_sets_a_cookie_that_opens_the_port(place: Place) -> None:
    answer = await place.get(place.anybody, await place.link(expires_in=60))
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert answer.headers["referrer-policy"] == "no-referrer"
    name, *attributes = answer.headers["set-cookie"].split("; ")
    assert name.startswith("bay-port=")
    assert attributes == ["Path=/", "Max-Age=60", "HttpOnly", "SameSite=Lax"]
    assert (await place.get(place.anybody, Cookie=f"a=1; {name}; b=2")).text == "hello"
    assert place.app.calls[-1].all("cookie") == ["a=1; b=2"]
    assert not place.app.calls[-1].has("bay-port")


async def test_a_link_that_opens_once_opens_once(place: Place) -> None:
    link = await place.link(once=True)
    assert (await place.ask(place.anybody, "HEAD", link, {})).status_code == 405  # a look does not open it
    cookie = await place.cookie(link)
    assert (await place.get(place.anybody, link)).status_code == 401
    again = await place.get(place.anybody, link, Cookie=cookie)
    assert (again.status_code, again.headers["location"]) == (
        303,
        "/",
    )  # the `back` button of whoever opened it
    assert "set-cookie" not in again.headers
    assert (await place.get(place.anybody, Cookie=cookie)).status_code == 200


async def test_whoever_has_a_link_is_not_told_what_else_listens(place: Place) -> None:
    place.bay.bay.port_proxy.wait_s = 0.05
    await place.get(place.alice)
    made = (await place.alice.post("/v1/sandboxes/web/ports/9/links")).json()["url"]
    link = urlsplit(str(made))
    asked = f"{link.path}?{link.query}"
    opened = await place.ask(place.anybody, "GET", asked, {}, link.netloc)
    cookie = opened.headers["set-cookie"].partition(";")[0]
    answer = await place.ask(place.anybody, "GET", "/", {"Cookie": cookie}, link.netloc)
    assert_error(answer, 502, "port_closed")
    assert "details" not in answer.json()["error"]


async def test_links_and_cookies_end_with_their_time(place: Place) -> None:
    link = await place.link(expires_in=60)
    cookie = await place.cookie(link)
    place.bay.clock.advance(61)
    assert (await place.get(place.anybody, link)).status_code == 401
    assert (await place.get(place.anybody, Cookie=cookie)).status_code == 401


async def test_links_and_cookies_end_with_their_key(place: Place) -> None:
    admin = await place.bay.client("admin", "admin")
    made = (await admin.post("/v1/keys", json={"name": "k", "owner": "alice"})).json()
    client = await place.bay.open_client({"Authorization": f"Bearer {made['secret']}"})
    link = await place.link(client)
    cookie = await place.cookie(link)
    assert (await place.get(place.anybody, Cookie=cookie)).status_code == 200
    await admin.delete(f"/v1/keys/{made['id']}")
    assert (await place.get(place.anybody, Cookie=cookie)).status_code == 401
    assert (await place.get(place.anybody, link)).status_code == 401


async def test_links_and_cookies_open_one_port_of_one_sandbox(place: Place) -> None:
    other = await create(place.alice, name="other")
    link = await place.link()
    cookie = await place.cookie(link)
    hosts = (
        f"{place.app.port}-other.localhost:8700", f"{place.app.port}-{other['id']}.localhost:8700",
        f"{place.app.port + 1}-web.localhost:8700", "web.localhost:8700",
    )  # fmt: skip
    for host in hosts:
        assert (await place.ask(place.anybody, "GET", link, {}, host)).status_code == 401
        assert (await place.ask(place.anybody, "GET", "/", {"Cookie": cookie}, host)).status_code == 401
    token = cookie.partition("=")[2]
    assert (await place.get(place.anybody, f"/.bay/open?token={token}")).status_code == 401
    linked = link.partition("token=")[2].partition("&")[0]
    assert (await place.get(place.anybody, Cookie=f"bay-port={linked}")).status_code == 401
    assert (await place.anybody.get("/v1/sandboxes", headers={"Cookie": cookie})).status_code == 401
    assert place.app.calls == []


@pytest.mark.parametrize(
    ("to", "location"),
    [
        ("/a/b?c=d%26e#f", "/a/b?c=d%26e#f"),
        ("//evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example/", "/"),
        ("/.bay/open?token=x", "/"),
        ("/\t/evil.example", "/%09/evil.example"),
        ("/x\r\nSet-Cookie: a=b", "/x%0D%0ASet-Cookie:%20a=b"),
        ("javascript:alert(1)", "/"),
        ("/é", "/%C3%A9"),
        ("", "/"),
    ],
)
async def test_a_link_leads_to_a_path_of_the_same_host(place: Place, to: str, location: str) -> None:
    link = (await place.link()).partition("&to=")[0]
    answer = await place.anybody.get(
        link, params={"token": link.partition("token=")[2], "to": to}, headers={"Host": place.host}
    )
    assert (answer.status_code, answer.headers["location"]) == (303, location)


async def test_what_is_bays_own_path_never_gets_to_the_app(place: Place) -> None:
    for path in ("/.bay/", "/.bay/other", "/%2ebay/open", "/.bay/open?token=x"):
        assert (await place.get(place.alice, path)).status_code in (401, 404)
    assert place.app.calls == []


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("GET", {"Sec-Fetch-Site": "none"}, 200),
        ("GET", {"Sec-Fetch-Site": "same-origin"}, 200),
        (
            "GET",
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
            200,
        ),
        (
            "GET",
            {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
            200,
        ),
        (
            "POST",
            {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
            403,
        ),
        (
            "GET",
            {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "object"},
            403,
        ),
        (
            "GET",
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "iframe"},
            403,
        ),
        (
            "GET",
            {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
            403,
        ),
        (
            "GET",
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
            403,
        ),
        ("GET", {"Sec-Fetch-Site": "same-site", "Origin": "http://evil.localhost:8700"}, 403),
        ("GET", {"Origin": "null"}, 403),
        ("GET", {"Origin": "http://["}, 403),
        ("POST", {}, 403),
        ("POST", {"Sec-Fetch-Site": "same-origin"}, 200),
        ("POST", {"Sec-Fetch-Site": "same-origin", "Origin": "http://OWN"}, 200),
        ("POST", {"Origin": "http://OWN"}, 200),
        ("POST", {"Origin": "https://OWN"}, 403),
        ("POST", {"Origin": "http://1-web.localhost:8700"}, 200),
        ("POST", {"Origin": "http://1-web.localhost:8701"}, 403),
        ("POST", {"Origin": "http://1-web.localhost"}, 403),
        ("POST", {"Origin": "http://1-other.localhost:8700"}, 403),
        ("POST", {"Origin": "http://localhost:8700"}, 403),
        ("POST", {"Origin": "null"}, 403),
        (
            "POST",
            {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
            403,
        ),
        ("POST", {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403),
        ("DELETE", {"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_a_cookie_opens_to_the_hosts_own_pages_and_to_clicks_alone(
    place: Place, method: str, headers: dict[str, str], status: int
) -> None:
    await create(place.alice, name="other")
    cookie = await place.cookie()
    sent = {name: value.replace("OWN", place.host) for name, value in headers.items()}
    answer = await place.ask(place.anybody, method, "/", {"Cookie": cookie, **sent})
    assert answer.status_code == status, answer.text
    assert len(place.app.calls) == (status == 200)
    # A key is not sent by itself, and a public port is nobody's in particular.
    assert (await place.ask(place.alice, method, "/", sent)).status_code == 200
    await place.share()
    assert (await place.ask(place.anybody, method, "/", sent)).status_code == 200


IN_FRAME = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
POLICY = "content-security-policy"


@pytest.mark.parametrize("site", ["same-site", "cross-site"])
async def test_a_browser_shows_an_app_in_a_frame_of_the_console_alone(place: Place, site: str) -> None:
    cookie = await place.cookie()

    async def strict(call: Call) -> None:
        await call.answer(b"hello", "Content-Security-Policy: default-src 'self'", "X-Frame-Options: DENY")

    place.app.act = strict
    answer = await place.get(place.anybody, Cookie=cookie, **{**IN_FRAME, "Sec-Fetch-Site": site})
    consoles = "frame-ancestors http://localhost:8700 http://127.0.0.1:8700"
    assert answer.headers.get_list(POLICY) == ["default-src 'self'", consoles]
    assert answer.headers["x-frame-options"] == "DENY", "which is the app's to say"
    # A frame of the app's own has no limit of Bay's, nor a click, nor what needs no cookie.
    own = {**IN_FRAME, "Sec-Fetch-Site": "same-origin"}
    click = {**IN_FRAME, "Sec-Fetch-Dest": "document"}
    for headers in (own, click):
        alone = await place.get(place.anybody, Cookie=cookie, **headers)
        assert alone.headers.get_list(POLICY) == ["default-src 'self'"]
    assert (await place.get(place.alice, **IN_FRAME)).headers.get_list(POLICY) == ["default-src 'self'"]
    await place.share()
    assert (await place.get(place.anybody, **IN_FRAME)).headers.get_list(POLICY) == ["default-src 'self'"]


async def test_a_link_that_is_opened_in_a_frame_gives_a_cookie_for_that_page_alone(place: Place) -> None:
    answer = await place.get(place.anybody, await place.link(expires_in=60), **IN_FRAME)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    name, _, attributes = answer.headers["set-cookie"].partition("; ")
    assert attributes == "Path=/; Max-Age=60; HttpOnly; SameSite=None; Secure; Partitioned"
    assert (await place.get(place.anybody, Cookie=name, **IN_FRAME)).text == "hello"


def test_behind_a_public_address_the_console_there_may_have_the_frame() -> None:
    assert PortHosts("https://bay.example.com", "127.0.0.1", 8700).consoles == (
        "https://bay.example.com http://localhost:8700 http://127.0.0.1:8700"
    )
    assert PortHosts("http://127.0.0.1:9000", "127.0.0.1", 8700).consoles == (
        "http://127.0.0.1:9000 http://localhost:9000"
    )


@pytest.mark.parametrize("host", ["evil.example", "8000-web.evil.example", "localhost.evil.example:8700"])
async def test_hosts_of_strangers_get_nothing_of_bay(place: Place, host: str) -> None:
    for path in ("/health", "/docs", "/v1/sandboxes", "/.bay/open"):
        assert_error(await place.ask(place.alice, "GET", path, {}, host), 400, "validation_error")


async def test_the_api_is_not_at_the_host_of_a_port(place: Place) -> None:
    assert (await place.get(place.alice, "/v1/sandboxes")).text == "hello"
    assert (await place.get(place.anybody, "/health")).status_code == 401


async def test_a_browser_gets_a_page_and_a_program_the_error(place: Place) -> None:
    page = await place.get(place.anybody, Accept="text/html,*/*")
    assert page.status_code == 401
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    assert "<script" not in page.text
    assert_error(await place.get(place.anybody), 401, "unauthorized")


async def test_the_public_url_makes_secure_cookies_and_links(place: Place) -> None:
    hosts = type(place.bay.bay.hosts)("https://bay.example.com", "127.0.0.1", 8700)
    for part in ("_domains", "_public", "_public_scheme", "_public_port"):
        setattr(place.bay.bay.hosts, part, getattr(hosts, part))
    link = (await place.alice.post(f"/v1/sandboxes/web/ports/{place.app.port}/links")).json()["url"]
    host = f"{place.app.port}-web.bay.example.com"
    assert link.startswith(f"https://{host}/.bay/open?token=")
    answer = await place.ask(place.anybody, "GET", link.removeprefix(f"https://{host}"), {}, host)
    name, *attributes = answer.headers["set-cookie"].split("; ")
    assert name.startswith("__Host-bay-port=")
    assert {"Secure", "HttpOnly", "Path=/"} <= set(attributes)
    assert (await place.ask(place.anybody, "GET", "/", {"Cookie": name}, host)).status_code == 200
    assert place.app.calls[-1].all("x-forwarded-proto") == ["https"]
    assert place.app.calls[-1].all("x-forwarded-port") == ["443"]
    assert not place.app.calls[-1].has("bay-port")


async def test_by_path_the_owners_key_reaches_an_app_that_is_of_no_origin(place: Place) -> None:
    async def act(call: Call) -> None:
        await call.answer(b"x", "Set-Cookie: a=1; Path=/; Domain=bay", "Location: /next", "X-App: 1")

    place.app.act = act
    below = f"/v1/sandboxes/web/ports/{place.app.port}"
    answer = await place.alice.request("PATCH", f"{below}/a%2Fb/?c=%20d")
    assert place.app.calls[-1].line == "PATCH /a%2Fb/?c=%20d HTTP/1.1"
    assert place.app.calls[-1].all("x-forwarded-prefix") == [below]
    assert not place.app.calls[-1].has("authorization")
    assert answer.headers["content-security-policy"].startswith("sandbox ")
    assert "allow-same-origin" not in answer.headers["content-security-policy"]
    assert answer.headers["set-cookie"] == f"a=1; Path={below}"
    assert answer.headers["location"] == f"{below}/next"
    assert answer.headers["x-request-id"]
    assert (await place.anybody.get(f"{below}/")).status_code == 401
    bob = await place.bay.client("bob")
    for sandbox in ("web", place.box["id"]):
        assert_error(await bob.get(f"/v1/sandboxes/{sandbox}/ports/{place.app.port}/"), 404, "not_found")
    assert_error(await place.alice.get("/v1/sandboxes/web/ports/99999/"), 400, "validation_error")


async def test_what_listens_is_listed_with_who_may_reach_it(place: Place) -> None:
    assert (await place.alice.get("/v1/sandboxes/web/ports")).json() == {"items": []}  # it does not run
    _, port = await listen(place.alice, "web")
    await place.alice.put(f"/v1/sandboxes/web/ports/{port}", json={"access": "public"})
    (found,) = (await place.alice.get("/v1/sandboxes/web/ports")).json()["items"]
    assert (found["port"], found["addresses"], found["access"]) == (port, ["127.0.0.1"], "public")
    assert found["url"] == f"http://{port}-web.localhost:8700/"


@pytest.mark.parametrize("body", [{"expires_in": 0}, {"expires_in": 2592001}, {"once": 3}, {"port": 1}])
async def test_a_link_is_asked_for_in_the_right_form(place: Place, body: Json) -> None:
    answer = await place.alice.post(f"/v1/sandboxes/web/ports/{place.app.port}/links", json=body)
    assert answer.status_code == 422


async def test_an_expired_sandbox_is_not_reached(bay: World, alice: httpx.AsyncClient) -> None:
    box = await create(alice, ttl=10)
    bay.clock.advance(11)
    answer = await alice.get("/", headers={"Host": f"80-{box['id']}.localhost"})
    assert_error(answer, 409, "sandbox_expired")
    assert (
        await alice.put(f"/v1/sandboxes/{box['id']}/ports/80", json={"access": "public"})
    ).status_code == 409
