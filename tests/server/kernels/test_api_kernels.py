"""`…/kernels`: contexts with variables of their own, cells followed and come back to, and what ends with a
session.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import (
    Json,
    Served,
    World,
    assert_error,
    clear,
    create,
    eventually,
    shell,
    until,
    within,
    world,
)

from bay.errors import InvalidArgument
from bay.ids import new_id
from bay.models import CELL_EVENT_FIELDS, Kernel
from bay.server.kernels.service import Kernels
from bay.server.kernels.ship_client import KernelClient
from bay.server.sandboxes.pool_kinds import fingerprint_of
from bay.server.settings import ProfileSettings
from bay.server.ship.connection import Peer

pytestmark = pytest.mark.anyio

KERN = "kern-0123456789abcdef01234567"
CELL = "cell-0123456789abcdef01234567"


@pytest.fixture
async def box(alice: httpx.AsyncClient) -> str:
    return (await create(alice, wait=15))["id"]


def at(box: str, *rest: str) -> str:
    return "/".join((f"/v1/sandboxes/{box}/kernels", *rest))


async def run(
    client: httpx.AsyncClient, box: str, code: str, kernel: str = "default", **body: Any
) -> list[Json]:
    answer = await client.post(at(box, kernel, "run"), json={"code": code, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


async def printed(client: httpx.AsyncClient, box: str, code: str, kernel: str = "default") -> str:
    found = await run(client, box, code, kernel)
    assert found[-1]["status"] == "ok", found
    return "".join(event.get("text", "") for event in found)


async def made(client: httpx.AsyncClient, box: str, **body: Any) -> str:
    answer = await client.post(at(box), json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


async def kernels(client: httpx.AsyncClient, box: str) -> list[Json]:
    answer = await client.get(at(box))
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


async def test_a_cell_tells_what_it_does_line_by_line(alice: httpx.AsyncClient, box: str) -> None:
    code = (
        "import sys; from IPython.display import display\n"
        "print('out'); print('err', file=sys.stderr)\n"
        "handle = display({'text/plain': 'bar', 'text/html': '<b>'}, raw=True, display_id=True)\n"
        "handle.update({'text/plain': 'baz'}, raw=True)\n6 * 7"
    )
    found = await run(alice, box, code)
    for event in found:
        assert set(event) == {"seq", "type", *CELL_EVENT_FIELDS[event["type"]]}
    assert [event["seq"] for event in found] == list(range(len(found)))
    assert [event["type"] for event in found] == [
        "start", "stdout", "stderr", "display", "display", "result", "end",
    ]  # fmt: skip
    first, second = (event for event in found if event["type"] == "display")
    assert (first["data"]["text/html"], first["update"], second["update"]) == ("<b>", False, True)
    assert first["display_id"] == second["display_id"] is not None
    assert found[-2]["data"]["text/plain"] == "42"
    assert (found[-1]["status"], found[-1]["execution_count"], found[-1]["restarted"]) == ("ok", 1, False)


async def test_kernels_have_variables_of_their_own(alice: httpx.AsyncClient, box: str) -> None:
    await shell(alice, box, "mkdir -p sub")
    other = await made(alice, box, cwd="sub", env={"WHO": "me"})
    await run(alice, box, "x = 'default'")
    await run(alice, box, "x = 'other'", other)
    assert await printed(alice, box, "print(x)") == "default\n"
    assert await printed(alice, box, "import os; print(x, os.environ['WHO'], os.environ['FROM_PROFILE'])", other) == (
        "other me yes\n"
    )  # fmt: skip
    assert (await printed(alice, box, "print(os.getcwd())", other)).endswith("/sub\n")
    found = {item["id"]: item for item in await kernels(alice, box)}
    assert set(found) == {"default", other}
    assert found[other]["state"] == "idle"
    assert found[other]["language"] == "python"
    assert found[other]["cwd"].endswith("/sub")
    assert (await alice.get(at(box, other))).json() == found[other]
    assert (await alice.delete(at(box, other))).status_code == 204
    assert_error(await alice.get(at(box, other)), 404, "not_found")
    assert_error(await alice.post(at(box, other, "run"), json={"code": "1"}), 404, "not_found")


async def test_a_run_may_have_variables_of_its_own(alice: httpx.AsyncClient, box: str) -> None:
    show = "import os; print(os.environ.get('WHO'), os.environ['FROM_PROFILE'])"
    found = await run(alice, box, show, env={"WHO": "me", "FROM_PROFILE": "no"})
    assert [event["text"] for event in found if event["type"] == "stdout"] == ["me no\n"]
    assert await printed(alice, box, show) == "None yes\n"
    for bad in ({"": "x"}, {"A=B": "x"}, {"A": "\0"}, {f"V{n}": "x" for n in range(257)}):
        answer = await alice.post(at(box, "default", "run"), json={"code": "1", "env": bad})
        assert_error(answer, 422, "validation_error")


async def test_one_key_makes_one_kernel(alice: httpx.AsyncClient, box: str) -> None:
    headers = {"Idempotency-Key": "once"}
    answers = await asyncio.gather(*(alice.post(at(box), headers=headers) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(await kernels(alice, box)) == 1
    other = await alice.post(at(box), headers=headers, json={"env": {"A": "b"}})
    assert_error(other, 409, "conflict")


class Refusing(KernelClient):
    """Cannot make a kernel, as long as it is told so."""

    refuses = False

    async def create(self, peer: Peer, kernel_id: str, body: Mapping[str, Any]) -> Kernel:
        if self.refuses:
            raise InvalidArgument("the image has no such kernel spec")
        return await super().create(peer, kernel_id, body)


async def test_a_repeated_call_that_is_refused_finds_the_kernel_and_keeps_its_key(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    link = bay.app.state.services[Kernels].ship = Refusing(bay.bay.ship)

    async def make(key: str) -> httpx.Response:
        return await alice.post(at(box), headers={"Idempotency-Key": key})

    first = (await make("first")).json()["id"]
    link.refuses = True
    assert (await make("first")).json()["id"] == first
    for _ in range(2):
        assert_error(await make("second"), 422, "validation_error")
    link.refuses = False
    assert (await make("first")).json()["id"] == first
    assert (await make("second")).status_code == 201
    assert len(await kernels(alice, box)) == 2


async def test_the_same_cell_again_runs_nothing_a_second_time(alice: httpx.AsyncClient, box: str) -> None:
    await run(alice, box, "n = 0")
    cell = new_id("cell")
    first = await run(alice, box, "n += 1; print(n)", id=cell)
    assert await run(alice, box, "n += 1; print(n)", id=cell) == first
    assert await printed(alice, box, "print(n)") == "1\n"
    path = at(box, "default", "cells", cell, "events")
    assert [json.loads(line) for line in (await alice.get(path)).text.splitlines()] == first
    rest = await alice.get(path, params={"since": 1, "follow": "true"})
    assert [json.loads(line) for line in rest.text.splitlines()] == first[1:]
    assert_error(await alice.get(path, params={"since": 99}), 400, "validation_error")
    assert_error(await alice.get(path, params={"since": -1}), 422, "validation_error")


async def test_who_leaves_a_running_cell_comes_back_to_all_of_it(live: Served) -> None:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as alice:
        box = (await create(alice, wait=15))["id"]
        code = "import os, time\nfor n in range(50):\n    print(n, flush=True)\nwhile not os.path.exists('go'): time.sleep(0.005)\nprint('end')"
        async with alice.stream("POST", at(box, "default", "run"), json={"code": code}) as answer:
            cell = answer.headers["bay-cell-id"]
            first = json.loads(await within(anext(answer.aiter_lines())))
        assert first["type"] == "start"
        [kernel] = await kernels(alice, box)
        assert kernel["state"] == "busy"
        await shell(alice, box, "touch go")
        params: Json = {"since": 1, "follow": "true"}
        rest = await alice.get(at(box, "default", "cells", cell, "events"), params=params)
        lines = [json.loads(line) for line in rest.text.splitlines()]
        assert (
            "".join(line.get("text", "") for line in lines) == "".join(f"{n}\n" for n in range(50)) + "end\n"
        )
        assert lines[-1]["status"] == "ok"


@pytest.mark.parametrize("waits", [False, True])
async def test_an_attached_cell_ends_with_its_reader_and_the_next_one_runs(live: Served, waits: bool) -> None:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=60) as alice:
        box = (await create(alice, wait=15))["id"]
        body = {"code": "x = 1\nprint('here')\nwhile True: pass", "attached": True}
        async with alice.stream("POST", at(box, "default", "run"), json=body) as answer:
            lines = answer.aiter_lines()
            while "here" not in await within(anext(lines)):
                pass
            if waits:  # the second leaves while it is in the queue
                code = "open('never', 'w').close()"
                second = alice.stream("POST", at(box, "default", "run"), json=body | {"code": code})
                async with second as queued:
                    assert queued.status_code == 200
        assert await printed(alice, box, "import os; print(x, os.path.exists('never'))") == "1 False\n"


async def test_an_attached_cell_whose_reader_left_before_its_sandbox_was_awake_does_not_run(
    live: Served,
) -> None:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=60) as alice:
        box = (await create(alice, wait=15))["id"]
        assert (await alice.post(f"/v1/sandboxes/{box}/stop")).status_code == 200
        body = json.dumps({"code": "while True: pass", "attached": True}).encode()
        head = f"POST {at(box, 'default', 'run')} HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\n"
        head += f"Authorization: Bearer {live.key}\r\nContent-Type: application/json\r\n"
        _, writer = await asyncio.open_connection("127.0.0.1", live.port)
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert await printed(alice, box, "print('next')") == "next\n"


@asynccontextmanager
async def running(
    bay: World, client: httpx.AsyncClient, box: str, code: str = "while True: pass", **body: Any
) -> AsyncGenerator[asyncio.Task[list[Json]]]:
    """A cell that has begun to run."""
    here = bay.workspace((await client.get(f"/v1/sandboxes/{box}")).json()) / "here"
    task = asyncio.create_task(run(client, box, f"open('here', 'w').close()\n{code}", **body))
    await until(here.exists)
    yield task
    task.cancel()
    await asyncio.wait([task])


async def test_an_interrupt_ends_the_cell_and_those_that_wait_go_on(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await run(alice, box, "x = 1")
    async with running(bay, alice, box) as cell:
        waiting = asyncio.create_task(printed(alice, box, "print(x)"))
        answer = await alice.post(at(box, "default", "interrupt"))
        assert (answer.status_code, answer.json()["id"]) == (200, "default")
        end = (await within(cell))[-1]
        assert (end["status"], end["restarted"]) == ("interrupted", False)
        assert await within(waiting) == "1\n"


async def test_a_restart_begins_without_variables_and_loses_the_cell(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await run(alice, box, "x = 1")
    async with running(bay, alice, box) as cell:
        assert (await alice.post(at(box, "default", "restart"))).status_code == 200
        end = (await within(cell))[-1]
        assert end["status"] == "lost"
        assert await printed(alice, box, "print('x' in globals())") == "False\n"


async def test_a_timeout_counts_from_the_start_of_the_cell(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    async with running(bay, alice, box, "while True: print('.', end='', flush=True)", timeout_s=0.5) as cell:
        behind = asyncio.create_task(run(alice, box, "print('mine')", timeout_s=0.4))
        end = (await within(cell))[-1]
        assert (end["status"], end["restarted"]) == ("timeout", False)
        found = await within(behind)
        assert [event.get("text") for event in found if event["type"] == "stdout"] == ["mine\n"]
        assert found[-1]["status"] == "ok"


@pytest.mark.parametrize("end", ["stop", "crash", "delete"])
async def test_a_cell_whose_session_ends_is_lost_at_once(
    bay: World, alice: httpx.AsyncClient, box: str, end: str
) -> None:
    async with running(bay, alice, box) as cell:
        match end:
            case "stop":
                await alice.post(f"/v1/sandboxes/{box}/stop")
            case "crash":
                await bay.driver.crash((await bay.session(box)).id)
            case _:
                await alice.delete(f"/v1/sandboxes/{box}")
        last = (await within(cell))[-1]
        assert (last["type"], last["status"]) == ("end", "lost")
        assert last["message"]


async def test_kernels_end_with_their_session_and_nothing_is_started_to_say_so(
    alice: httpx.AsyncClient, box: str
) -> None:
    other = await made(alice, box)
    cell = new_id("cell")
    await run(alice, box, "x = 1", id=cell)
    await alice.post(f"/v1/sandboxes/{box}/stop")
    assert await kernels(alice, box) == []
    for path in ("", "/interrupt", "/restart", "/run"):
        for name in (other, "default"):
            if (name, path) == ("default", "/run"):
                continue
            body = {"code": "1"} if path == "/run" else None
            call = alice.get(at(box, name)) if not path else alice.post(at(box, name) + path, json=body)
            error = assert_error(await call, 404, "not_found")
            assert "create a new one" in error["message"]
    assert_error(await alice.get(at(box, "default", "cells", cell, "events")), 404, "not_found")
    assert (await alice.get(f"/v1/sandboxes/{box}")).json()["compute"] == "cold"
    assert await printed(alice, box, "print('x' in globals())") == "False\n"


async def test_a_frozen_sandbox_keeps_its_variables(alice: httpx.AsyncClient, box: str) -> None:
    await run(alice, box, "x = 'kept'")
    assert (await alice.post(f"/v1/sandboxes/{box}/pause")).status_code == 200
    assert await printed(alice, box, "print(x)") == "kept\n"


@pytest.mark.parametrize(
    "body",
    [
        {}, {"code": None}, {"code": "1", "timeout_s": 0}, {"code": "1", "timeout_s": 700_000}, {"code": "1", "id": "x"},
        {"code": "1", "id": "exec-0123456789abcdef01234567"}, {"code": "1", "id": f"{CELL}\n"},
    ],
)  # fmt: skip
async def test_a_wrong_cell_is_refused(alice: httpx.AsyncClient, box: str, body: Json) -> None:
    assert_error(await alice.post(at(box, "default", "run"), json=body), 422, "validation_error")


@pytest.mark.parametrize("name", [KERN, "kern-x", "..", "%2e%2e", "default%3Fx", "a b", "x" * 100, "Default"])
async def test_an_unknown_kernel_is_not_found_however_it_is_called(
    alice: httpx.AsyncClient, box: str, name: str
) -> None:
    for answer in (
        await alice.get(at(box, name.replace("..", "%2e%2e"), "cells", CELL, "events")),
        await alice.post(at(box, name.replace("..", "%2e%2e"), "run"), json={"code": "1"}),
    ):
        assert answer.status_code in (404, 405, 422), (name, answer.text)
    assert_error(await alice.get(at(box, "default", "cells", CELL, "events")), 404, "not_found")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"spec": "no-such"}, 400, "validation_error"), ({"spec": "a/b"}, 422, "validation_error"),
        ({"cwd": "missing"}, 404, "file_not_found"), ({"cwd": "/etc"}, 403, "forbidden"),
        ({"cwd": "../x"}, 400, "invalid_path"), ({"user": "nobody"}, 400, "validation_error"),
        ({"env": {"A=B": "x"}}, 422, "validation_error"),
    ],
)  # fmt: skip
async def test_a_wrong_kernel_is_refused_and_leaves_none(
    alice: httpx.AsyncClient, box: str, body: Json, status: int, code: str
) -> None:
    assert_error(await alice.post(at(box), json=body), status, code)
    assert await kernels(alice, box) == []


async def test_there_are_at_most_sixteen_kernels(alice: httpx.AsyncClient, box: str) -> None:
    for _ in range(16):
        await made(alice, box)
    assert_error(await alice.post(at(box)), 409, "conflict")
    assert_error(await alice.post(at(box), headers={"Idempotency-Key": "k"}), 409, "conflict")
    assert_error(await alice.post(at(box, "default", "run"), json={"code": "1"}), 409, "conflict")
    [first, *_] = await kernels(alice, box)
    await alice.delete(at(box, first["id"]))
    assert (await alice.post(at(box), headers={"Idempotency-Key": "k"})).status_code == 201


async def test_who_may_only_read_may_look_and_not_touch(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await run(alice, box, "1")
    reader = await bay.client("alice", "read")
    assert [kernel["id"] for kernel in await kernels(reader, box)] == ["default"]
    for path in ("run", "interrupt", "restart"):
        assert_error(await reader.post(at(box, "default", path), json={"code": "1"}), 403, "forbidden")
    assert_error(await reader.delete(at(box, "default")), 403, "forbidden")


async def test_the_image_says_what_kinds_there_are(alice: httpx.AsyncClient, box: str) -> None:
    answer = await alice.get(f"/v1/sandboxes/{box}/kernelspecs")
    assert answer.status_code == 200
    assert {"name": "python3", "language": "python"}.items() <= answer.json()["items"][0].items()


async def test_a_busy_kernel_keeps_its_sandbox_awake_though_nobody_follows(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = (await create(alice, wait=15, idle_timeout=10))["id"]
    waits = "import os, time\nwhile not os.path.exists('go'): time.sleep(0.005)"
    async with running(bay, alice, box, waits):
        pass  # and away
    await until(lambda: not bay.bay.holds.any_here(box))
    bay.clock.advance(11)
    await bay.bay.sweep.sweep()
    assert (await bay.record(box)).target == "running"
    await shell(alice, box, "touch go")

    async def is_idle() -> bool:
        return (await kernels(alice, box))[0]["state"] == "idle"

    await eventually(is_idle)
    bay.clock.advance(11)
    await bay.bay.sweep.sweep()
    assert (await bay.record(box)).target == "paused"


@pytest.mark.parametrize(("kernel", "pool"), [("lazy", 0), ("eager", 0), ("eager", 1)])
async def test_the_environment_of_a_sandbox_reaches_its_default_kernel_at_its_start(
    root: Path, kernel: str, pool: int
) -> None:
    profile = {"kernel": kernel, "pool_size": pool, "env": {"PYTHONPATH": "/nowhere", "FROM": "profile"}}
    try:
        async with world(root, profiles={"python-default": ProfileSettings.model_validate(profile)}) as bay:
            alice = await bay.client()
            box = (await create(alice, wait=15, env={"PYTHONPATH": "/there"}))["id"]
            code = "import os, sys; print([p for p in sys.path if 'here' in p], os.environ['FROM'])"
            assert await printed(alice, box, code) == "['/there'] profile\n"
    finally:
        await clear(root)


async def test_an_environment_that_escaped_is_long_keeps_no_eager_sandbox_from_its_start(root: Path) -> None:
    profiles = {"python-default": ProfileSettings.model_validate({"kernel": "eager"})}
    try:
        async with world(root, profiles=profiles) as bay:
            alice = await bay.client()
            box = (await create(alice, wait=15, env={"SMILES": "\U0001f642" * 12_000}))["id"]
            assert await printed(alice, box, "import os; print(len(os.environ['SMILES']))") == "12000\n"
    finally:
        await clear(root)


async def test_an_eager_kernel_is_there_before_any_code(root: Path) -> None:
    profiles = {"python-default": ProfileSettings.model_validate({"kernel": "eager"})}
    try:
        async with world(root, profiles=profiles) as bay:
            alice = await bay.client()
            box = (await create(alice, wait=15))["id"]

            async def is_ready() -> bool:
                found = await kernels(alice, box)
                return [(item["id"], item["state"]) for item in found] == [("default", "idle")]

            await eventually(is_ready)
            assert await printed(alice, box, "print(1)") == "1\n"
    finally:
        await clear(root)


def test_how_the_kernel_starts_is_part_of_what_a_pool_holds() -> None:
    eager, lazy = (
        ProfileSettings.model_validate({"kernel": kernel}).to_profile("p") for kernel in ("eager", "lazy")
    )
    assert fingerprint_of(eager) != fingerprint_of(lazy)


async def test_a_follower_goes_when_its_key_is_revoked_and_the_cell_goes_on(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    secret = await bay.bay.keys.add("alice", "second", "write")
    second = await bay.open_client({"Authorization": f"Bearer {secret}"})
    async with running(bay, second, box) as cell:
        admin = await bay.client("alice", "admin")
        [key] = [k for k in (await admin.get("/v1/keys")).json()["items"] if k["name"] == "second"]
        assert (await admin.delete(f"/v1/keys/{key['id']}")).status_code == 204
        found = await within(cell)
        assert [event["type"] for event in found] == ["start"]
        assert (await kernels(alice, box))[0]["state"] == "busy"
