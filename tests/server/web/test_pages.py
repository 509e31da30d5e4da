"""Bay's own pages: who gets them, and that they bring nothing of another host."""

import gzip
import re
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest
from server_harness import World, assert_error
from starlette.datastructures import Headers

from bay.server.ports.gate import PortHosts
from bay.server.web.console_page import ConsolePage
from bay.server.web.page_routes import FILES, HEADERS
from bay.server.web.static_site import StaticSite

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

BROWSER = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
def consoleless(bay: World, tmp_path: Path) -> World:
    """A Bay that was started without its console."""
    bay.app.state.console = ConsolePage(StaticSite(tmp_path / "nothing"), lambda: "", HEADERS)
    return bay


async def test_a_browser_is_told_what_this_is_and_a_program_that_it_needs_a_key(consoleless: World) -> None:
    anybody = await consoleless.open_client()
    answer = await anybody.get("/", headers=BROWSER)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert 'href="/docs/"' in answer.text
    assert "BAY_API_KEY" in answer.text
    assert "<code>make console</code>" in answer.text
    assert_error(await anybody.get("/console/sandboxes", headers=BROWSER), 404, "not_found")
    assert_error(await anybody.get("/"), 401, "unauthorized")
    assert_error(await anybody.post("/", headers=BROWSER), 401, "unauthorized")
    assert_error(await anybody.get("/v1/sandboxes", headers=BROWSER), 401, "unauthorized")


async def test_a_host_that_is_no_host_is_not_written_into_the_page(consoleless: World) -> None:
    answer = await (await consoleless.open_client()).get("/", headers={**BROWSER, "Host": "<script>"})
    assert "<script>" not in answer.text


@pytest.mark.parametrize("path", ["/", "/docs/api", "/docs/api/read"])
async def test_pages_load_from_here_alone_and_stand_in_no_frame(consoleless: World, path: str) -> None:
    anybody = await consoleless.open_client()
    answer = await anybody.get(path, headers=BROWSER)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy
    assert ("unsafe-inline" in policy) == (path == "/docs/api/read"), "where no key is typed"
    assert "style-src" not in policy or "script-src" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    for used in re.findall(r'(?:src|href)="([^"]*)"', answer.text):
        assert used.startswith("/"), used
        assert (await anybody.get(used)).status_code == 200, used
    assert not re.search(r"<script(?! src=)", answer.text)


async def test_files_of_pages_are_those_and_no_others(bay: World, alice: httpx.AsyncClient) -> None:
    anybody = await bay.open_client()
    for name in FILES:
        assert (await anybody.get(f"/docs/api/{name}")).headers["x-content-type-options"] == "nosniff"
    for name in ("pages.py", "..%2fpages.py", "%2e%2e/%2e%2e/etc/passwd"):
        for client in (anybody, alice):
            assert (await client.get(f"/docs/api/{name}")).status_code == 404


@pytest.mark.parametrize(("old", "new"), [("/docs", "/docs/"), ("/redoc", "/docs/api/read")])
async def test_old_addresses_lead_to_what_they_were_for(bay: World, old: str, new: str) -> None:
    answer = await (await bay.open_client()).get(old)
    assert (answer.status_code, answer.headers["location"]) == (307, new)


@pytest.fixture
def site(bay: World, tmp_path: Path) -> Path:
    """The files of a documentation, which this Bay has."""
    folder = tmp_path / "site"
    (folder / "search").mkdir(parents=True)
    (folder / "index.html").write_text("<p>the first page")
    (folder / "ports.html").write_text("<p>ports")
    (folder / "search/index.json").write_text("[]")
    (folder / "notes.py").write_text("not a page")
    (tmp_path / "secret.html").write_text("beside it")
    bay.app.state.doc_site = StaticSite(folder)
    return folder


@pytest.mark.parametrize(
    ("path", "type_", "text"),
    [
        ("/docs/", "text/html; charset=utf-8", "<p>the first page"),
        ("/docs/index.html", "text/html; charset=utf-8", "<p>the first page"),
        ("/docs/ports.html", "text/html; charset=utf-8", "<p>ports"),
        ("/docs/search/index.json", "application/json", "[]"),
    ],
)
@pytest.mark.usefixtures("site")
async def test_anybody_reads_the_documentation(bay: World, path: str, type_: str, text: str) -> None:
    anybody = await bay.open_client()
    answer = await anybody.get(path)
    assert (answer.status_code, answer.headers["content-type"], answer.text) == (200, type_, text)
    assert answer.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]
    head = await anybody.head(path)
    assert (head.status_code, head.text) == (200, "")
    assert [head.headers[n] for n in ("etag", "content-length")] == [answer.headers["etag"], str(len(text))]
    again = await anybody.get(path, headers={"If-None-Match": f'"x", W/{answer.headers["etag"]}'})
    assert (again.status_code, again.text) == (304, "")


