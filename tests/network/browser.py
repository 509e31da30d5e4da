"""A headless Chromium, spoken to by the DevTools protocol: pages are opened and looked at, and
that is all.
"""

import json
import re
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

WAIT_S = 30.0
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--no-default-browser-check", "--remote-debugging-port=0",
    "about:blank",
)  # fmt: skip


class Page:
    """One page.

    Its conversation is strictly one question after the other; what it tells unasked is left aside.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = count(1)

    def go(self, url: str) -> None:
        """Open `url`."""
        answer = self._ask("Page.navigate", url=url)
        assert "errorText" not in answer, answer

    def look(self, expression: str) -> Any:
        """What an expression of JavaScript is on the page; of a promise what it comes to."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def _ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            said = json.loads(self._socket.recv(WAIT_S))
            if said.get("id") == number:
                assert "result" in said, said
                return said["result"]


@contextmanager
def chromium(binary: str, profile: Path) -> Generator[Page]:
    """A browser whose files are in `profile`, with its one page; it is gone at the end."""
    command = [binary, f"--user-data-dir={profile}", *_FLAGS]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        port = _port(process.stderr)
        pages = httpx.get(f"http://127.0.0.1:{port}/json/list", timeout=WAIT_S).json()
        where = next(one["webSocketDebuggerUrl"] for one in pages if one["type"] == "page")
        with connect(where, max_size=None, compression=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _port(stderr: Any) -> str:
    for line in stderr:
        if found := re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", line):
            return found[1]
    raise AssertionError("Chromium ended before it listened")
