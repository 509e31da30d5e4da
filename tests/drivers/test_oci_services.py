"""Services in a sandbox of the `oci` driver: as its user, in its own namespaces, ended with all that they
started.
"""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from oci_bench import OciBench

from bay.drivers.base import Handle
from bay.places import directory_of
from bay.testing.driver_bench import TOKEN, DriverBench, call, endpoint_of, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]

Json = dict[str, Any]

# Leaves its parents, its session and its environment.
ESCAPE = "import os; os.setsid() if os.fork() == 0 else os._exit(1); os.execve('/usr/bin/sleep', ['sleep', '4321'], {})"
NOTE = "trap 'echo -{0} >> order; exit' TERM; echo +{0} >> order; sleep 600 & wait"
SERVE = ["python3", "-m", "http.server", "8000"]


async def put(handle: Handle, *specs: Json) -> dict[str, Json]:
    """What Ship says of them, by name."""
    answer = await call(endpoint_of(handle), "PUT", "/services", {"services": specs})
    return {item["name"]: item for item in answer["items"]}


async def wait_service(handle: Handle, name: str, done: Callable[[Json], bool]) -> Json:
    """The service once `done` holds, heard from the feed."""
    reader, writer = await asyncio.open_unix_connection(endpoint_of(handle).socket_path)
    writer.write(f"GET /feed HTTP/1.1\r\nHost: ship\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    try:
        async with asyncio.timeout(30):
            async for line in reader:
                if line.startswith(b'{"type":"services"'):
                    found = {item["name"]: item for item in json.loads(line)["items"]}[name]
                    if done(found):
                        return found
    finally:
        writer.close()
    raise AssertionError(f"{name} never came so far")


async def logs(handle: Handle, name: str) -> str:
    reader, writer = await asyncio.open_unix_connection(endpoint_of(handle).socket_path)
    writer.write(f"GET /services/{name}/logs HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    lines = [json.loads(line) for line in answer.partition(b"\r\n\r\n")[2].splitlines()]
    return b"".join(base64.b64decode(line["data"]) for line in lines if "data" in line).decode()


async def test_services_run_as_the_user_and_serve_on_the_loopback_device(oci: DriverBench) -> None:
    show = ["sh", "-c", "id -un; pwd; exit 1"]
    health = {"port": 8000, "path": "/", "interval_s": 0.2}
    async with oci.session() as handle:
        await put(
            handle,
            {"name": "api", "argv": SERVE, "health": health},
            {"name": "web", "argv": ["sh", "-c", "echo up; exec sleep 600"], "needs": ["api"]},
            {"name": "show", "argv": show, "restart": "never"},
            {"name": "root", "argv": show, "restart": "never", "user": "root"},
        )
        assert (await wait_service(handle, "web", lambda s: s["state"] == "running"))["pid"]
        assert (await wait_service(handle, "api", lambda s: s["healthy"] is True))["state"] == "running"
        for name, user in (("show", "ship"), ("root", "root")):
            await wait_service(handle, name, lambda s: s["state"] == "exited")
            assert await logs(handle, name) == f"{user}\n/workspace\n"


async def test_a_crash_loop_waits_longer_each_time_and_leaves_nothing_behind(oci: DriverBench) -> None:
    async with oci.session() as handle:
        await put(handle, {"name": "web", "argv": ["/usr/bin/python3", "-c", ESCAPE]})
        third = await wait_service(handle, "web", lambda s: s["restarts"] == 2 and s["state"] == "backoff")
        assert third["exit_code"] == 1
        assert third["next_start_at"] > third["started_at"]
        assert (await run(handle, "pgrep -fc '[s]leep 4321'")).stdout == "0\n"


async def test_services_stand_still_with_their_sandbox_and_go_on(oci: OciBench) -> None:
    async with oci.session() as handle:
        before = (await put(handle, {"name": "api", "argv": SERVE}))["api"]
        await oci.driver.pause(handle)
        await oci.driver.resume(handle)
        after = (await put(handle, {"name": "api", "argv": SERVE}))["api"]
        assert (after["pid"], after["state"], after["restarts"]) == (before["pid"], "running", 0)


async def test_services_end_in_order_when_the_session_is_stopped(oci: DriverBench) -> None:
    needs = {"a": [], "b": ["a"], "c": ["b"]}
    specs = [{"name": name, "argv": ["sh", "-c", NOTE.format(name)], "needs": needs[name]} for name in "abc"]
    spec = oci.spec()
    handle = await oci.start(spec)
    await put(handle, *specs)
    await run(handle, "until [ $(wc -l < order) = 3 ]; do sleep 0.01; done")
    services = await put(handle, *specs)
    # The kernel decides which of the three shells writes first.
    assert sorted(services, key=lambda name: services[name]["pid"]) == ["a", "b", "c"]
    await oci.driver.stop(handle, 10)
    noted = (directory_of(spec.workspace) / "order").read_text().split()
    assert sorted(noted[:3]) == ["+a", "+b", "+c"]
    assert noted[3:] == ["-c", "-b", "-a"]