@pytest.mark.parametrize(
    "name",
    [
        *("nothing.html", "notes.py", "search", "search/", "/ports.html", "ports.html/", "ports.html%00"),
        *("..%2fsecret.html", "%2e%2e%2fsecret.html", "search%2f..%2fports.html", "%ff"),
    ],
)
@pytest.mark.usefixtures("site")
async def test_nothing_but_the_files_of_the_documentation_is_served(bay: World, name: str) -> None:
    anybody = await bay.open_client()
    assert_error(await anybody.get(f"/docs/{name}"), 404, "not_found")
    page = await anybody.get(f"/docs/{name}", headers=BROWSER)
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "no such page" in page.text
    site: StaticSite = bay.app.state.doc_site
    assert await site.answer(unquote(name), Headers(), {}) is None, "as a client that normalizes nothing asks"


@pytest.mark.usefixtures("site")
async def test_the_documentation_is_only_read(bay: World) -> None:
    assert_error(await (await bay.client()).post("/docs/ports.html"), 405, "method_not_allowed")


PACKED = "<p>packed " * 100


@pytest.fixture
def large(bay: World, site: Path) -> Path:
    """The file of a page that is packed."""
    path = site / "large.html.gz"
    path.write_bytes(gzip.compress(PACKED.encode()))
    bay.app.state.doc_site = StaticSite(site)
    return path


@pytest.mark.parametrize(
    ("takes", "is_packed"),
    [
        *(
            ("gzip", True),
            ("gzip, deflate, br", True),
            ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
            ("GZIP", True),
        ),
        *(("", False), ("identity", False), ("br", False), ("gzip;q=0", False), ("br, gzip; q=0.0", False)),
        *(("gzipped", False), ("x-gzip", False)),
    ],
)
@pytest.mark.usefixtures("large")
async def test_a_packed_page_goes_to_each_client_as_it_takes_it(
    bay: World, takes: str, is_packed: bool
) -> None:
    anybody = await bay.open_client()
    asks = {"Accept-Encoding": takes}
    answer = await anybody.get("/docs/large.html", headers=asks)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert (answer.text, answer.headers.get("content-encoding")) == (PACKED, "gzip" if is_packed else None)
    assert answer.headers["vary"] == "Accept-Encoding"
    assert (int(answer.headers["content-length"]) < len(PACKED)) is is_packed
    again = await anybody.get("/docs/large.html", headers={**asks, "If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.text) == (304, "")
    other = await anybody.get(
        "/docs/large.html", headers={"Accept-Encoding": "gzip;q=0" if is_packed else "gzip"}
    )
    assert other.headers["etag"] != answer.headers["etag"]
    assert_error(await anybody.get("/docs/large.html.gz"), 404, "not_found")


@pytest.mark.parametrize("takes", ["gzip", "identity"])
async def test_a_packed_page_that_was_removed_since_the_start_is_not_there(
    bay: World, large: Path, takes: str
) -> None:
    large.unlink()
    asked = await (await bay.open_client()).get("/docs/large.html", headers={"Accept-Encoding": takes})
    assert_error(asked, 404, "not_found")


async def test_a_page_that_was_removed_since_the_start_is_not_there(bay: World, site: Path) -> None:
    (site / "ports.html").unlink()
    assert_error(await (await bay.open_client()).get("/docs/ports.html"), 404, "not_found")


@pytest.fixture
def siteless(bay: World, tmp_path: Path) -> World:
    """A Bay that was started without its documentation."""
    bay.app.state.doc_site = StaticSite(tmp_path / "nothing")
    return bay


async def test_a_bay_without_its_documentation_says_how_to_build_it(siteless: World) -> None:
    answer = await (await siteless.open_client()).get("/docs/")
    assert answer.status_code == 200
    assert "make docs" in answer.text
    assert 'href="/docs/api"' in answer.text


SCRIPT = "console.log(1)\n" * 100


@pytest.fixture
def console(bay: World, tmp_path: Path) -> Path:
    """The files of a console, which this Bay has."""
    folder = tmp_path / "console"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text('<style nonce="__NONCE__"></style><meta content="__NONCE__">')
    (folder / "assets/main-1a2b.js.gz").write_bytes(gzip.compress(SCRIPT.encode()))
    (folder / "assets/sans-3c4d.woff2").write_bytes(b"font")
    (tmp_path / "secret.js").write_text("beside it")
    bay.app.state.console = ConsolePage(StaticSite(folder), lambda: bay.bay.hosts.previews, HEADERS)
    return folder


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/?new=1",
        "/console/",
        "/console/sandboxes?q=team%3Dml",
        "/console/sandboxes/my.box",
        "/console/x/assets/y",
    ],
)
@pytest.mark.usefixtures("console")
async def test_a_browser_gets_the_console_with_a_nonce_that_is_used_once(bay: World, path: str) -> None:
    anybody = await bay.open_client()
    nonces: set[str] = set()
    for _ in range(2):
        answer = await anybody.get(path, headers=BROWSER)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
        (nonce,) = set(re.findall(r'"([^"]+)"', answer.text))
        nonces.add(nonce)
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cross-origin-opener-policy"] == "same-origin"
        assert answer.headers["content-security-policy"] == (
            f"default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data: "
            "blob:; font-src 'self'; connect-src 'self'; frame-src http://*.localhost:8700; form-action "
            "'none'; base-uri 'none'; frame-ancestors 'none'; object-src 'none'"
        )
    assert len(nonces) == 2
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{24}", nonce) for nonce in nonces)


