"""`bay open`: the console or a port, what the browser is given, and what is printed where there is none."""

import http.client
import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from cli_runner import Cli

import bay as sdk

SERVE = (
    "import http.server as h, sys; s = h.HTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler); "
    "print(s.server_port, flush=True); s.serve_forever()"
)


@pytest.fixture
def port(served: tuple[str, str], name: str) -> int:
    """A port of the sandbox where something listens."""
    with sdk.Client(*served) as client:
        proc = client.sandboxes.get(name).spawn(["python3", "-c", SERVE])
        return int(next(iter(proc.output())).data)


def status(bay: Cli, url: str) -> int:
    """The answer of Bay to a browser that follows `url`."""
    parts = urlsplit(url)
    with closing(http.client.HTTPConnection("127.0.0.1", urlsplit(bay.url).port, timeout=60)) as there:
        there.request("GET", f"{parts.path}?{parts.query}", headers={"Host": parts.netloc})
        return there.getresponse().status


def sign_in(bay: Cli, url: str) -> int:
    """The answer of Bay to the console, in a browser that was given `url`."""
    address, _, code = url.partition("#code=")
    assert address == f"{bay.url}/"
    return httpx.post(
        f"{bay.url}/v1/console/sign_in", json={"code": code}, headers={"Bay-Console": "1"}, timeout=60
    ).status_code


@pytest.fixture
def with_browser(bay: Cli, tmp_path: Path) -> Cli:
    """A command with a browser that writes down the address that it is given."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/url\n')
    browser.chmod(0o700)
    return replace(bay, settings={"BROWSER": str(browser)})


def test_the_console_is_opened_by_a_code_that_signs_one_browser_in(
    bay: Cli, with_browser: Cli, tmp_path: Path
) -> None:
    done = with_browser.process("open")
    assert (done.returncode, done.stdout) == (0, b"")
    assert "opened the console in the browser" in done.stderr.decode()
    url = (tmp_path / "url").read_text().strip()
    assert [sign_in(bay, url), sign_in(bay, url)] == [201, 401]


def test_the_address_of_the_console_is_printed_for_a_browser_elsewhere(bay: Cli) -> None:
    assert sign_in(bay, bay("open", "--print").stdout.decode().strip()) == 201
    found = json.loads(bay("open", "--print", "--json").stdout)
    assert (found["opened"], sign_in(bay, found["url"])) == (False, 201)


def test_the_browser_is_given_a_link_that_opens_once(
    bay: Cli, with_browser: Cli, name: str, port: int, tmp_path: Path
) -> None:
    done = with_browser.process("open", name)
    assert (done.returncode, done.stdout) == (0, b"")
    assert f"opened port {port} of {name}" in done.stderr.decode()
    url = (tmp_path / "url").read_text().strip()
    assert f"{port}-{name}.localhost" in url
    assert [status(bay, url), status(bay, url)] == [303, 401]


def test_without_a_browser_the_url_is_printed(bay: Cli, name: str, port: int) -> None:
    alone = replace(bay, settings={"PATH": "/none", "BROWSER": "", "DISPLAY": "", "WAYLAND_DISPLAY": ""})
    link = alone.process("open", name, str(port)).stdout.decode().strip()
    assert [status(bay, link), status(bay, link)] == [303, 303]
    bay("ports", name, "--public", str(port))
    found = json.loads(bay("open", name, "--print", "--json").stdout)
    assert (found["opened"], "token" in found["url"], f"{port}-{name}" in found["url"]) == (
        False,
        False,
        True,
    )


def test_a_port_is_asked_for_where_none_is_meant(bay: Cli, name: str) -> None:
    assert (
        f"nothing listens in {name}; name a port: bay open {name} PORT" in bay("open", name).stderr.decode()
    )
    bay("update", name, "--url-port", "7000")
    assert f"//7000-{name}." in bay("open", name, "--print").stdout.decode()
