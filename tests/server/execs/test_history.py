"""The history: true to what ran, whatever died meanwhile; filtered, noted on, and never waking anything."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, shell, until, within, world

from bay.errors import ShipError
from bay.models import Exec
from bay.server.execs.locator import ExecLocator
from bay.server.execs.service import Execs
from bay.server.ship.client import ShipClient
from bay.server.ship.connection import Peer
from bay.server.web.auth import Caller
from bay.store.history import MAX_TEXT_BYTES
from bay.store.records import HistoryNote

pytestmark = pytest.mark.anyio

FIELDS = {
    "id", "session_id", "exec_type", "code", "success", "execution_time_ms", "output", "error", "payload_ref",
    "description", "tags", "notes", "learn_enabled", "learn_status", "created_at",
}  # fmt: skip
ALICE = Caller("alice", "write", "key")


@pytest.fixture
async def box(alice: httpx.AsyncClient) -> str:
    return (await create(alice, wait=15))["id"]


async def history(client: httpx.AsyncClient, box: str, **params: Any) -> list[Json]:
    answer = await client.get(f"/v1/sandboxes/{box}/history", params=params)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert set(body) == {"entries", "total"}
    return body["entries"]


async def codes(client: httpx.AsyncClient, box: str, **params: Any) -> list[str]:
    return [entry["code"] for entry in await history(client, box, **params)]


async def note(client: httpx.AsyncClient, box: str, entry: str, **body: Any) -> Json:
    answer = await client.patch(f"/v1/sandboxes/{box}/history/{entry}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_an_entry_tells_what_the_call_answered(bay: World, alice: httpx.AsyncClient, box: str) -> None:
    ran = await shell(alice, box, "echo out; echo err >&2; exit 3", description="a try", tags=" b, a ,,b")
    [entry] = await history(alice, box)
    assert set(entry) == FIELDS
    assert entry["created_at"].endswith("Z")
    assert {name: entry[name] for name in FIELDS - {"created_at"}} == {
        "id": ran["execution_id"], "session_id": (await bay.session(box)).id, "exec_type": "shell",
        "code": "echo out; echo err >&2; exit 3", "success": False, "execution_time_ms": ran["execution_time_ms"],
        "output": "out\n", "error": "err\n", "payload_ref": None, "description": "a try", "tags": "a,b", "notes": None,
        "learn_enabled": False, "learn_status": None,
    }  # fmt: skip
    assert (await alice.get(f"/v1/sandboxes/{box}/history/{entry['id']}")).json() == entry
    assert (await alice.get(f"/v1/sandboxes/{box}/history/last")).json() == entry


async def test_a_timeout_is_a_failure_with_what_was_printed_so_far(
    alice: httpx.AsyncClient, box: str
) -> None:
    await shell(alice, box, "echo so far; exec sleep 1000", timeout=1)
    [entry] = await history(alice, box)
    assert (entry["success"], entry["output"], entry["error"]) == (False, "so far\n", "Command timed out")


async def test_entries_come_newest_first_in_pages_that_know_how_many_there_are(
    alice: httpx.AsyncClient, box: str
) -> None:
    for number in range(5):
        await shell(alice, box, f"true {number}")
    assert await codes(alice, box) == [f"true {n}" for n in (4, 3, 2, 1, 0)]
    page = (await alice.get(f"/v1/sandboxes/{box}/history", params={"limit": 2, "offset": 3})).json()
    assert ([entry["code"] for entry in page["entries"]], page["total"]) == (["true 1", "true 0"], 5)
    assert await codes(alice, box, offset=5) == []


async def test_filters_narrow_and_add_up(alice: httpx.AsyncClient, box: str) -> None:
    await shell(alice, box, "true 1", tags="CI,slow", description="first")
    await shell(alice, box, "false 2", tags="ci-2")
    last = await shell(alice, box, "true 3", tags="100%,a_b", description="")
    await note(alice, box, last["execution_id"], notes="look again")
    assert await codes(alice, box, success_only=True) == ["true 3", "true 1"]
    assert await codes(alice, box, failed_only=True) == ["false 2"]
    assert await codes(alice, box, has_description=True) == ["true 1"]
    assert await codes(alice, box, has_notes=True) == ["true 3"]
    assert await codes(alice, box, exec_type="shell", limit=1) == ["true 3"]
    assert await codes(alice, box, exec_type="python") == []
    assert await codes(alice, box, exec_type="browser") == []
    assert await codes(alice, box, exec_type="browser_batch") == []
    assert await codes(alice, box, tags="ci") == ["true 1"]  # a whole tag, whatever its case
    assert await codes(alice, box, tags="slow, ci-2") == ["false 2", "true 1"]  # any of them
    assert await codes(alice, box, tags="slow,ci-2", success_only=True) == ["true 1"]
    assert await codes(alice, box, tags="%") == []
    assert await codes(alice, box, tags="axb") == []  # no pattern
    assert await codes(alice, box, tags="a_b,") == ["true 3"]
    assert len(await codes(alice, box, tags=" ,")) == 3


@pytest.mark.parametrize(
    "params",
    [{"limit": 0}, {"limit": 501}, {"offset": -1}, {"offset": 1 << 63}, {"exec_type": "x"}, {"success_only": "x"}],
)  # fmt: skip
async def test_a_wrong_question_is_refused(
    alice: httpx.AsyncClient, box: str, params: dict[str, str]
) -> None:
    assert_error(await alice.get(f"/v1/sandboxes/{box}/history", params=params), 422, "validation_error")


async def test_notes_change_what_is_given_and_nothing_else(alice: httpx.AsyncClient, box: str) -> None:
    ran = (await shell(alice, box, "true", description="was", tags="t"))["execution_id"]
    noted = await note(alice, box, ran, notes="n", tags="z, y")
    assert (noted["description"], noted["tags"], noted["notes"]) == ("was", "y,z", "n")
    assert await note(alice, box, ran) == noted
    assert await note(alice, box, ran, tags=None, description=None) == noted
    cleared = await note(alice, box, ran, tags="", description="")
    assert (cleared["tags"], cleared["description"], cleared["notes"]) == (None, "", "n")
    assert await history(alice, box) == [cleared]
    too_long = await alice.patch(f"/v1/sandboxes/{box}/history/{ran}", json={"notes": "x" * 20_000})
    assert_error(too_long, 422, "validation_error")


async def test_who_may_only_read_may_not_note(bay: World, alice: httpx.AsyncClient, box: str) -> None:
    ran = (await shell(alice, box, "true"))["execution_id"]
    reader = await bay.client("alice", "read")
    assert [entry["id"] for entry in await history(reader, box)] == [ran]
    answer = await reader.patch(f"/v1/sandboxes/{box}/history/{ran}", json={"notes": "x"})
    assert_error(answer, 403, "forbidden")


async def test_without_an_entry_there_is_no_last_one(alice: httpx.AsyncClient, box: str) -> None:
    path = f"/v1/sandboxes/{box}/history"
    assert_error(await alice.get(f"{path}/last"), 404, "not_found")
    await shell(alice, box, "true")
    assert (await alice.get(f"{path}/last", params={"exec_type": "shell"})).status_code == 200
    assert_error(await alice.get(f"{path}/last", params={"exec_type": "python"}), 404, "not_found")


async def test_other_commands_are_not_in_the_history(alice: httpx.AsyncClient, box: str) -> None:
    plain = await alice.post(f"/v1/sandboxes/{box}/execs", params={"wait": 15}, json={"command": "true"})
    assert await history(alice, box) == []
    path = f"/v1/sandboxes/{box}/history/{plain.json()['id']}"
    assert_error(await alice.get(path), 404, "not_found")
    assert_error(await alice.patch(path, json={"notes": "x"}), 404, "not_found")


async def test_what_was_refused_never_ran(alice: httpx.AsyncClient, box: str) -> None:
    answer = await alice.post(f"/v1/sandboxes/{box}/shell/exec", json={"command": "pwd", "cwd": "missing"})
    assert answer.status_code == 404
    assert await history(alice, box) == []


async def test_an_execution_is_in_the_history_once_it_is_over(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    running = asyncio.create_task(shell(alice, box, "mkfifo go; cat go"))
    await shell(alice, box, "until [ -p go ]; do sleep 0.01; done")
    bay.clock.advance(2)
    assert len(await history(alice, box)) == 1
    await shell(alice, box, "echo > go")
    await within(running)
    assert len(await history(alice, box)) == 3


async def test_long_output_lacks_its_middle_and_says_so(alice: httpx.AsyncClient, box: str) -> None:
    await shell(alice, box, "echo first; yes x | head -c 300000; echo last; yes é | head -c 200000 >&2")
    [entry] = await history(alice, box)
    for text in (entry["output"], entry["error"]):
        assert MAX_TEXT_BYTES - 8 < len(text.encode()) < MAX_TEXT_BYTES + 100
        assert " bytes not kept ...]\n" in text
    assert entry["output"].startswith("first\nx\n")
    assert entry["output"].endswith("x\nlast\n")


async def test_a_stopped_sandbox_is_read_and_noted_on_without_starting_it(
    alice: httpx.AsyncClient, box: str
) -> None:
    ran = (await shell(alice, box, "true"))["execution_id"]
    await alice.post(f"/v1/sandboxes/{box}/stop")
    assert [entry["id"] for entry in await history(alice, box)] == [ran]
    await note(alice, box, ran, notes="n")
    info = (await alice.get(f"/v1/sandboxes/{box}")).json()
    assert (info["status"], info["compute"]) == ("idle", "cold")


async def test_a_frozen_sandbox_is_read_without_thawing_it(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await shell(alice, box, "true")
    assert (await alice.post(f"/v1/sandboxes/{box}/pause")).status_code == 200
    bay.clock.advance(2)
    assert len(await history(alice, box)) == 1
    assert (await alice.get(f"/v1/sandboxes/{box}")).json()["compute"] == "warm"


async def test_the_history_goes_with_its_sandbox(bay: World, alice: httpx.AsyncClient, box: str) -> None:
    ran = (await shell(alice, box, "echo s3cret"))["execution_id"]
    await alice.delete(f"/v1/sandboxes/{box}")
    for path in ("history", "history/last", f"history/{ran}"):
        assert_error(await alice.get(f"/v1/sandboxes/{box}/{path}"), 404, "not_found")
    assert await bay.sql("SELECT code FROM execs") == []


async def ended(client: httpx.AsyncClient, box: str, command: str) -> Json:
    """The exec of that command once it has ended."""
    execs = (await client.get(f"/v1/sandboxes/{box}/execs")).json()["items"]
    [found] = [item for item in execs if item["argv"][-1] == command]
    return (await client.get(f"/v1/sandboxes/{box}/execs/{found['id']}", params={"wait": 15})).json()


class BreaksOff(ShipClient):
    """A link that breaks after Ship was told of the command, or before."""

    def __init__(self, *, told: bool) -> None:
        super().__init__()
        self._told = told

    async def run(
        self, peer: Peer, exec_id: str, body: Mapping[str, Any], wait_s: float | None, *, chunks: bool = False
    ) -> Exec:
        if self._told:
            await super().run(peer, exec_id, body, wait_s, chunks=chunks)
        raise ShipError("the connection to the sandbox's runtime broke")


async def break_off(bay: World, box: str, command: str, *, told: bool) -> None:
    link = BreaksOff(told=told)
    it = bay.bay
    locator = ExecLocator(store=it.store, deferred=it.deferred, waker=it.waker)
    execs = Execs(
        store=it.store, deferred=it.deferred, waker=it.waker, locator=locator, ship=link, connections=it.connections, clock=bay.clock
    )  # fmt: skip
    with pytest.raises(ShipError):
        await execs.shell(
            ALICE, box, HistoryNote(exec_type="shell", code=command), 10, None, include_code=False
        )
    link.close()


async def test_how_a_call_ended_that_broke_off_is_asked_of_ship(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await break_off(bay, box, "echo all the same; echo err >&2", told=True)
    bay.clock.advance(2)
    [entry] = await history(alice, box)
    assert (entry["success"], entry["output"], entry["error"]) == (True, "all the same\n", "err\n")
    assert (await alice.get(f"/v1/sandboxes/{box}/execs/{entry['id']}")).json()["state"] == "exited"


async def test_what_ship_has_forgotten_is_told_as_far_as_it_is_known(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await break_off(bay, box, "echo gone; exit 4", told=True)
    await ended(alice, box, "echo gone; exit 4")
    bay.clock.advance(2)
    await bay.bay.deferred.flush()
    async with (
        bay.bay.store.write() as db
    ):  # as if it had been seen to end, and then its ten minutes had passed
        await db.exec_driver_sql("UPDATE execs SET id = 'exec-of-another-time'")
    for _ in range(2):
        [entry] = await history(alice, box, failed_only=True)
        assert (entry["output"], entry["error"]) == (None, "exited with 4; what it printed was not kept")
        assert await bay.sql("SELECT success FROM execs") == [(0,)]  # so that nobody is asked again


async def test_what_ship_was_never_told_of_is_lost(bay: World, alice: httpx.AsyncClient, box: str) -> None:
    await break_off(bay, box, "true", told=False)
    bay.clock.advance(2)
    assert await history(alice, box) == []  # it may still be on its way
    bay.clock.advance(30)
    [entry] = await history(alice, box)
    assert (entry["success"], entry["output"]) == (False, None)
    assert entry["error"].startswith("lost: ")
    assert await codes(alice, box, failed_only=True) == ["true"]
    assert await codes(alice, box, success_only=True) == []


async def test_what_runs_when_its_sandbox_is_stopped_is_no_success(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    waiting = asyncio.create_task(
        alice.post(f"/v1/sandboxes/{box}/shell/exec", json={"command": "touch here; exec sleep 1000"})
    )
    here = bay.workspace((await alice.get(f"/v1/sandboxes/{box}")).json()) / "here"
    await until(here.exists)
    await alice.post(f"/v1/sandboxes/{box}/stop")
    await within(waiting)
    [entry] = await history(alice, box)
    assert (entry["success"], entry["code"]) == (False, "touch here; exec sleep 1000")
    assert entry["error"]


async def test_an_execution_outlives_bay_and_its_end_is_told_after_the_restart(root: Path) -> None:
    async with world(root) as first:
        alice = await first.client()
        made = await create(alice, wait=15)
        command = "mkfifo go; cat go; echo done"
        call = asyncio.create_task(
            alice.post(f"/v1/sandboxes/{made['id']}/shell/exec", json={"command": command})
        )
        await until((first.workspace(made) / "go").exists)
        call.cancel()
        await asyncio.wait([call])
    async with world(root) as second:
        alice = await second.client("alice", "read")
        second.clock.advance(2)
        assert await history(alice, made["id"]) == []
        await shell(await second.client(), made["id"], "echo from here > go")
        await ended(alice, made["id"], command)
        entries = await history(alice, made["id"], success_only=True)
        assert [e["output"] for e in entries if e["code"] == command] == ["from here\ndone\n"]
    await clear(root)
