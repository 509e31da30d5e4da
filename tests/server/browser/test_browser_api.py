"""The browser's routes, with a program in the place of agent-browser that does as it is told."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, eventually, until, within, world

from bay.server.browser.service import Browsers
from bay.server.settings import ProfileSettings

pytestmark = pytest.mark.anyio

# `say WORD…`, `fail CODE WORD`, `hang FILE` (writes its pid there), `show VARIABLE`, `fill COUNT`.
STAND_IN = """#!/bin/sh
verb=$1
shift
case $verb in
  say) printf '%s|' "$@"; echo ;;
  fail) echo "$2" >&2; exit "$1" ;;
  hang) echo begun; echo $$ > "$1"; exec sleep 1000 ;;
  show) eval "echo \\"\\$$1\\"" ;;
  fill) head -c "$1" /dev/zero | tr '\\0' x ;;
esac
"""


@pytest.fixture
def programs(root: Path) -> Path:
    directory = root / "bin"
    directory.mkdir()
    program = directory / "agent-browser"
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return directory


def profiles(programs: Path) -> dict[str, ProfileSettings]:
    both = ["shell", "filesystem", "browser"]
    given: dict[str, Json] = {
        "web": {"start": "lazy", "capabilities": both, "env": {"PATH": f"{programs}:/usr/bin:/bin"}},
        "bare": {"start": "lazy", "capabilities": both, "env": {"PATH": "/usr/bin:/bin"}},
        "python-default": {"start": "lazy"},
    }
    return {name: ProfileSettings.model_validate(values) for name, values in given.items()}


@pytest.fixture
async def bay(root: Path, programs: Path) -> AsyncGenerator[World]:
    try:
        async with world(root, profiles=profiles(programs)) as running:
            yield running
    finally:
        await clear(root)


@pytest.fixture
async def box(alice: httpx.AsyncClient) -> Json:
    return await create(alice, profile="web")


async def call(client: httpx.AsyncClient, box: Json, path: str, **body: Any) -> httpx.Response:
    return await client.post(f"/v1/sandboxes/{box['id']}/browser/{path}", json=body)


async def run(client: httpx.AsyncClient, box: Json, cmd: str, **body: Any) -> Json:
    answer = await call(client, box, "exec", cmd=cmd, **body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def batch(client: httpx.AsyncClient, box: Json, *cmds: str, **body: Any) -> Json:
    answer = await call(client, box, "exec_batch", commands=cmds, **body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def history(client: httpx.AsyncClient, box: Json, **params: Any) -> list[Json]:
    answer = await client.get(f"/v1/sandboxes/{box['id']}/history", params=params)
    return answer.json()["entries"]


async def begun(bay: World, box: Json, name: str = "pid") -> int:
    """The process of a command that hangs."""
    file = bay.workspace(box) / name
    await until(lambda: file.exists() and file.read_text().endswith("\n"))
    return int(file.read_text())


def failed(answer: httpx.Response) -> bool:
    """Whether the answer says that a session ended: as an error, or as the signal that the command got."""
    return answer.status_code in (502, 503, 504) or not answer.json()["success"]


def is_over(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def test_a_command_is_split_as_a_shell_splits_and_no_shell_reads_it(
    alice: httpx.AsyncClient, box: Json
) -> None:
    ran = await run(alice, box, """say 'two words' "$HOME" `id` \\; >x""", description="a look", tags="b,a")
    assert ran["output"] == "two words|$HOME|`id`|;|>x|\n"
    assert (ran["success"], ran["error"], ran["exit_code"], ran["trace_ref"]) == (True, None, 0, None)
    assert set(ran) == {
        *("success", "output", "error", "exit_code", "execution_id", "execution_time_ms", "trace_ref")
    }
    [entry] = await history(alice, box, exec_type="browser")
    assert (entry["id"], entry["output"]) == (ran["execution_id"], ran["output"])
    assert (entry["code"][:3], entry["description"], entry["tags"]) == ("say", "a look", "a,b")
    assert (entry["learn_enabled"], entry["learn_status"], entry["payload_ref"]) == (False, None, None)


async def test_a_failure_is_an_answer_with_its_exit_code(alice: httpx.AsyncClient, box: Json) -> None:
    ran = await run(alice, box, "fail 3 'no such element'")
    assert (ran["success"], ran["exit_code"], ran["error"]) == (False, 3, "no such element\n")
    [entry] = await history(alice, box)
    assert (entry["success"], entry["error"]) == (False, "no such element\n")


@pytest.mark.host
async def test_a_timeout_ends_the_command_and_keeps_what_it_printed(
    bay: World, alice: httpx.AsyncClient, box: Json
) -> None:
    ran = await run(alice, box, "hang pid", timeout=5)
    assert (ran["success"], ran["exit_code"], ran["error"]) == (False, -1, "Command timed out")
    assert ran["output"] == "begun\n"
    assert is_over(await begun(bay, box))


async def test_a_sandbox_without_the_program_is_told_where_to_get_it(alice: httpx.AsyncClient) -> None:
    ran = await run(alice, await create(alice, profile="bare"), "open about:blank")
    assert ran["exit_code"] == 127
    assert "docs/browser.md" in ran["error"]


@pytest.mark.parametrize("path", ["exec", "exec_batch"])
async def test_a_profile_without_the_capability_starts_nothing(
    bay: World, alice: httpx.AsyncClient, path: str
) -> None:
    box = await create(alice)
    answer = await call(alice, box, path, **({"cmd": "say x"} if path == "exec" else {"commands": ["say x"]}))
    assert_error(answer, 400, "capability_not_supported")
    assert answer.json()["error"]["details"]["capability"] == "browser"
    assert (await bay.record(box["id"])).session is None
    assert "browser" not in box["capabilities"]


@pytest.mark.parametrize("body", [{"cmd": "say 'x"}, {"cmd": "  "}, {"commands": ["say x", 'say "x']}])
async def test_a_command_that_cannot_be_split_runs_nothing(
    bay: World, alice: httpx.AsyncClient, box: Json, body: Json
) -> None:
    answer = await call(alice, box, "exec" if "cmd" in body else "exec_batch", **body)
    assert_error(answer, 400, "validation_error")
    assert (await bay.record(box["id"])).session is None


@pytest.mark.parametrize(
    "body",
    [
        {"cmd": "x", "timeout": 301},
        {"cmd": "x\0"},
        {"cmd": "x", "stop_on_error": True},
        {"commands": []},
        {"commands": ["x"], "timeout": 601},
        {"commands": ["x"] * 201},
        {"commands": ["x" * 32000] * 10},
        {"commands": [""]},
    ],
    ids=range(8),
)
async def test_a_body_out_of_bounds_is_refused(alice: httpx.AsyncClient, box: Json, body: Json) -> None:
    answer = await call(alice, box, "exec" if "cmd" in body else "exec_batch", **body)
    assert_error(answer, 422, "validation_error")


async def test_a_variable_of_the_profile_is_stronger_than_bays_own(
    alice: httpx.AsyncClient, box: Json
) -> None:
    assert (await run(alice, box, "show AGENT_BROWSER_ARGS"))["output"] == "--no-sandbox\n"
    assert (await run(alice, box, "show AGENT_BROWSER_PROFILE"))["output"] == "/workspace/.browser/profile\n"
    env = {"AGENT_BROWSER_ARGS": "", "AGENT_BROWSER_PROFILE": "/workspace/own"}
    other = await create(alice, profile="web", env=env)
    assert (await run(alice, other, "show AGENT_BROWSER_ARGS"))["output"] == "\n"
    assert (await run(alice, other, "show AGENT_BROWSER_PROFILE"))["output"] == "/workspace/own\n"


@pytest.mark.parametrize(
    ("holder", "goes"), [("elsewhere-7", True), ("{own}-7", False)], ids=["another's", "its own"]
)
async def test_only_a_lock_that_another_computer_left_is_taken_from_the_profile(
    bay: World, alice: httpx.AsyncClient, holder: str, goes: bool
) -> None:
    box = await create(alice, profile="web", env={"AGENT_BROWSER_PROFILE": "profile"})
    where = bay.workspace(box) / "profile"
    await run(alice, box, "say started")
    where.mkdir()
    (where / "SingletonLock").symlink_to(holder.format(own=os.uname().nodename))
    (where / "Cookies").write_text("")
    await run(alice, box, "say again")
    assert ("SingletonLock" not in {path.name for path in where.iterdir()}) == goes
    assert (where / "Cookies").exists()


async def test_a_batch_runs_its_commands_in_order(alice: httpx.AsyncClient, box: Json) -> None:
    done = await batch(alice, box, "say one", "say two", tags="x")
    assert [step["stdout"] for step in done["results"]] == ["one|\n", "two|\n"]
    assert set(done["results"][0]) == {"cmd", "stdout", "stderr", "exit_code", "step_index", "duration_ms"}
    assert [step["step_index"] for step in done["results"]] == [0, 1]
    assert (done["success"], done["total_steps"], done["completed_steps"]) == (True, 2, 2)
    [entry] = await history(alice, box, exec_type="browser_batch")
    assert (entry["id"], entry["code"], entry["success"]) == (done["execution_id"], "say one\nsay two", True)
    assert (entry["output"], entry["tags"]) == ("one|\n\ntwo|\n", "x")
    listed = (await alice.get(f"/v1/sandboxes/{box['id']}/execs")).json()["items"]
    assert [item["state"] for item in listed] == ["exited", "exited"]  # its steps; it is no process itself
    assert (await alice.get(f"/v1/sandboxes/{box['id']}/execs/{entry['id']}")).status_code == 404


async def test_a_batch_stops_at_a_failure_unless_it_is_told_not_to(
    alice: httpx.AsyncClient, box: Json
) -> None:
    cmds = ("say one", "fail 2 broken", "say three")
    stopped = await batch(alice, box, *cmds)
    assert (stopped["success"], stopped["completed_steps"], stopped["total_steps"]) == (False, 2, 3)
    assert [step["exit_code"] for step in stopped["results"]] == [0, 2]
    went_on = await batch(alice, box, *cmds, stop_on_error=False)
    assert (went_on["success"], went_on["completed_steps"]) == (False, 3)
    assert [step["exit_code"] for step in went_on["results"]] == [0, 2, 0]
    assert [entry["error"] for entry in await history(alice, box)] == ["broken\n", "broken\n"]


async def test_a_batch_has_one_time_limit_for_all_its_commands(alice: httpx.AsyncClient, box: Json) -> None:
    done = await batch(alice, box, "hang pid", "say two", timeout=1, stop_on_error=False)
    assert [(step["exit_code"], step["stderr"]) for step in done["results"]] == [(-1, "Command timed out")]
    assert (done["success"], done["completed_steps"], done["total_steps"]) == (False, 1, 2)


async def test_long_output_is_cut_in_the_answer_of_a_batch(alice: httpx.AsyncClient, box: Json) -> None:
    done = await batch(alice, box, *["fill 1000000"] * 5)
    assert sum(len(step["stdout"]) for step in done["results"]) < (4 << 20) + 1000
    assert "characters not kept" in done["results"][-1]["stdout"]


async def test_one_command_runs_at_a_time_and_the_next_gets_its_turn(
    bay: World, alice: httpx.AsyncClient, box: Json
) -> None:
    first = asyncio.ensure_future(run(alice, box, "hang pid", timeout=60))
    pid = await begun(bay, box)
    second = asyncio.ensure_future(run(alice, box, "say second"))
    turns = bay.app.state.services[Browsers].turns
    await until(lambda: turns.waiting(box["id"]) == 1)
    other = await create(alice, profile="web")
    assert (await run(alice, other, "say elsewhere"))["success"]
    assert not second.done()
    await alice.post(f"/v1/sandboxes/{box['id']}/processes/{pid}/signal", json={"signal": "KILL"})
    assert (await within(first))["exit_code"] == 137
    assert (await within(second))["output"] == "second|\n"
    assert turns.waiting(box["id"]) == 0


async def test_few_wait_for_a_turn_and_one_more_is_refused_in_words(
    bay: World, alice: httpx.AsyncClient, box: Json
) -> None:
    first = asyncio.ensure_future(call(alice, box, "exec", cmd="hang pid", timeout=60))
    await begun(bay, box)
    waiting = [asyncio.ensure_future(call(alice, box, "exec", cmd="say x", timeout=60)) for _ in range(8)]
    turns = bay.app.state.services[Browsers].turns
    await until(lambda: turns.waiting(box["id"]) == 8)
    refused = await call(alice, box, "exec", cmd="say y")
    assert_error(refused, 429, "quota_exceeded")
    assert "as a batch" in refused.json()["error"]["message"]
    waiting.pop().cancel()  # which gives up its place
    await until(lambda: turns.waiting(box["id"]) == 7)
    late = await call(alice, box, "exec", cmd="say y", timeout=1)
    assert_error(late, 504, "timeout")
    assert "nothing was run" in late.json()["error"]["message"]
    await alice.delete(f"/v1/sandboxes/{box['id']}")
    assert failed(await within(first))
    answers = await within(asyncio.gather(*waiting))
    assert {answer.status_code for answer in answers} == {404}


@pytest.mark.parametrize("path", ["exec", "exec_batch"])
async def test_a_client_that_disconnects_takes_its_command_along(
    bay: World, alice: httpx.AsyncClient, box: Json, path: str
) -> None:
    cmds = ["say one", "hang pid", "say three"]
    body: Json = {"cmd": "hang pid"} if path == "exec" else {"commands": cmds}
    calling = asyncio.ensure_future(call(alice, box, path, **body))
    pid = await begun(bay, box)
    calling.cancel()
    await until(lambda: is_over(pid))
    assert (await run(alice, box, "say next"))["output"] == "next|\n"
    kind = "browser" if path == "exec" else "browser_batch"

    async def is_told() -> bool:
        entries = await history(alice, box, exec_type=kind, failed_only=True)
        return [entry["code"] for entry in entries] == [
            "\n".join(cmds) if path == "exec_batch" else "hang pid"
        ]

    await eventually(is_told)


async def test_a_stop_ends_the_command_and_the_next_one_starts_anew(
    bay: World, alice: httpx.AsyncClient, box: Json
) -> None:
    calling = asyncio.ensure_future(call(alice, box, "exec_batch", commands=["say one", "hang pid"]))
    await begun(bay, box)
    before = (await bay.session(box["id"])).id
    assert (await alice.post(f"/v1/sandboxes/{box['id']}/stop")).status_code == 200
    assert failed(await within(calling))
    assert (await run(alice, box, "say again"))["output"] == "again|\n"
    assert (await bay.session(box["id"])).id != before
    [entry] = await history(alice, box, exec_type="browser_batch")
    assert not entry["success"]
    assert entry["error"]


async def test_a_trace_is_stored_and_told_of_when_it_is_asked_for(
    alice: httpx.AsyncClient, box: Json
) -> None:
    ran = await run(alice, box, "say one", include_trace=True)
    found = await alice.get(f"/v1/sandboxes/{box['id']}/browser/traces/{ran['trace_ref']}")
    assert found.status_code == 200, found.text
    assert ran["trace_ref"].startswith("blob:blob-")
    trace = found.json()
    assert trace["trace_ref"] == ran["trace_ref"]
    assert (trace["trace"]["kind"], trace["trace"]["commands"]) == ("browser_exec_trace", ["say one"])
    [step] = trace["trace"]["steps"]
    assert (step["kind"], step["cmd"], step["stdout"]) == ("individual_action", "say one", "one|\n")
    done = await batch(alice, box, "say one", "fail 1 x", "say y", include_trace=True)
    trace = (await alice.get(f"/v1/sandboxes/{box['id']}/browser/traces/{done['trace_ref']}")).json()["trace"]
    assert (trace["kind"], [step["exit_code"] for step in trace["steps"]]) == ("browser_batch_trace", [0, 1])
    assert [entry["payload_ref"] for entry in await history(alice, box)] == [
        done["trace_ref"],
        ran["trace_ref"],
    ]


async def test_what_is_to_be_learned_from_is_stored_and_shown_by_the_history_alone(
    alice: httpx.AsyncClient, box: Json
) -> None:
    ran = await run(alice, box, "say one", learn=True)
    done = await batch(alice, box, "say one", learn=True)
    assert (ran["trace_ref"], done["trace_ref"]) == (None, None)
    for entry in await history(alice, box):
        assert (entry["learn_enabled"], entry["learn_status"]) == (True, "pending")
        ref = entry["payload_ref"]
        trace = (await alice.get(f"/v1/sandboxes/{box['id']}/browser/traces/{ref}")).json()["trace"]
        assert trace["execution_id"] == entry["id"]


async def test_a_payload_that_is_no_trace_is_not_shown_as_one(
    bay: World, alice: httpx.AsyncClient, box: Json
) -> None:
    ref = await bay.bay.skill_payloads.put("alice", "generic", {"commands": []})
    for wrong in (ref, "blob:blob-x", "s3://x", "blob:blob-0123456789abcdef01234567"):
        answer = await alice.get(f"/v1/sandboxes/{box['id']}/browser/traces/{wrong}")
        assert_error(answer, 404, "not_found")


async def test_without_room_for_its_trace_a_command_does_not_run(root: Path, programs: Path) -> None:
    async with world(root, profiles=profiles(programs), skills_max_mb=1) as full:
        alice = await full.client("alice")
        box = await create(alice, profile="web")
        await full.bay.skill_payloads.put("alice", "generic", ["x" * ((1 << 20) - 65_536)])
        assert_error(await call(alice, box, "exec", cmd="say x", learn=True), 429, "quota_exceeded")
        assert (await full.record(box["id"])).session is None
        assert (await run(alice, box, "say x"))["success"]
    await clear(root)


async def test_a_trace_that_finds_no_room_is_told_of_and_costs_no_result(root: Path, programs: Path) -> None:
    async with world(root, profiles=profiles(programs), skills_max_mb=1) as full:
        alice = await full.client("alice")
        box = await create(alice, profile="web")
        await full.bay.skill_payloads.put("alice", "generic", ["x" * ((1 << 20) - 200_000)])
        ran = await run(alice, box, "fill 400000", learn=True, include_trace=True)
        assert (ran["success"], ran["trace_ref"]) == (True, None)
        [entry] = await history(alice, box)
        assert (entry["learn_status"], entry["payload_ref"]) == ("failed", None)
    await clear(root)


async def released(client: httpx.AsyncClient, source: str, ref: str | None, **more: Any) -> Json:
    """A skill `sign-in` with that payload, which passed, and its release."""
    body = {"skill_key": "sign-in", "source_execution_ids": [source], "payload_ref": ref, **more}
    candidate = (await client.post("/v1/skills/candidates", json=body)).json()["id"]
    await client.post(f"/v1/skills/candidates/{candidate}/evaluate", json={"passed": True})
    answer = await client.post(f"/v1/skills/candidates/{candidate}/promote", json={"stage": "stable"})
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


async def test_a_skill_made_of_a_trace_is_replayed(alice: httpx.AsyncClient, box: Json) -> None:
    seen = await batch(alice, box, "say one", "say 'two words'", include_trace=True)
    release = await released(alice, seen["execution_id"], seen["trace_ref"])
    answer = await call(alice, box, "skills/sign-in/run", tags="nightly", include_trace=True)
    assert answer.status_code == 200, answer.text
    done = answer.json()
    assert [step["stdout"] for step in done["results"]] == ["one|\n", "two words|\n"]
    assert (done["skill_key"], done["release_id"], done["success"]) == ("sign-in", release["id"], True)
    entry = (await history(alice, box, exec_type="browser_batch"))[0]
    assert entry["tags"] == f"nightly,release:{release['id']},skill:sign-in,stage:stable"
    assert entry["payload_ref"] == done["trace_ref"]
    health = (await alice.get(f"/v1/skills/releases/{release['id']}/health")).json()
    assert (health["samples"], health["success_rate"]) == (1, 1.0)


async def test_a_skill_without_an_active_release_is_not_found(alice: httpx.AsyncClient, box: Json) -> None:
    answer = await alice.post(f"/v1/sandboxes/{box['id']}/browser/skills/some/where/run")
    assert_error(answer, 404, "not_found")
    assert "some/where has no active release" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "payload",
    [None, {"steps": []}, ["say x"], {"commands": []}, {"commands": [1]}, {"commands": ["x"] * 201}],
    ids=range(6),
)
async def test_a_skill_without_commands_runs_nothing(
    bay: World, alice: httpx.AsyncClient, box: Json, payload: Any
) -> None:
    source = (await run(alice, box, "say x"))["execution_id"]
    stored = {"payload": payload, "kind": "generic"}
    ref = "s3://elsewhere/x"
    if payload is not None:
        ref = (await alice.post("/v1/skills/payloads", json=stored)).json()["payload_ref"]
    await released(alice, source, ref)
    answer = await call(alice, box, "skills/sign-in/run")
    assert_error(answer, 400, "validation_error")
    assert len(await history(alice, box)) == 1
