"""`…/shell/exec` and `…/execs`: commands, their output, and what becomes of them."""

import asyncio
import base64
import hashlib
import json
import os
import signal
import time
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from server_harness import Json, Served, World, assert_error, create, eventually, shell, ships, until, within

pytestmark = pytest.mark.anyio

FIELDS = {
    "id", "argv", "pid", "tty", "state", "exit_code", "signal", "started_at", "ended_at", "output_bytes",
    "first_offset", "keep_alive", "labels", "timed_out", "stdout", "stderr", "truncated", "rows", "cols", "reason",
    "wait_for_reader", "output",
}  # fmt: skip
UNKNOWN = "exec-" + "0123456789ab" * 2


@pytest.fixture
async def box(alice: httpx.AsyncClient) -> str:
    return (await create(alice, wait=15))["id"]


async def start(client: httpx.AsyncClient, box: str, wait: float | None = None, **body: Any) -> Json:
    answer = await client.post(
        f"/v1/sandboxes/{box}/execs", json=body, params={} if wait is None else {"wait": wait}
    )
    assert answer.status_code == 201, answer.text
    return answer.json()


async def look(client: httpx.AsyncClient, box: str, exec_id: str, wait: float | None = None) -> Json:
    params = {} if wait is None else {"wait": wait}
    answer = await client.get(f"/v1/sandboxes/{box}/execs/{exec_id}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def lines(text: str) -> list[Json]:
    return [json.loads(line) for line in text.splitlines()]


def data(items: list[Json], stream: str | None = None) -> bytes:
    wanted = [i for i in items if "data" in i and stream in (None, i["stream"])]
    return b"".join(base64.b64decode(i["data"]) for i in wanted)


# shell/exec


async def test_a_command_answers_with_what_it_printed(alice: httpx.AsyncClient, box: str) -> None:
    answer = await shell(alice, box, "echo out")
    assert isinstance(answer.pop("execution_time_ms"), int)
    assert answer.pop("execution_id").startswith("exec-")
    assert answer == {
        "success": True, "output": "out\n", "error": None, "exit_code": 0, "command": None, "truncated": False,
    }  # fmt: skip
    failed = await shell(alice, box, "echo out; echo err >&2; exit 3", include_code=True)
    assert (failed["success"], failed["output"], failed["error"]) == (False, "out\n", "err\n")
    assert (failed["exit_code"], failed["command"]) == (3, "echo out; echo err >&2; exit 3")


async def test_a_command_runs_in_the_workspace_or_below_it_with_the_environment_it_should_have(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, env={"FROM_CREATE": "too", "FROM_PROFILE": "overridden"})
    where = bay.workspace(made)
    assert (await shell(alice, made["id"], "pwd"))["output"] == f"{where}\n"
    await shell(alice, made["id"], "mkdir -p a/b")
    assert (await shell(alice, made["id"], "pwd", cwd="a/./b/"))["output"] == f"{where}/a/b\n"
    printed = (await shell(alice, made["id"], "echo $FROM_PROFILE $FROM_CREATE $SHIP_TOKEN."))["output"]
    assert printed == "overridden too .\n"
    plain = await create(alice)
    assert (await shell(alice, plain["id"], "echo $FROM_PROFILE"))["output"] == "yes\n"


async def test_a_timeout_keeps_what_was_printed(alice: httpx.AsyncClient, box: str) -> None:
    answer = await shell(alice, box, "echo before; sleep 1000", timeout=1)
    assert (answer["success"], answer["exit_code"], answer["error"]) == (False, -1, "Command timed out")
    assert answer["output"] == "before\n"
    assert 900 <= answer["execution_time_ms"] < 10_000
    assert (await look(alice, box, answer["execution_id"]))["timed_out"] is True


async def test_a_timeout_ends_what_ignores_term(alice: httpx.AsyncClient, box: str) -> None:
    command = "trap '' TERM; echo before; while :; do sleep 0.1; done"
    answer = await shell(alice, box, command, timeout=1)
    assert (answer["exit_code"], answer["output"]) == (-1, "before\n")
    assert (await look(alice, box, answer["execution_id"]))["state"] in ("killed", "exited")


async def test_a_background_child_that_holds_the_pipe_does_not_delay_the_answer(
    alice: httpx.AsyncClient, box: str
) -> None:
    began = time.monotonic()
    answer = await shell(alice, box, "sleep 1000 & echo $!")
    assert answer["success"]
    assert time.monotonic() - began < 10
    assert (await shell(alice, box, f"kill {answer['output']}"))["success"]


async def test_a_command_killed_by_a_signal_fails_and_says_which(alice: httpx.AsyncClient, box: str) -> None:
    answer = await shell(alice, box, "kill -9 $$")
    assert (answer["success"], answer["exit_code"], answer["error"]) == (False, 137, "killed by signal 9")


async def test_a_flood_is_bounded_and_says_so(alice: httpx.AsyncClient, box: str) -> None:
    answer = await shell(alice, box, "head -c 20000000 /dev/zero | tr '\\0' x; echo; echo end")
    assert answer["truncated"] is True
    assert len(answer["output"]) <= 1 << 20
    assert answer["output"].endswith("x\nend\n")


async def test_output_that_is_not_text_is_shown_all_the_same(alice: httpx.AsyncClient, box: str) -> None:
    assert (await shell(alice, box, "printf 'a\\377b\\0c\\345\\245\\275'"))["output"] == "a\ufffdb\0c好"


@pytest.mark.parametrize(
    "body",
    [
        {}, {"command": ""}, {"command": 1}, {"command": "x\0y"}, {"command": "true", "timeout": 0},
        {"command": "true", "timeout": 301}, {"command": "true", "timeout": None}, {"command": "x" * 131073},
        {"command": "\ud800"}, {"command": "true", "cwd": 1}, {"command": ["true"]},
    ],
    ids=lambda b: str(b)[:40],
)  # fmt: skip
async def test_a_wrong_shell_call_is_422_and_starts_nothing(
    bay: World, alice: httpx.AsyncClient, body: Json
) -> None:
    made = await create(alice)
    answer = await alice.post(
        f"/v1/sandboxes/{made['id']}/shell/exec", content=json.dumps(body), headers=JSON
    )
    assert_error(answer, 422, "validation_error")
    assert (await bay.record(made["id"])).session is None


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("cwd", "reason"),
    [("", "empty_path"), ("/a\0b", "null_byte"), ("..", "path_traversal"), ("a/../../b", "path_traversal"),
     ("a\0b", "null_byte")],
)  # fmt: skip
@pytest.mark.parametrize("call", ["shell/exec", "execs"])
async def test_a_cwd_that_leaves_the_workspace_is_refused_before_anything_starts(
    bay: World, alice: httpx.AsyncClient, call: str, cwd: str, reason: str
) -> None:
    made = await create(alice)
    answer = await alice.post(f"/v1/sandboxes/{made['id']}/{call}", json={"command": "true", "cwd": cwd})
    assert assert_error(answer, 400, "invalid_path")["details"] == {"field": "cwd", "reason": reason}
    assert (await bay.record(made["id"])).session is None


