"""Bay's own pages in a real browser, which has no way to any other host: they work, and their policy refuses
nothing that they need.
"""

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from browser import Page, chromium
from lab import eventually
from server_harness import short_dir
from serving import KEY, Server, serving

import bay as sdk
from bay.server.web.static_site import CONSOLE, DOCS

pytestmark = pytest.mark.host

WATCH = """
    window.refused = []
    document.addEventListener("securitypolicyviolation", e => window.refused.push(e.violatedDirective + " " + e.blockedURI))
"""


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    with short_dir() as path, serving(path) as running:
        yield running


@pytest.fixture
def page() -> Generator[Page]:
    binary = shutil.which("chromium")
    if binary is None:
        pytest.skip("needs chromium")
    with (
        tempfile.TemporaryDirectory(prefix="bay-chromium-", ignore_cleanup_errors=True) as profile,
        chromium(binary, Path(profile)) as made,
    ):
        made._ask("Page.enable")
        made._ask("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        yield made


def test_a_key_is_tried_in_the_document_of_the_api(server: Server, page: Page) -> None:
    page.go(f"{server.url}/docs/api")
    eventually(lambda: page.look("document.querySelectorAll('.opblock').length") > 50, "the calls are there")
    page.look("document.querySelector('.authorize').click()")
    eventually(
        lambda: page.look("document.querySelector('.auth-container input') !== null"), "it asks for a key"
    )
    page.look(f"""
        const field = document.querySelector(".auth-container input")
        Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set.call(field, "{KEY}")
        field.dispatchEvent(new Event("input", {{ bubbles: true }}))
        document.querySelector(".auth-btn-wrapper .authorize").click()
        document.querySelector(".btn-done").click()
        document.querySelector("#operations-sandboxes-list_sandboxes_v1_sandboxes_get button").click()
    """)
    eventually(lambda: page.look("document.querySelector('.try-out__btn') !== null"), "the call is shown")
    page.look("document.querySelector('.try-out__btn').click()")
    eventually(lambda: page.look("document.querySelector('.execute') !== null"), "it can be called")
    page.look("document.querySelector('.execute').click()")
    shown = "(document.querySelector('.live-responses-table .microlight') || {innerText: ''}).innerText"
    eventually(lambda: "has_more" in page.look(shown), "it was answered")
    assert page.look("window.refused") == []


def test_the_document_to_read_needs_no_other_host(server: Server, page: Page) -> None:
    page.go(f"{server.url}/docs/api/read")
    eventually(lambda: page.look("document.querySelectorAll('h2').length") > 50, "the calls are there")
    # Its maker's badge, which nobody misses.
    assert set(page.look("window.refused")) <= {"img-src https://cdn.redoc.ly/redoc/logo-mini.svg"}


@pytest.mark.skipif(not DOCS.is_dir(), reason="needs `make docs`")
def test_the_documentation_finds_a_word_and_needs_no_other_host(server: Server, page: Page) -> None:
    page.go(f"{server.url}/docs/ports.html")
    title = "(document.querySelector('h1') || {innerText: ''}).innerText"
    eventually(lambda: page.look(title).startswith("Ports: apps in sandboxes"), "the page is there")
    page.look("document.querySelector('.md-search__input').focus()")
    page.look("""
        const field = document.querySelector(".md-search__input")
        field.value = "checkpoint"
        field.dispatchEvent(new Event("input", { bubbles: true }))
        field.dispatchEvent(new Event("keyup", { bubbles: true }))
    """)
    found = "document.querySelectorAll('.md-search-result__link[href*=\"storage.html\"]').length"
    eventually(lambda: page.look(found) > 0, "the search has found it")
    page.look("document.querySelector('label[for=__palette_1]').click()")
    eventually(lambda: page.look("document.body.dataset.mdColorScheme") == "slate", "it is dark")
    assert page.look("window.refused") == []


APP = b"""<!doctype html><p>shown<script>
parent.postMessage("shown", "*")
fetch("/own").then(a => parent.postMessage("own " + a.status, "*"))
</script>"""
"""It tells the page around it that it is shown, and whether its own requests come through."""

FRAME = """new Promise(done => {
    window.told = []
    const frame = document.createElement("iframe")
    addEventListener("message", e => { if (e.source === frame.contentWindow) window.told.push(e.data) })
    frame.onload = () => done()
    frame.src = "URL"
    document.body.append(frame)
})"""
"""A page of the app that is no frame tells itself, and perhaps only now."""


class AppHandler(BaseHTTPRequestHandler):
    """The app of every sandbox here: the `fake` driver's are on this host's network."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(f"{self.headers['Host'].partition(':')[0]}{self.path}")
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(APP)))
        self.end_headers()
        self.wfile.write(APP)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Say nothing."""


@contextmanager
def listening() -> Generator[tuple[int, list[str]]]:
    """The port of an app, and what it was asked for, as hosts with paths."""
    handler = type("Asked", (AppHandler,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, handler.asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.skipif(not CONSOLE.is_dir(), reason="needs `make console`")
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_console_has_an_app_in_a_frame_and_another_sandboxs_page_has_not(
    server: Server, page: Page, host: str
) -> None:
    with (
        listening() as (port, asked),
        sdk.Client(server.url, KEY) as client,
        client.sandbox() as box,
        client.sandbox() as other,
    ):
        link = box.ports.link(port, once=True)
        page.go(f"http://{host}:{server.port}/")
        eventually(lambda: page.look("document.readyState") == "complete", "the console is there")
        page.look(FRAME.replace("URL", link.url))
        eventually(lambda: page.look("window.told") == ["shown", "own 200"], "the app is shown")
        assert page.look("window.refused") == []

        other.ports.set_access(port, "public")
        page.go(f"http://{port}-{other.id}.localhost:{server.port}/")
        eventually(lambda: f"{port}-{other.id}.localhost/own" in asked, "the other page is there")
        before = len(asked)
        page.look(FRAME.replace("URL", box.ports.link(port, once=True).url))
        # The link was opened, and the browser kept the answer for itself.
        assert [one for one in asked[before:] if box.id in one] == [f"{port}-{box.id}.localhost/"]
        assert page.look("window.told") == []
