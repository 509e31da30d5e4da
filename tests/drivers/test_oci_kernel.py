"""Kernels in a sandbox of the `oci` driver: the host's Python with its packages, else the closure's, as the
sandbox's user.
"""

import asyncio
import base64
import json
import secrets
from typing import Any

import pytest

from bay.drivers.base import Handle
from bay.models import Resources
from bay.testing.driver_bench import TOKEN, DriverBench, call, endpoint_of, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]

FIGURE = "import matplotlib.pyplot as plt\n_ = plt.plot([1, 2])"
TABLE = "import pandas as pd\npd.DataFrame({'n': [1]})"
WHO = "import os, sys\nprint(sys.executable, os.getuid(), os.getcwd())"
ESCAPE = "import subprocess; _ = subprocess.Popen(['setsid', '-f', 'sleep', '4321'], env={}, executable='/usr/bin/setsid')"
EAT = "eaten = []\nwhile True: eaten.append(bytearray(b'x' * (16 << 20)))"

Event = dict[str, Any]


async def cell(handle: Handle, kernel: str, code: str) -> list[Event]:
    """The events of a cell, with its figures and tables described."""
    wanted = {"id": f"cell-{secrets.token_hex(8)}", "code": code, "timeout_s": 60, "describe": True}
    body = json.dumps(wanted).encode()
    reader, writer = await asyncio.open_unix_connection(endpoint_of(handle).socket_path, limit=1 << 24)
    head = (
        f"POST /kernels/{kernel}/cells?follow=true HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    try:
        async with asyncio.timeout(70):
            answer = await reader.read()
    finally:
        writer.close()
    return [json.loads(line) for line in answer.partition(b"\r\n\r\n")[2].splitlines()]


def only(kind: str, events: list[Event]) -> Event:
    """The one event of that type."""
    found = [event for event in events if event["type"] == kind]
    assert len(found) == 1, events
    return found[0]


async def test_a_kernel_has_the_packages_of_the_image_and_shows_figures_and_tables(oci: DriverBench) -> None:
    memory = 512 << 20
    async with oci.session(kernel="eager", resources=Resources(memory=memory)) as handle:
        _start, who, _end = await cell(handle, "default", WHO)
        assert who["text"] == "/usr/bin/python3 1000 /workspace\n"
        figure = only("display", await cell(handle, "default", FIGURE))
        assert base64.b64decode(figure["data"]["image/png"]).startswith(b"\x89PNG")
        chart = figure["data"]["application/vnd.bay.chart+json"]
        assert (chart["type"], chart["elements"][0]["points"]) == ("line", [[0, 1], [1, 2]])
        table = only("result", await cell(handle, "default", TABLE))
        assert "<table" in table["data"]["text/html"]
        assert table["data"]["application/vnd.bay.table+json"]["columns"] == [{"name": "n", "values": [1]}]
        assert table["data"]["text/plain"].split() == ["n", "0", "1"]
        await _check_its_tree_ends_with_it(handle)
        await _check_memory_that_runs_out_ends_the_kernel_alone(handle)
        await _check_the_closure_serves_where_the_image_has_no_python(handle)


async def _check_its_tree_ends_with_it(handle: Handle) -> None:
    await cell(handle, "default", ESCAPE)
    assert (await run(handle, "pgrep -fc '[4]321'")).stdout == "1\n"
    await call(endpoint_of(handle), "DELETE", "/kernels/default")
    assert (await run(handle, "pgrep -fc '[4]321'")).stdout == "0\n"


async def _check_memory_that_runs_out_ends_the_kernel_alone(handle: Handle) -> None:
    end = (await cell(handle, "default", EAT))[-1]
    assert (end["status"], end["restarted"]) == ("lost", True)
    assert "memory" in end["message"]
    assert (await cell(handle, "default", "1"))[-1]["status"] == "ok"
    await call(endpoint_of(handle), "DELETE", "/kernels/default")


async def _check_the_closure_serves_where_the_image_has_no_python(handle: Handle) -> None:
    await call(endpoint_of(handle), "POST", "/kernels", {"id": "own", "env": {"PATH": "/nowhere"}})
    _start, who, _end = await cell(handle, "own", WHO)
    assert who["text"] == "/.ship/bin/python3 1000 /workspace\n"
    error = only("error", await cell(handle, "own", "1 / 0"))
    assert error["ename"] == "ZeroDivisionError"