async def test_a_cwd_that_is_not_there_or_leads_out_by_a_link_is_the_callers_mistake(
    alice: httpx.AsyncClient, box: str
) -> None:
    await shell(alice, box, "ln -s /etc out; touch file")
    where = (await shell(alice, box, "pwd"))["output"].strip()
    for cwd, status in (("nowhere", 404), ("out", 403), ("file", 404), (f"{where}/nowhere", 404)):
        answer = await alice.post(f"/v1/sandboxes/{box}/shell/exec", json={"command": "pwd", "cwd": cwd})
        assert answer.status_code == status, (cwd, answer.text)
        if status == 404:
            full = f"{where}/{cwd.removeprefix(where + '/')}"
            assert answer.json()["error"]["message"] == f"there is no directory {full} in the sandbox"


# Execs


async def test_an_exec_has_every_field_and_can_be_waited_for(alice: httpx.AsyncClient, box: str) -> None:
    made = await start(alice, box, command="echo out; echo err >&2; read x")
    assert set(made) == FIELDS
    assert (made["state"], made["exit_code"], made["ended_at"], made["tty"]) == (
        "exited",
        1,
        made["ended_at"],
        False,
    ) or (made["state"] == "running")
    ended = await look(alice, box, made["id"], wait=15)
    assert (ended["state"], ended["exit_code"], ended["signal"]) == ("exited", 1, None)
    assert (ended["stdout"], ended["stderr"], ended["output_bytes"]) == ("out\n", "err\n", 8)
    assert ended["started_at"] <= ended["ended_at"]
    assert ended["ended_at"].endswith("Z")
    listed = (await alice.get(f"/v1/sandboxes/{box}/execs")).json()
    assert (listed["has_more"], listed["next_cursor"]) == (False, None)
    assert [(i["id"], i["state"], i["stdout"]) for i in listed["items"]] == [(made["id"], "exited", None)]


async def test_an_exec_keeps_its_labels_in_every_answer(alice: httpx.AsyncClient, box: str) -> None:
    labels = {"tag": "build", "bay.dev/of": "x y"}
    execs = f"/v1/sandboxes/{box}/execs"
    made = (await alice.post(execs, json={"argv": ["sleep", "1000"], "labels": labels})).json()
    one = f"{execs}/{made['id']}"
    (listed,) = (await alice.get(execs)).json()["items"]
    signalled = (await alice.post(f"{one}/signal", json={"signal": "CONT"})).json()
    ended = (await alice.delete(one)).json()
    later = (await alice.get(one)).json()
    assert [shown["labels"] for shown in (made, listed, signalled, ended, later)] == [labels] * 5


