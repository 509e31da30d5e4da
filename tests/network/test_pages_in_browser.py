"""Bay's own pages in a real browser, which has no way to any other host: they work, and their policy refuses
nothing that they need.
"""

import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest
from browser import Page, chromium
from lab import eventually
from server_harness import short_dir
from serving import KEY, Server, serving

from bay.server.web.static_site import DOCS

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


def test_the_bare_address_leads_to_the_document_in_which_a_key_is_tried(server: Server, page: Page) -> None:
    page.go(f"{server.url}/")
    eventually(lambda: page.look("document.links.length") == 4, "the first page is there")
    assert server.url in page.look("document.querySelector('pre').innerText")
    page.look("document.links[1].click()")
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
