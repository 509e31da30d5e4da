"""A Vite dev server in a sandbox, seen by a real browser through its host name, with hot reload as on one's
own machine.
"""

import io
import shutil
import tarfile
import tempfile
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from browser import Page, chromium
from lab import Box, Lab, eventually

pytestmark = pytest.mark.host

VITE = Path(__file__).with_name("vite")
INDEX = """<!doctype html><title>hot</title><link rel="stylesheet" href="/style.css">
<body><p id="said"></p><script type="module" src="/main.js"></script></body>"""
MAIN = """import { said } from "./said.js"
const show = (text) => { document.getElementById("said").textContent = text }
show(said)
import.meta.hot.accept("./said.js", (changed) => show(changed.said))
"""


@pytest.fixture(scope="module")
def binary() -> str:
    """Chromium's command.

    Modules come from `npm ci --ignore-scripts` in tests/network/vite, which needs a registry.
    """
    found = shutil.which("chromium")
    if found is None or shutil.which("node") is None or not (VITE / "node_modules/vite").is_dir():
        pytest.skip("needs chromium, node and the modules that `npm ci` puts in tests/network/vite")
    return found


@pytest.fixture
def page(binary: str) -> Generator[Page]:
    """A browser's page."""
    with (
        tempfile.TemporaryDirectory(prefix="bay-chromium-", ignore_cleanup_errors=True) as profile,
        chromium(binary, Path(profile)) as made,
    ):
        yield made


@pytest.mark.long
def test_a_vite_dev_server_is_seen_and_edited_through_its_host_name(bay: Lab, page: Page) -> None:
    with bay.box(name="hot") as box:
        _upload(box)
        box.begin("node", "node_modules/vite/bin/vite.js", "--port", "5173", "--strictPort")
        link = bay.ask("POST", box.path("/ports/5173/links"), json={"once": True})["url"]
        assert "//5173-hot.localhost:" in link
        page.go(link)
        _shows(page, "first")
        assert page.look("location.host").startswith("5173-hot.localhost:")
        assert page.look("getComputedStyle(document.body).backgroundColor") == "rgb(1, 2, 3)"
        page.look("window.mark = 1")
        _write(box, "said.js", 'export const said = "second"')
        _shows(page, "second")
        _write(box, "style.css", "body { background: rgb(4, 5, 6) }")
        eventually(
            lambda: page.look("getComputedStyle(document.body).backgroundColor") == "rgb(4, 5, 6)",
            "the style is changed",
        )
        assert page.look("window.mark") == 1  # the page was not loaded again
        _write(box, "index.html", INDEX.replace('id="said"', 'id="said" class="new"'))
        eventually(
            lambda: page.look("document.querySelector('p.new') !== null && window.mark === undefined"),
            "the page is loaded again",
        )
        page.go(link)  # it is used up, but the browser has its cookie
        eventually(lambda: page.look("location.pathname") == "/", "it leads on")
        _shows(page, "second")
        host = link.split("/")[2]
        for stranger in ("/", link.partition(host)[2]):
            answer = httpx.get(f"{bay.server.url}{stranger}", headers={"Host": host})
            assert answer.status_code == 401


def _shows(page: Page, text: str) -> None:
    eventually(
        lambda: page.look("document.getElementById('said')?.textContent") == text, f"the page shows {text!r}"
    )


def _write(box: Box, name: str, text: str) -> None:
    box.lab.ask("PUT", box.path("/files/content"), params={"path": name}, content=text.encode())


def _upload(box: Box) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in ("package.json", "node_modules"):
            tar.add(VITE / name, name)
    box.lab.ask(
        "PUT",
        box.path("/files/archive"),
        params={"path": "."},
        content=data.getvalue(),
        headers={"Content-Type": "application/x-tar"},
    )
    for name, text in (
        ("index.html", INDEX),
        ("main.js", MAIN),
        ("said.js", 'export const said = "first"'),
        ("style.css", "body { background: rgb(1, 2, 3) }"),
    ):
        _write(box, name, text)