@pytest.mark.parametrize(
    "labels", [{"": "x"}, {"a": 1}, {"a": "x" * 257}, {f"a{n}": "" for n in range(65)}], ids=len
)
async def test_labels_of_an_exec_are_bounded(alice: httpx.AsyncClient, box: str, labels: Json) -> None:
    answer = await alice.post(f"/v1/sandboxes/{box}/execs", json={"argv": ["true"], "labels": labels})
    assert_error(answer, 422, "validation_error")


async def test_argv_is_run_as_it_is(alice: httpx.AsyncClient, box: str) -> None:
    done = await start(alice, box, 15, argv=["printf", "%s|", "a b", "$HOME", ""])
    assert (done["stdout"], done["argv"]) == ("a b|$HOME||", ["printf", "%s|", "a b", "$HOME", ""])
    largest = await start(alice, box, 15, argv=["printf", "%s", *["x" * 65_536] * 16, "y" * (128 * 1024 - 1)])
    assert (largest["exit_code"], largest["truncated"]) == (0, True)
    assert largest["stdout"].endswith("y" * 100)
    assert largest["argv"][-1].endswith("… (16 more words)")
    assert sum(map(len, largest["argv"])) < 66_000
    missing = await start(alice, box, 15, argv=["no-such-program"])
    assert (missing["exit_code"], missing["state"]) == (127, "exited")


async def test_stdin_env_and_timeout_reach_the_command(alice: httpx.AsyncClient, box: str) -> None:
    assert (await start(alice, box, 15, command="cat", stdin="héllo"))["stdout"] == "héllo"
    binary = base64.b64encode(b"\0\xff").decode()
    assert (await start(alice, box, 15, argv=["od", "-An", "-tx1"], stdin_base64=binary))[
        "stdout"
    ] == " 00 ff\n"
    assert (await start(alice, box, 15, command="echo $A", env={"A": "b"}))["stdout"] == "b\n"
    late = await start(alice, box, 15, argv=["sleep", "1000"], timeout_s=0.2)
    assert (late["timed_out"], late["state"]) == (True, "killed")


@pytest.mark.parametrize(
    "body",
    [
        {}, {"command": "a", "argv": ["a"]}, {"argv": []}, {"argv": ["a\0"]}, {"command": "a", "timeout_s": 0},
        {"command": "a", "timeout_s": "NaN"}, {"command": "a", "id": "mine"},
        {"command": "a", "rows": 24}, {"command": "a", "tty": True, "cols": 0}, {"command": "a", "tty": "maybe"},
        {"command": "a", "max_run_after_disconnect_s": 0}, {"command": "a", "max_run_after_disconnect_s": 1e999},
        {"command": "a", "env": {"A": 1}}, {"command": "a", "stdin": "x", "stdin_base64": ""},
        {"command": "a", "stdin_base64": "%%"}, {"command": "a", "stdin": "\ud800"}, {"argv": ["\ud800"]},
    ],
    ids=lambda b: str(b)[:50],
)  # fmt: skip
async def test_a_wrong_exec_is_422(alice: httpx.AsyncClient, body: Json) -> None:
    made = await create(alice)
    path = f"/v1/sandboxes/{made['id']}/execs"
    assert_error(await alice.post(path, content=json.dumps(body), headers=JSON), 422, "validation_error")
    assert (await alice.get(path)).json()["items"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"user": "no/body"}, {"user": ""}, {"user": "a:b:c"}, {"env": {"A=B": "x"}}, {"env": {"": "x"}}, {"env": {"A": "x\0y"}},
        {"cwd": "/a\0b"}, {"cwd": "../.."}, {"cwd": ""}, {"cwd": "a\0b"},
    ],
    ids=str,
)  # fmt: skip
async def test_a_place_an_environment_or_a_user_that_cannot_be_is_400_before_anything_starts(
    bay: World, alice: httpx.AsyncClient, body: Json
) -> None:
    made = await create(alice)
    path = f"/v1/sandboxes/{made['id']}/execs"
    answer = await alice.post(path, json={"command": "true", **body})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["code"] in ("validation_error", "invalid_path")
    assert (await alice.get(path)).json()["items"] == []
    assert (await bay.record(made["id"])).session is None


async def test_stdin_that_is_not_base64_is_the_callers_mistake(alice: httpx.AsyncClient, box: str) -> None:
    answer = await alice.post(f"/v1/sandboxes/{box}/execs", json={"command": "cat", "stdin_base64": "A"})
    assert answer.status_code in (400, 422), answer.text
    assert_error(answer, answer.status_code, "validation_error")


