"""agent-browser and Chromium in a sandbox, driven by the routes, with a page that it serves itself."""

import json
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from client_programs import ClientHost, client_host

pytestmark = pytest.mark.clients

PROGRAMS = Path(__file__).parent / "node_modules" / "agent-browser" / "bin"
PROGRAM = PROGRAMS / f"agent-browser-linux-musl-{'arm64' if platform.machine() == 'aarch64' else 'x64'}"
PROFILE = {
    "capabilities": ["exec", "shell", "filesystem", "browser"],
    "cpus": 2, "memory_mb": 2048,
    "env": {"PATH": "/workspace/.local/bin:/usr/local/bin:/usr/bin:/bin"},
}  # fmt: skip
PAGE = """<!doctype html><title>A page</title><button onclick="document.title = 'Pressed'">Press</button>
<script>document.cookie = "who=me; max-age=100000"</script>"""
SERVER = {"argv": ["python3", "-m", "http.server", "8000", "--bind", "127.0.0.1"], "http_port": 8000}
PATIENCE_S = 60


@pytest.fixture(scope="module")
def host() -> Iterator[ClientHost]:
    if shutil.which("chromium") is None or not PROGRAM.is_file():
        pytest.skip("needs chromium, and agent-browser as `npm ci` puts it in tests/agent_browser")
    with client_host(BAY_PROFILES=json.dumps({"web": PROFILE, "python-default": {}})) as host:
        yield host


@pytest.fixture
def box(host: ClientHost) -> Iterator[httpx.Client]:
    """A client of one sandbox that has the program and a page."""
    headers = {"Authorization": f"Bearer {host.key}"}
    with httpx.Client(base_url=host.url, headers=headers, timeout=2 * PATIENCE_S) as client:
        made = client.post("/v1/sandboxes", json={"profile": "web"}).json()
        client.base_url = f"{host.url}/v1/sandboxes/{made['id']}"
        where = {"path": ".local/bin/agent-browser", "mode": "0755", "mkdir": "true"}
        answers = [
            client.put("/files/content", params=where, content=PROGRAM.read_bytes()),
            client.put("/filesystem/files", json={"path": "index.html", "content": PAGE}),
            client.put("/services/pages", json=SERVER),
        ]
        assert [answer.is_success for answer in answers] == [True] * 3, [answer.text for answer in answers]
        yield client


def serve(box: httpx.Client) -> None:
    """Return once the page is served, which begins with the session."""
    listens = "until (: </dev/tcp/127.0.0.1/8000) 2>/dev/null; do sleep 0.05; done"
    asked = {"command": listens, "timeout_s": PATIENCE_S}
    done = box.post("/execs", params={"wait": PATIENCE_S}, json=asked).json()
    assert done["exit_code"] == 0, done


def run(box: httpx.Client, cmd: str) -> str:
    done = box.post("/browser/exec", json={"cmd": cmd, "timeout": PATIENCE_S}).json()
    assert done.get("success"), done
    return done["output"].strip()


def batch(box: httpx.Client, *cmds: str) -> list[dict[str, Any]]:
    done = box.post("/browser/exec_batch", json={"commands": cmds, "timeout": 2 * PATIENCE_S}).json()
    assert done.get("success"), done
    return done["results"]


@pytest.mark.long
def test_a_browser_stays_between_commands_and_its_cookies_beyond_a_stop(box: httpx.Client) -> None:
    serve(box)
    run(box, "open http://127.0.0.1:8000/")
    steps = batch(box, "find role button click --name Press", "get title", "screenshot page.png")
    assert steps[1]["stdout"] == "Pressed\n"
    image = box.get("/filesystem/download", params={"path": "page.png"}).content
    assert image.startswith(b"\x89PNG\r\n")
    assert "who=me" in run(box, "cookies")

    assert box.post("/stop").status_code == 200  # at once: Chromium itself would write cookies later
    box.put("/filesystem/files", json={"path": "index.html", "content": "<title>No cookie here</title>"})
    serve(box)
    steps = batch(box, "open http://127.0.0.1:8000/", "get title", "cookies")
    assert steps[1]["stdout"] == "No cookie here\n"
    assert "who=me" in steps[2]["stdout"]


def test_a_program_of_the_sdk_of_bay_v1_has_a_browser(host: ClientHost) -> None:
    assert host.run("bay_v1_browser.py", BROWSER_PROGRAM=str(PROGRAM)).splitlines()[-1] == "done"
