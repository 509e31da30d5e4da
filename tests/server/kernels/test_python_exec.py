"""`python/exec`: every answer is its own, whatever ran before it or at the same time; and the history keeps
it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, shell, until, within, world

from bay.errors import ShipError
from bay.models import CellEvent
from bay.server.kernels.service import Kernels
from bay.server.kernels.ship_client import KernelClient
from bay.server.ship.connection import Peer
from bay.server.web.auth import Caller
from bay.store.records import HistoryNote

pytestmark = pytest.mark.anyio

ALICE = Caller("alice", "write", "key")
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture
async def box(alice: httpx.AsyncClient) -> str:
    return (await create(alice, wait=15))["id"]


async def post(client: httpx.AsyncClient, box: str, code: str, **body: Any) -> httpx.Response:
    return await client.post(f"/v1/sandboxes/{box}/python/exec", json={"code": code, **body})


async def python(client: httpx.AsyncClient, box: str, code: str, **body: Any) -> Json:
    answer = await post(client, box, code, **body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def history(client: httpx.AsyncClient, box: str, **params: Any) -> list[Json]:
    return (await client.get(f"/v1/sandboxes/{box}/history", params=params)).json()["entries"]


async def test_the_answer_has_the_shape_that_clients_know(alice: httpx.AsyncClient, box: str) -> None:
    found = await python(alice, box, "print('hi')\n1 + 1", include_code=True)
    assert {name: found[name] for name in found if name not in ("execution_id", "execution_time_ms")} == {
        "success": True, "output": "hi\n2", "error": None, "code": "print('hi')\n1 + 1", "truncated": False,
        "data": {"execution_count": 1, "output": {"text": "hi\n2", "images": []}},
    }  # fmt: skip
    assert found["execution_id"].startswith("exec-")
    assert isinstance(found["execution_time_ms"], int)
    assert (await python(alice, box, "x = 1"))["code"] is None


async def test_variables_stay_and_errors_leave_the_kernel_usable(alice: httpx.AsyncClient, box: str) -> None:
    await python(alice, box, "x = 41")
    failed = await python(alice, box, "print('before'); x / 0")
    assert (failed["success"], failed["output"]) == (False, "before\n")
    assert failed["error"].endswith("ZeroDivisionError: division by zero")
    assert "\x1b" not in failed["error"]
    left = await python(alice, box, "import sys; sys.exit(3)")
    assert left["success"] is False
    assert (await python(alice, box, "x + 1"))["output"] == "42"


async def test_three_hundred_quick_prints_give_three_hundred_right_answers(
    alice: httpx.AsyncClient, box: str
) -> None:
    for number in range(300):
        assert (await python(alice, box, f"print({number})"))["output"] == f"{number}\n"


async def test_concurrent_calls_queue_and_never_see_each_others_output(
    alice: httpx.AsyncClient, box: str
) -> None:
    code = "import time\nfor _ in range(5):\n    print({0}, flush=True); time.sleep(0.002)\n{0}"
    await python(alice, box, "1")
    found = await asyncio.gather(*(python(alice, box, code.format(number)) for number in range(20)))
    for number, answer in enumerate(found):
        assert answer["output"] == f"{number}\n" * 5 + str(number)
    counts = [answer["data"]["execution_count"] for answer in found]
    assert sorted(counts) == list(range(2, 22))


async def test_after_a_timeout_the_next_call_gets_its_own_output_and_variables_are_kept(
    alice: httpx.AsyncClient, box: str
) -> None:
    await python(alice, box, "x = 7")
    late = "import time\nprint('so far', flush=True)\ntry:\n    time.sleep(100)\nfinally:\n    print('late')"
    slow = await python(alice, box, late, timeout=1)
    assert slow["success"] is False
    assert slow["output"].startswith("so far\n")
    assert "timed out" in slow["error"]
    assert "variables were kept" in slow["error"]
    assert 900 <= slow["execution_time_ms"] < 5000
    for number in range(5):
        assert (await python(alice, box, f"x + {number}"))["output"] == str(7 + number)


async def test_what_does_not_heed_an_interrupt_costs_its_variables_and_says_so(
    alice: httpx.AsyncClient, box: str
) -> None:
    await python(alice, box, "x = 7")
    deaf = "import signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\nprint('deaf', flush=True)\ntime.sleep(100)"
    slow = await python(alice, box, deaf, timeout=1)
    assert (slow["success"], slow["output"]) == (False, "deaf\n")
    assert "variables are gone" in slow["error"]
    after = await python(alice, box, "'x' in globals()")
    assert after["output"] == "False"


async def test_a_thread_that_prints_on_is_never_heard_in_the_next_answer(
    alice: httpx.AsyncClient, box: str
) -> None:
    noisy = (
        "import threading, time, os\nstop = threading.Event()\n"
        "def shout():\n    while not stop.wait(0.001): print('noise', flush=True)\n"
        "threading.Thread(target=shout, daemon=True).start(); stop.wait(0.05)"
    )
    assert "noise" in (await python(alice, box, noisy))["output"]
    for number in range(20):
        assert (await python(alice, box, f"{number}"))["output"] == str(number)
    await python(alice, box, "stop.set()")


async def test_images_come_beside_the_text(alice: httpx.AsyncClient, box: str) -> None:
    code = f"import base64; from IPython.display import Image, HTML, display\ndisplay(HTML('<b>x</b>'))\nImage(base64.b64decode('{PNG}'), format='png')"
    found = await python(alice, box, code)
    assert found["error"] is None
    [image] = found["data"]["output"]["images"]
    assert set(image) == {"image/png"}
    assert image["image/png"].startswith("iVBORw0KGgo")
    assert "HTML object" in found["output"]


async def test_a_kernel_that_dies_is_an_answer_and_the_next_call_has_a_new_one(
    alice: httpx.AsyncClient, box: str
) -> None:
    await python(alice, box, "x = 1")
    dead = await python(alice, box, "print('last words', flush=True); import os; os._exit(9)")
    assert (dead["success"], dead["output"]) == (False, "last words\n")
    assert dead["error"]
    assert (await python(alice, box, "'x' in globals()"))["output"] == "False"


async def test_the_environment_of_the_sandbox_is_seen(alice: httpx.AsyncClient) -> None:
    box = (await create(alice, wait=15, env={"FROM_CREATE": "too"}))["id"]
    code = "import os; print(os.environ['FROM_PROFILE'], os.environ['FROM_CREATE'], os.getcwd())"
    assert (await python(alice, box, code))["output"].startswith("yes too /")


async def test_what_the_profile_does_not_offer_is_refused_before_anything_starts(
    alice: httpx.AsyncClient,
) -> None:
    made = await create(alice, profile="bare")
    error = assert_error(await post(alice, made["id"], "1"), 400, "capability_not_supported")
    assert error["details"] == {"capability": "python", "available": ["filesystem"]}
    assert (await alice.get(f"/v1/sandboxes/{made['id']}")).json()["compute"] == "cold"


@pytest.mark.parametrize(
    "body", [{}, {"code": 7}, {"code": "1", "timeout": 0}, {"code": "1", "timeout": 301}]
)
async def test_a_wrong_body_is_refused(alice: httpx.AsyncClient, box: str, body: Json) -> None:
    answer = await alice.post(f"/v1/sandboxes/{box}/python/exec", json=body)
    assert_error(answer, 422, "validation_error")


async def test_who_may_only_read_may_not_run(bay: World, alice: httpx.AsyncClient, box: str) -> None:
    reader = await bay.client("alice", "read")
    assert_error(await post(reader, box, "1"), 403, "forbidden")


async def test_the_history_keeps_it_and_the_list_of_execs_does_not(
    alice: httpx.AsyncClient, box: str
) -> None:
    ran = await python(alice, box, "print(1)", description="a try", tags="b,a")
    failed = await python(alice, box, "1 / 0")
    assert [e["id"] for e in await history(alice, box, exec_type="python")] == [
        failed["execution_id"],
        ran["execution_id"],
    ]
    [good] = await history(alice, box, success_only=True)
    assert (good["code"], good["output"], good["description"], good["tags"]) == (
        "print(1)",
        "1\n",
        "a try",
        "a,b",
    )
    [bad] = await history(alice, box, failed_only=True)
    assert bad["error"].endswith("ZeroDivisionError: division by zero")
    assert (await alice.get(f"/v1/sandboxes/{box}/execs")).json()["items"] == []
    path = f"/v1/sandboxes/{box}/execs"
    assert_error(await alice.get(f"{path}/{ran['execution_id']}"), 404, "not_found")
    taken = await alice.post(path, json={"command": "true", "id": ran["execution_id"]})
    assert_error(taken, 409, "conflict")


class BreaksOff(KernelClient):
    """A link that breaks after Ship was told of the code, or before."""

    told = True

    @asynccontextmanager
    async def run(
        self, peer: Peer, kernel_id: str, body: Mapping[str, Any], *, attached: bool = False
    ) -> AsyncGenerator[AsyncIterator[CellEvent]]:
        if self.told:
            async with super().run(peer, kernel_id, body, attached=attached) as events:
                await anext(events)
        raise ShipError("the connection to the sandbox's runtime broke")
        yield  # never reached: it makes a generator of this


async def break_off(bay: World, box: str, code: str, *, told: bool) -> None:
    link = BreaksOff(bay.bay.ship)
    link.told = told
    it = bay.bay
    kernels = Kernels(
        store=it.store,
        deferred=it.deferred,
        waker=it.waker,
        ship=link,
        connections=it.connections,
        clock=bay.clock,
    )
    with pytest.raises(ShipError):
        await kernels.python(ALICE, box, HistoryNote(exec_type="python", code=code), 10, include_code=False)


async def test_how_a_call_ended_that_broke_off_is_asked_of_ship(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await break_off(bay, box, "print('all the same')\n6 * 7", told=True)
    await python(alice, box, "0")
    bay.clock.advance(2)
    entry = (await history(alice, box))[-1]
    assert (entry["success"], entry["output"], entry["error"]) == (True, "all the same\n42", None)
    await break_off(bay, box, "1 / 0", told=True)
    await python(alice, box, "0")
    bay.clock.advance(2)
    [entry] = await history(alice, box, failed_only=True)
    assert entry["error"].endswith("ZeroDivisionError: division by zero")
    assert await bay.sql("SELECT id FROM execs WHERE state = 'running'") == []


async def test_code_that_ship_was_never_told_of_is_lost(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await break_off(bay, box, "1", told=False)
    bay.clock.advance(2)
    assert await history(alice, box) == []  # it may still be on its way
    bay.clock.advance(30)
    [entry] = await history(alice, box)
    assert (entry["success"], entry["error"].startswith("lost: ")) == (False, True)


@pytest.mark.parametrize("end", ["stop", "crash"])
async def test_code_that_runs_when_its_session_ends_fails_at_once(
    bay: World, alice: httpx.AsyncClient, box: str, end: str
) -> None:
    here = bay.workspace((await alice.get(f"/v1/sandboxes/{box}")).json()) / "here"
    waiting = asyncio.create_task(
        post(alice, box, "open('here', 'w').close()\nwhile True: pass", timeout=100)
    )
    await until(here.exists)
    if end == "stop":
        await alice.post(f"/v1/sandboxes/{box}/stop")
    else:
        await bay.driver.crash((await bay.session(box)).id)
    answer = await within(waiting)
    assert (answer.status_code, answer.json()["success"]) == (200, False)
    [entry] = await history(alice, box)
    assert (entry["exec_type"], entry["success"], entry["error"]) == ("python", False, answer.json()["error"])


async def test_code_outlives_bay_and_its_end_is_told_after_the_restart(root: Path) -> None:
    async with world(root) as first:
        alice = await first.client()
        made = await create(alice, wait=15)
        code = "import os, time\nopen('here', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.005)\nprint('done')"
        call = asyncio.create_task(post(alice, made["id"], code))
        await until((first.workspace(made) / "here").exists)
        call.cancel()
        await asyncio.wait([call])
    async with world(root) as second:
        alice = await second.client()
        second.clock.advance(2)
        assert await history(alice, made["id"]) == []
        await shell(alice, made["id"], "touch go")
        assert (await python(alice, made["id"], "'still here'"))["output"] == "'still here'"
        entries = await history(alice, made["id"], exec_type="python")
        assert [entry["output"] for entry in entries] == ["'still here'", "done\n"]
    await clear(root)