async def test_root_is_refused_where_the_profile_refuses_it(alice: httpx.AsyncClient) -> None:
    made = await create(alice, profile="rootless")
    path = f"/v1/sandboxes/{made['id']}/execs"
    assert_error(await alice.post(path, json={"command": "id", "user": "root"}), 403, "forbidden")
    assert (await start(alice, made["id"], 15, command="echo hi", user="ship"))["stdout"] == "hi\n"


async def test_an_exec_outlives_its_request_and_is_read_later(alice: httpx.AsyncClient, box: str) -> None:
    made = await start(alice, box, command="read x < go; echo $x")
    assert made["state"] in ("running", "exited")
    slow = await start(alice, box, command="mkfifo pipe; cat pipe; echo end")
    assert (await look(alice, box, slow["id"], wait=0.2))["state"] == "running"
    await shell(alice, box, "echo late > pipe")
    assert (await look(alice, box, slow["id"], wait=15))["stdout"] == "late\nend\n"
    again = await look(alice, box, slow["id"])
    assert (again["state"], again["output_bytes"], again["stdout"]) == ("exited", 9, None)


async def test_an_exec_is_ended_with_everything_it_started(alice: httpx.AsyncClient, box: str) -> None:
    made = await start(alice, box, command="sleep 1234567 & setsid sleep 1234567 & wait")
    path = f"/v1/sandboxes/{box}/execs/{made['id']}"
    ended = (await alice.delete(path)).json()
    assert set(ended) == FIELDS
    assert (ended["state"], ended["signal"]) == ("killed", 15)
    left = (await shell(alice, box, "ps -eo args | grep -c '^sleep 123456[7]'"))["output"]
    assert left == "0\n"
    assert (await alice.delete(path)).json()["state"] == "killed"
    assert (await look(alice, box, made["id"]))["state"] == "killed"


