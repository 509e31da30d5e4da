"""Bay's own pages: who gets them, and that they bring nothing of another host."""

import re

import httpx
import pytest
from server_harness import World, assert_error

from bay.server.web.page_routes import FILES

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

BROWSER = {"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"}


async def test_a_browser_is_told_what_this_is_and_a_program_that_it_needs_a_key(bay: World) -> None:
    anybody = await bay.open_client()
    answer = await anybody.get("/", headers=BROWSER)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert 'href="/docs"' in answer.text
    assert "BAY_API_KEY" in answer.text
    assert_error(await anybody.get("/"), 401, "unauthorized")
    assert_error(await anybody.post("/", headers=BROWSER), 401, "unauthorized")
    assert_error(await anybody.get("/v1/sandboxes", headers=BROWSER), 401, "unauthorized")


async def test_a_host_that_is_no_host_is_not_written_into_the_page(bay: World) -> None:
    answer = await (await bay.open_client()).get("/", headers={**BROWSER, "Host": "<script>"})
    assert "<script>" not in answer.text


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc"])
async def test_pages_load_from_here_alone_and_stand_in_no_frame(bay: World, path: str) -> None:
    anybody = await bay.open_client()
    answer = await anybody.get(path, headers=BROWSER)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy
    assert ("unsafe-inline" in policy) == (path == "/redoc"), "where no key is typed"
    assert "style-src" not in policy or "script-src" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    for used in re.findall(r'(?:src|href)="([^"]*)"', answer.text):
        assert used.startswith("/"), used
        assert (await anybody.get(used)).status_code == 200, used
    assert not re.search(r"<script(?! src=)", answer.text)


async def test_files_of_pages_are_those_and_no_others(bay: World, alice: httpx.AsyncClient) -> None:
    anybody = await bay.open_client()
    for name in FILES:
        assert (await anybody.get(f"/docs/{name}")).headers["x-content-type-options"] == "nosniff"
    for name in ("pages.py", "..%2fpages.py", "%2e%2e/%2e%2e/etc/passwd"):
        assert (await anybody.get(f"/docs/{name}")).status_code == 401
        assert (await alice.get(f"/docs/{name}")).status_code == 404