@pytest.mark.usefixtures("console")
async def test_the_console_loads_files_that_are_kept_for_ever(bay: World) -> None:
    anybody = await bay.open_client()
    for name, type_, text in (
        ("main-1a2b.js", "text/javascript; charset=utf-8", SCRIPT),
        ("sans-3c4d.woff2", "font/woff2", "font"),
    ):
        answer = await anybody.get(f"/console/assets/{name}")
        assert (answer.status_code, answer.headers["content-type"], answer.text) == (200, type_, text)
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = await anybody.get(
            f"/console/assets/{name}", headers={"If-None-Match": answer.headers["etag"]}
        )
        assert (again.status_code, again.text) == (304, "")
    packed = await anybody.get("/console/assets/main-1a2b.js", headers={"Accept-Encoding": "gzip"})
    assert (packed.headers["content-encoding"], packed.text) == ("gzip", SCRIPT)


@pytest.mark.parametrize(
    "name",
    [
        *("assets/none.js", "assets/main-1a2b.js.gz", "assets/", "assets/..%2findex.html"),
        *("assets/..%2f..%2fsecret.js", "assets/%2e%2e%2f%2e%2e%2fsecret.js"),
    ],
)
@pytest.mark.usefixtures("console")
async def test_nothing_but_the_files_of_the_console_is_served(bay: World, name: str) -> None:
    anybody = await bay.open_client()
    for headers in ({}, BROWSER):
        assert_error(await anybody.get(f"/console/{name}", headers=headers), 404, "not_found")
    page: ConsolePage = bay.app.state.console
    assert await page.asset(unquote(name), Headers()) is None, "as a client that normalizes nothing asks"


@pytest.mark.usefixtures("console")
async def test_a_program_gets_no_page_where_a_browser_gets_the_console(bay: World) -> None:
    anybody = await bay.open_client()
    assert_error(await anybody.get("/console/sandboxes"), 404, "not_found")
    assert_error(await anybody.get("/console/index.html"), 404, "not_found")
    assert_error(await anybody.post("/console/sandboxes", headers=BROWSER), 405, "method_not_allowed")
    answer = await anybody.get("/console", headers=BROWSER)
    assert (answer.status_code, answer.headers["location"]) == (307, "/")


@pytest.mark.parametrize(
    ("public_url", "previews"),
    [
        ("https://bay.example.com", "https://*.bay.example.com"),
        ("http://bay.lan:8700", "http://*.bay.lan:8700"),
        ("https://192.0.2.1", "http://*.localhost:8700"),
        ("http://localhost:9000", "http://*.localhost:9000"),
    ],
)
def test_the_console_may_frame_the_hosts_by_which_ports_are_named(public_url: str, previews: str) -> None:
    hosts = PortHosts(public_url, "127.0.0.1", 8700)
    assert hosts.previews == previews
    assert hosts.url("box", 80).startswith(previews.replace("*", "80-box"))


async def test_a_console_that_was_removed_since_the_start_is_not_there(bay: World, console: Path) -> None:
    (console / "index.html").unlink()
    answer = await (await bay.open_client()).get("/", headers=BROWSER)
    assert "make console" in answer.text