async def test_execs_page_oldest_first(alice: httpx.AsyncClient, box: str) -> None:
    made = [(await start(alice, box, 15, command="true"))["id"] for _ in range(3)]
    path = f"/v1/sandboxes/{box}/execs"
    first = (await alice.get(path, params={"limit": 2})).json()
    second = (await alice.get(path, params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [i["id"] for i in first["items"] + second["items"]] == made
    assert (first["has_more"], second["has_more"], second["next_cursor"]) == (True, False, None)
    for params in ({"limit": 0}, {"limit": 201}, {"cursor": "x"}):
        assert_error(await alice.get(path, params=params), 422, "validation_error")


@pytest.mark.parametrize("exec_id", [UNKNOWN, "no-exec", "%00", "a%2Fb"])
async def test_an_exec_that_never_was_is_404(alice: httpx.AsyncClient, box: str, exec_id: str) -> None:
    path = f"/v1/sandboxes/{box}/execs/{exec_id}"
    for answer in (await alice.get(path), await alice.delete(path), await alice.get(f"{path}/output")):
        assert answer.status_code in (404, 405), answer.text
    assert_error(await alice.get(f"/v1/sandboxes/{box}/execs/{UNKNOWN}"), 404, "not_found")


async def test_an_exec_of_another_sandbox_is_404(alice: httpx.AsyncClient, box: str) -> None:
    made = await start(alice, box, 15, command="true")
    other = (await create(alice))["id"]
    path = f"/v1/sandboxes/{other}/execs/{made['id']}"
    for answer in (await alice.get(path), await alice.delete(path), await alice.get(f"{path}/output")):
        assert_error(answer, 404, "not_found")


# Ids and keys


async def test_an_id_chosen_by_the_client_is_used_once_in_its_sandbox(
    bay: World, alice: httpx.AsyncClient, bob: httpx.AsyncClient, box: str
) -> None:
    body = {"command": "echo x >> runs", "id": UNKNOWN}
    assert (await start(alice, box, 15, **body))["id"] == UNKNOWN
    path = f"/v1/sandboxes/{box}/execs"
    assert_error(await alice.post(path, json=body), 409, "conflict")
    await alice.post(f"/v1/sandboxes/{box}/stop")
    assert_error(await alice.post(path, json=body), 409, "conflict")
    assert (await shell(alice, box, "cat runs"))["output"] == "x\n"
    elsewhere = (await create(bob))["id"]
    assert (await start(bob, elsewhere, 15, **body))["state"] == "exited"


async def test_many_creates_with_one_key_run_the_command_once(alice: httpx.AsyncClient, box: str) -> None:
    def call() -> Any:
        return alice.post(
            f"/v1/sandboxes/{box}/execs", json={"command": "echo x >> runs; cat runs"},
            params={"wait": 15}, headers={"Idempotency-Key": "k"},
        )  # fmt: skip

    answers = await asyncio.gather(*(call() for _ in range(6)))
    assert {a.status_code for a in answers} == {201}, [a.text for a in answers]
    assert len({a.json()["id"] for a in answers}) == 1
    assert {a.json()["stdout"] for a in answers} == {"x\n"}
    await alice.post(f"/v1/sandboxes/{box}/stop")
    after = await call()
    assert (after.status_code, after.json()["id"]) == (201, answers[0].json()["id"])
    assert (await shell(alice, box, "cat runs"))["output"] == "x\n"
    other = await alice.post(
        f"/v1/sandboxes/{box}/execs", json={"command": "true"}, headers={"Idempotency-Key": "k"}
    )
    assert_error(other, 409, "conflict")


# Output


async def test_output_is_lines_of_json_with_byte_offsets(alice: httpx.AsyncClient, box: str) -> None:
    made = await start(alice, box, 15, command="printf abc; sleep 0.1; printf de >&2; exit 5")
    answer = await alice.get(f"/v1/sandboxes/{box}/execs/{made['id']}/output")
    assert answer.headers["content-type"] == "application/x-ndjson"
    *chunks, end = lines(answer.text)
    assert [(c["offset"], c["stream"], base64.b64decode(c["data"])) for c in chunks] == [
        (0, "stdout", b"abc"),
        (3, "stderr", b"de"),
    ]
    assert set(chunks[0]) == {"offset", "stream", "data", "t"}
    assert (end["exit_code"], end["signal"]) == (5, None)
    later = await alice.get(f"/v1/sandboxes/{box}/execs/{made['id']}/output", params={"since": 2})
    assert data(lines(later.text)) == b"cde"


async def test_output_that_is_no_longer_kept_is_410(alice: httpx.AsyncClient, box: str) -> None:
    made = await start(alice, box, 15, command="head -c 3000000 /dev/zero")
    assert made["truncated"] is True
    assert made["first_offset"] > 0
    path = f"/v1/sandboxes/{box}/execs/{made['id']}/output"
    error = assert_error(await alice.get(path, params={"since": 0}), 410, "output_gone")
    first = error["details"]["first_offset"]
    kept = lines((await alice.get(path, params={"since": first})).text)
    assert len(data(kept)) == 3_000_000 - first
    assert kept[0]["offset"] == first


@pytest.mark.parametrize("since", ["-1", "x", str(2**63), "1e3"])
async def test_an_offset_that_is_none_is_422(alice: httpx.AsyncClient, box: str, since: str) -> None:
    answer = await alice.get(f"/v1/sandboxes/{box}/execs/{UNKNOWN}/output", params={"since": since})
    assert_error(answer, 422, "validation_error")


async def test_an_offset_that_was_not_written_yet_is_the_callers_mistake(
    alice: httpx.AsyncClient, box: str
) -> None:
    made = await start(alice, box, 15, command="echo hi")
    answer = await alice.get(f"/v1/sandboxes/{box}/execs/{made['id']}/output", params={"since": 4})
    assert_error(answer, 400, "validation_error")


async def test_output_of_a_session_that_is_over_is_410_and_its_running_execs_are_lost(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    done = await start(alice, box, 15, command="echo hi")
    detached = await start(alice, box, command="echo early; exit 7")
    sleeper = await start(alice, box, argv=["sleep", "1000"])
    await look(alice, box, detached["id"], wait=15)
    await alice.post(f"/v1/sandboxes/{box}/stop")
    error = assert_error(
        await alice.get(f"/v1/sandboxes/{box}/execs/{done['id']}/output"), 410, "output_gone"
    )
    assert error["details"] == {"first_offset": 3}
    lost = await look(alice, box, sleeper["id"])
    assert (lost["state"], lost["exit_code"]) == ("lost", None)
    assert (await look(alice, box, detached["id"]))["exit_code"] == 7
    assert (await alice.delete(f"/v1/sandboxes/{box}/execs/{sleeper['id']}")).json()["state"] == "lost"
    assert (await bay.record(box)).session is None  # looking starts nothing


async def test_how_an_exec_ended_that_nobody_asked_for_is_known_after_the_stop(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    unseen = await start(alice, box, command="exit 7")
    witness = await start(
        alice, box, 15, command=f"while kill -0 {unseen['pid']} 2>/dev/null; do sleep 0.05; done"
    )
    assert witness["state"] == "exited"
    await alice.post(f"/v1/sandboxes/{box}/stop")
    found = await look(alice, box, unseen["id"])
    assert (found["state"], found["exit_code"]) == ("exited", 7)


# Input, signals, terminals


def path_of(box: str, exec_id: str, what: str) -> str:
    return f"/v1/sandboxes/{box}/execs/{exec_id}/{what}"


async def test_stdin_is_fed_in_pieces_until_its_end_and_comes_out_unharmed(
    alice: httpx.AsyncClient, box: str
) -> None:
    made = await start(alice, box, command="sha256sum", stdin="begin", stdin_open=True)
    path = path_of(box, made["id"], "stdin")
    pieces = [os.urandom(size) for size in (1, 3 << 20, 0, 100)]
    for piece in pieces:
        answer = await alice.post(path, content=piece)
        assert answer.json() == {"written": len(piece)}

    async def streamed() -> AsyncGenerator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    answer = await alice.post(path, content=streamed(), params={"eof": "true"})
    assert answer.json() == {"written": 1_000_000}
    ended = await look(alice, box, made["id"], 15)
    wanted = hashlib.sha256(b"begin" + b"".join(pieces) + b"x" * 1_000_000).hexdigest()
    assert ended["stdout"].split()[0] == wanted
    assert_error(await alice.post(path, content=b"late"), 409, "conflict")


async def test_stdin_that_was_not_left_open_takes_nothing(alice: httpx.AsyncClient, box: str) -> None:
    made = await start(alice, box, command="sleep 1000")
    assert_error(await alice.post(path_of(box, made["id"], "stdin"), content=b"x"), 409, "conflict")
    assert (await look(alice, box, made["id"]))["state"] == "running"


@pytest.mark.parametrize("name", ["INT", "SIGINT", 2])
async def test_a_signal_is_sent_by_name_or_number(
    alice: httpx.AsyncClient, box: str, name: str | int
) -> None:
    command = "trap 'echo caught; exit 7' INT; mkfifo go; cat go; while :; do sleep 0.05; done"
    made = await start(alice, box, command=command)
    await shell(alice, box, "echo > go")
    answer = await alice.post(path_of(box, made["id"], "signal"), json={"signal": name})
    assert answer.json()["id"] == made["id"]
    ended = await look(alice, box, made["id"], 15)
    assert (ended["exit_code"], ended["stdout"].strip()) == (7, "caught")
    late = await alice.post(path_of(box, made["id"], "signal"), json={"signal": name})
    assert_error(late, 409, "conflict")


async def test_a_terminal_is_resized_and_what_has_none_is_not(alice: httpx.AsyncClient, box: str) -> None:
    argv = ["sh", "-c", "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done"]
    made = await start(alice, box, argv=argv, tty=True, rows=10, cols=20)
    assert (made["tty"], made["rows"], made["cols"]) == (True, 10, 20)

    async def is_ready() -> bool:
        return (await look(alice, box, made["id"]))["output_bytes"] > 0

    await eventually(is_ready)
    answer = await alice.post(path_of(box, made["id"], "resize"), json={"rows": 33, "cols": 44})
    assert (answer.json()["rows"], answer.json()["cols"]) == (33, 44)
    await look(alice, box, made["id"], 15)
    answer = await alice.get(path_of(box, made["id"], "output"))
    items = lines(answer.text)
    assert data(items, "tty") == data(items) == b"ready\r\n33 44\r\n"
    plain = await start(alice, box, command="sleep 1000")
    resized = await alice.post(path_of(box, plain["id"], "resize"), json={"rows": 33, "cols": 44})
    assert_error(resized, 409, "conflict")


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("signal", {"signal": "NONE"}), ("signal", {"signal": 0}), ("signal", {"signal": 1000}), ("signal", {}),
        ("signal", {"signal": True}), ("signal", {"signal": "9"}), ("resize", {"rows": 0, "cols": 80}),
        ("resize", {"rows": 24}), ("resize", {"rows": 24, "cols": 1001}), ("resize", {"rows": "x", "cols": 1}),
    ],
    ids=str,
)  # fmt: skip
async def test_a_wrong_signal_or_size_is_422(alice: httpx.AsyncClient, what: str, body: Json) -> None:
    made = await create(alice)
    assert_error(await alice.post(path_of(made["id"], UNKNOWN, what), json=body), 422, "validation_error")


async def test_what_is_over_or_never_was_takes_no_input(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    made = await start(alice, box, command="sleep 1000", stdin_open=True)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("stdin", {"content": b"x"}),
        ("signal", {"json": {"signal": "INT"}}),
        ("resize", {"json": SIZE}),
    ]
    for what, body in calls:
        assert_error(await alice.post(path_of(box, UNKNOWN, what), **body), 404, "not_found")
    await alice.post(f"/v1/sandboxes/{box}/stop")
    for what, body in calls:
        assert_error(await alice.post(path_of(box, made["id"], what), **body), 409, "conflict")
    assert (await bay.record(box)).session is None  # and starts nothing


SIZE = {"rows": 10, "cols": 10}


async def test_a_repeated_call_answers_for_the_same_terminal_with_all_it_was_given(
    alice: httpx.AsyncClient, box: str
) -> None:
    body = {
        "argv": ["sh", "-c", "stty size; read x; echo got $x"], "tty": True, "rows": 7, "cols": 9,
        "stdin_open": True, "max_run_after_disconnect_s": 3600,
    }  # fmt: skip
    headers = {"Idempotency-Key": "once"}
    first, second = [
        (await alice.post(f"/v1/sandboxes/{box}/execs", json=body, headers=headers)).json() for _ in range(2)
    ]
    assert first["id"] == second["id"]
    assert (second["tty"], second["rows"], second["cols"]) == (True, 7, 9)
    other = {**body, "max_run_after_disconnect_s": 60}
    answer = await alice.post(f"/v1/sandboxes/{box}/execs", json=other, headers=headers)
    assert_error(answer, 409, "conflict")
    await alice.post(path_of(box, first["id"], "stdin"), content=b"it\n")
    ended = await look(alice, box, first["id"], 15)
    assert ended["exit_code"] == 0
    items = lines((await alice.get(path_of(box, first["id"], "output"))).text)
    assert b"7 9" in data(items)
    assert b"got it" in data(items)


async def test_an_exec_that_was_watched_by_nobody_from_the_start_ends_in_time(
    alice: httpx.AsyncClient, box: str
) -> None:
    made = await start(alice, box, command="sleep 1000", max_run_after_disconnect_s=0.2)

    async def has_ended() -> bool:
        return (await look(alice, box, made["id"]))["state"] == "killed"

    await eventually(has_ended)


# Processes


async def test_processes_are_listed_with_their_parents_and_the_exec_they_belong_to(
    alice: httpx.AsyncClient, box: str
) -> None:
    made = await start(alice, box, command="sleep 1234 & wait")
    mine: list[Json] = []

    async def sleeps() -> bool:
        items = (await alice.get(f"/v1/sandboxes/{box}/processes")).json()["items"]
        mine[:] = [item for item in items if item["exec_id"] == made["id"]]
        return any(item["command"].startswith("sleep 1234") for item in mine)

    await eventually(sleeps)  # the shell begins before it
    assert made["pid"] in {item["pid"] for item in mine}
    sleeper = next(item for item in mine if item["command"].startswith("sleep 1234"))
    assert sleeper["ppid"] == made["pid"]
    assert sleeper["rss_bytes"] > 0
    answer = await alice.post(
        f"/v1/sandboxes/{box}/processes/{sleeper['pid']}/signal", json={"signal": "KILL"}
    )
    assert answer.json() == {"status": "ok"}
    assert (await look(alice, box, made["id"], 15))["state"] == "exited"
    gone = await alice.post(f"/v1/sandboxes/{box}/processes/{sleeper['pid']}/signal", json={"signal": "KILL"})
    assert_error(gone, 404, "not_found")


async def test_a_sandbox_without_compute_has_no_processes_and_gets_none_by_looking(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = (await create(alice))["id"]
    assert (await alice.get(f"/v1/sandboxes/{box}/processes")).json() == {"items": []}
    for pid, status in ((1, 404), (0, 422), (-1, 422), (2**31, 422)):
        answer = await alice.post(f"/v1/sandboxes/{box}/processes/{pid}/signal", json={"signal": "KILL"})
        assert answer.status_code == status
    assert (await bay.record(box)).session is None


# Server-sent events


async def test_output_comes_as_server_sent_events_too_whose_ids_are_where_to_go_on(
    alice: httpx.AsyncClient, box: str
) -> None:
    made = await start(alice, box, 15, command="echo one; echo two >&2; exit 3")
    path = path_of(box, made["id"], "output")
    headers = {"Accept": "text/event-stream"}
    answer = await alice.get(path, headers=headers, params={"follow": "true"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *outputs, end = [
        dict(line.split(": ", 1) for line in b.split("\n")) for b in answer.text.split("\n\n")[:-1]
    ]
    assert [event["event"] for event in outputs] == ["output"] * len(outputs)
    assert data([json.loads(event["data"]) for event in outputs]) in (b"one\ntwo\n", b"two\none\n")
    assert outputs[-1]["id"] == "8"
    assert (end["event"], json.loads(end["data"])["exit_code"]) == ("end", 3)
    again = await alice.get(path, headers={**headers, "Last-Event-ID": "8"}, params={"since": 2})
    assert "event: output" not in again.text
    assert "event: end" in again.text
    assert_error(await alice.get(path, headers={**headers, "Last-Event-ID": "9"}), 400, "validation_error")


# Following, on a real connection


async def open_box(live: Served, client: httpx.AsyncClient) -> str:
    return (await create(client, wait=15))["id"]


async def test_output_is_followed_as_it_comes(live: Served) -> None:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client:
        box = await open_box(live, client)
        made = await start(client, box, command="mkfifo go; echo one; cat go; echo three >&2; exit 4")
        path = f"/v1/sandboxes/{box}/execs/{made['id']}/output"
        async with client.stream("GET", path, params={"follow": "true"}) as answer:
            items = answer.aiter_lines()
            first = json.loads(await within(anext(items)))
            assert base64.b64decode(first["data"]) == b"one\n"
            await shell(client, box, "echo two > go")  # only now the command goes on
            rest = [json.loads(line) async for line in items]
        assert data(rest) == b"two\nthree\n"
        assert (rest[-1]["exit_code"], rest[-1]["signal"]) == (4, None)


async def test_several_followers_see_the_same_bytes_and_one_may_leave(live: Served) -> None:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client:
        box = await open_box(live, client)
        made = await start(client, box, command="mkfifo go; echo one; cat go; seq 1000")
        path = f"/v1/sandboxes/{box}/execs/{made['id']}/output"
        following = [asyncio.create_task(client.get(path, params={"follow": "true"})) for _ in range(3)]
        async with client.stream("GET", path, params={"follow": "true"}) as leaver:
            await within(anext(leaver.aiter_lines()))
        await shell(client, box, "echo two > go")
        answers = await within(asyncio.gather(*following))
        seen = {data(lines(a.text)) for a in answers}
        assert seen == {b"one\ntwo\n" + b"".join(b"%d\n" % n for n in range(1, 1001))}
        session = (await live.bay.waker.find(live.bay.keys.authenticate(f"Bearer {live.key}"), box)).session
        assert session is not None
        await until(lambda: not live.bay.ship.busy(session.id))


async def test_a_follower_is_told_when_the_session_is_stopped(live: Served) -> None:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client:
        box = await open_box(live, client)
        made = await start(client, box, command="echo one; sleep 1000")
        path = f"/v1/sandboxes/{box}/execs/{made['id']}/output"
        async with client.stream("GET", path, params={"follow": "true"}) as answer:
            items = answer.aiter_lines()
            await within(anext(items))
            stopping = asyncio.create_task(client.post(f"/v1/sandboxes/{box}/stop"))
            try:
                rest = [json.loads(line) async for line in items]
                assert rest[-1]["signal"] in (9, 15)
            except httpx.RemoteProtocolError:
                pass  # cut: nobody takes it for whole
            assert (await within(stopping)).status_code == 200


async def test_a_reader_of_events_is_told_that_the_exec_died_with_its_sandbox(live: Served) -> None:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client:
        box = await open_box(live, client)
        made = await start(client, box, command="echo one; exec sleep 1000")
        path, headers = f"/v1/sandboxes/{box}/execs/{made['id']}/output", {"Accept": "text/event-stream"}
        async with client.stream("GET", path, params={"follow": "true"}, headers=headers) as answer:
            items = answer.aiter_lines()
            assert await within(anext(items)) == "id: 4"
            (ship,) = ships(live.root)
            os.kill(ship, signal.SIGKILL)
            *_, event, told, _ = [line async for line in items]
        assert event == "event: end"
        assert json.loads(told.removeprefix("data: ")) == {
            "exit_code": None, "signal": None, "state": "lost", "timed_out": False,
        }  # fmt: skip


async def test_a_list_tells_of_an_end_that_nobody_waited_for(alice: httpx.AsyncClient, box: str) -> None:
    made = await start(alice, box, command="exit 3")
    output = await alice.get(
        f"/v1/sandboxes/{box}/execs/{made['id']}/output", params={"since": 0, "follow": "true"}
    )
    assert json.loads(output.text.splitlines()[-1])["exit_code"] == 3
    listed = (await alice.get(f"/v1/sandboxes/{box}/execs", params={"limit": 200})).json()["items"]
    found = next(item for item in listed if item["id"] == made["id"])
    assert (found["state"], found["exit_code"]) == ("exited", 3)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"argv": ["echo", "é" * 65_536]}, "131071 bytes"),
        ({"argv": ["echo", *["x" * 100_000] * 21]}, "2097152 bytes"),
        ({"command": "é" * 65_536}, "131071 bytes"),
    ],
)
async def test_arguments_beyond_what_the_kernel_takes_are_refused_with_the_limit(
    alice: httpx.AsyncClient, box: str, body: Json, says: str
) -> None:
    answer = await alice.post(f"/v1/sandboxes/{box}/execs", json=body)
    assert says in json.dumps(assert_error(answer, 422, "validation_error")), answer.text
