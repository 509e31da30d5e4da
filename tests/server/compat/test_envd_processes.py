"""envd's processes: commands of Bay, as clients of E2B start, follow, feed and end them."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import ExitStack

import httpx
import pytest
from envd_calls import STREAM, Envd, Events, b64, basic, envd_of, frame, frames, output_of
from server_harness import Json, Served, eventually, within

from bay.server.web.open_connections import LIMIT

pytestmark = pytest.mark.anyio


@pytest.fixture
async def envd(live: Served) -> AsyncGenerator[Envd]:
    async with envd_of(live) as made:
        yield made


async def started(events: Events) -> int:
    """The pid in the first event."""
    first = await events.next()
    assert first is not None, events.end
    assert set(first["event"]) == {"start"}
    return first["event"]["start"]["pid"]


async def test_a_command_starts_prints_and_ends_in_that_order(envd: Envd) -> None:
    async with envd.run("echo out; echo err >&2; exit 3") as events:
        found = await events.rest()
        assert events.end == {}
    assert found[0]["event"]["start"]["pid"] > 0
    assert output_of(found, "stdout") == b"out\n"
    assert output_of(found, "stderr") == b"err\n"
    assert found[-1]["event"]["end"] == {
        "exitCode": 3, "exited": True, "status": "exit status 3", "error": "exit status 3",
    }  # fmt: skip


async def test_output_comes_whole_in_small_events(envd: Envd) -> None:
    async with envd.run("head -c 3000000 /dev/zero") as events:
        found = await events.rest()
    data = [event for event in found if "data" in event["event"]]
    assert sum(len(output_of([event])) for event in data) == 3_000_000
    assert max(len(output_of([event])) for event in data) <= 32 << 10
    assert found[-1]["event"]["end"]["exitCode"] == 0


async def test_variables_say_where_a_program_is_and_those_of_the_call_win(envd: Envd) -> None:
    shown = "echo $E2B_SANDBOX $E2B_SANDBOX_ID $E2B_TEMPLATE_ID $MINE"
    output, _ = await envd.ran(shown, process={"envs": {"MINE": "yes", "E2B_TEMPLATE_ID": "own"}})
    assert output.split() == [b"true", envd.sandbox.encode(), b"own", b"yes"]


async def test_a_command_begins_at_home_and_a_missing_directory_is_named(envd: Envd) -> None:
    output, _ = await envd.ran('[ "$PWD" = "$HOME" ] && mkdir src && echo home')
    assert output == b"home\n"
    assert (await envd.ran("basename $PWD", process={"cwd": "src"}))[0] == b"src\n"
    assert (await envd.ran("basename $PWD", process={"cwd": "~/src"}))[0] == b"src\n"
    async with envd.run("pwd", process={"cwd": "nowhere"}) as events:
        assert await events.rest() == []
    assert events.end == {"error": {"code": "invalid_argument", "message": "cwd 'nowhere' does not exist"}}


async def test_an_unknown_user_is_refused_in_the_words_of_envd(envd: Envd) -> None:
    async with envd.run("id", headers=basic("nobody-here")) as events:
        assert await events.rest() == []
    assert events.end is not None
    assert events.end["error"]["code"] == "unauthenticated"
    assert events.end["error"]["message"] == "invalid username: 'nobody-here'"


async def test_input_reaches_a_process_and_its_end_too(envd: Envd) -> None:
    async with envd.run("cat", stdin=True) as events:
        process = {"pid": await started(events)}
        await envd.ok("process.Process/SendInput", process=process, input={"stdin": b64(b"one\n")})
        assert await events.output(b"one\n") == b"one\n"
        await envd.ok("process.Process/CloseStdin", process=process)
        assert (await events.rest())[-1]["event"]["end"]["exitCode"] == 0
    late = await envd.call("process.Process/SendInput", process=process, input={"stdin": b64(b"x")})
    assert (late.status_code, late.json()["code"]) == (404, "not_found")


async def test_input_for_a_process_without_stdin_is_an_error_of_its_own(envd: Envd) -> None:
    async with envd.run("sleep 60") as events:
        process = {"pid": await started(events)}
        answer = await envd.call("process.Process/SendInput", process=process, input={"stdin": b64(b"x")})
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
        await envd.ok("process.Process/SendSignal", process=process, signal="SIGNAL_SIGKILL")


async def test_input_comes_as_a_stream_of_messages(envd: Envd) -> None:
    async with envd.run("cat", stdin=True) as events:
        process = {"pid": await started(events)}
        body = frame({"start": {"process": process}}) + frame({"keepalive": {}})
        body += b"".join(frame({"data": {"input": {"stdin": b64(b"%d\n" % n)}}}) for n in range(200))
        url = envd.url("/process.Process/StreamInput")
        answer = await envd.http.post(url, content=body, headers={"Content-Type": STREAM})
        assert frames(answer.content) == [(0, {}), (2, {})]
        await envd.ok("process.Process/CloseStdin", process=process)
        assert output_of(await events.rest()) == b"".join(b"%d\n" % n for n in range(200))


async def test_a_signal_ends_the_process_and_what_is_no_process_is_not_found(envd: Envd) -> None:
    async with envd.run("sleep 60") as events:
        pid = await started(events)
        await envd.ok("process.Process/SendSignal", process={"pid": pid}, signal=9)
        end = (await events.rest())[-1]["event"]["end"]
    assert end == {"exitCode": -1, "exited": False, "status": "signal: killed", "error": "signal: killed"}
    for gone in (pid, 99_999_999):
        answer = await envd.call("process.Process/SendSignal", process={"pid": gone}, signal="SIGNAL_SIGTERM")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_a_client_that_leaves_ends_no_process_and_another_may_connect(envd: Envd) -> None:
    async with envd.run("echo early; read x; echo $x; sleep 60", stdin=True) as events:
        pid = await started(events)
        await events.output(b"early\n")
    listed = await envd.ok("process.Process/List")
    assert [item["pid"] for item in listed["processes"]] == [pid]
    assert listed["processes"][0]["config"]["cmd"] == "/bin/bash"
    async with envd.stream("process.Process/Connect", {"process": {"pid": str(pid)}}) as again:
        assert await started(again) == pid
        await envd.ok("process.Process/SendInput", process={"pid": pid}, input={"stdin": b64(b"late\n")})
        assert await again.output(b"late\n") == b"late\n"
        await envd.ok("process.Process/SendSignal", process={"pid": pid}, signal="SIGNAL_SIGKILL")
        assert (await again.rest())[-1]["event"]["end"]["status"] == "signal: killed"
    assert (await envd.ok("process.Process/List"))["processes"] == []
    async with envd.stream("process.Process/Connect", {"process": {"pid": pid}}) as over:
        events_of_the_end = await over.rest()
    assert [list(event["event"]) for event in events_of_the_end] == [["start"], ["end"]]


async def test_a_terminal_has_its_size_and_takes_another(envd: Envd) -> None:
    pty = {"size": {"cols": 91, "rows": 31}}
    start = {
        "process": {"cmd": "/bin/bash", "args": ["-i"], "envs": {"TERM": "dumb", "PS1": "> "}},
        "pty": pty,
    }
    async with envd.stream("process.Process/Start", start) as events:
        process = {"pid": await started(events)}
        await envd.ok("process.Process/SendInput", process=process, input={"pty": b64(b"stty size\n")})
        await events.output(b"31 91")
        await envd.ok("process.Process/Update", process=process, pty={"size": {"cols": 40, "rows": 20}})
        await envd.ok("process.Process/SendInput", process=process, input={"pty": b64(b"stty size\n")})
        await events.output(b"20 40")
        await envd.ok("process.Process/SendInput", process=process, input={"pty": b64(b"exit 4\n")})
        found = await events.rest()
    assert found[-1]["event"]["end"]["exitCode"] == 4
    assert all(set(event["event"]["data"]) == {"pty"} for event in found if "data" in event["event"])


async def test_the_time_of_a_command_is_told_before_it_is_ended(envd: Envd) -> None:
    async with envd.run("echo on; sleep 300", headers={"Connect-Timeout-Ms": "700"}) as events:
        pid = await started(events)
        found = await events.rest()
    assert not any("end" in event["event"] for event in found)
    assert events.end is not None
    assert events.end["error"]["code"] == "deadline_exceeded"

    async def is_over() -> bool:
        return pid not in [item["pid"] for item in (await envd.ok("process.Process/List"))["processes"]]

    await eventually(is_over)


async def test_the_time_of_a_command_holds_when_its_client_has_left(envd: Envd) -> None:
    async with envd.run("sleep 300", headers={"Connect-Timeout-Ms": "1500"}) as events:
        await started(events)

    async def is_over() -> bool:
        return (await envd.ok("process.Process/List"))["processes"] == []

    await eventually(is_over)


async def test_silence_is_broken_as_often_as_the_client_wants(envd: Envd) -> None:
    async with envd.run("sleep 60", headers={"Keepalive-Ping-Interval": "1"}) as events:
        pid = await started(events)
        for _ in range(2):
            assert await events.next() == {"event": {"keepalive": {}}}
        await envd.ok("process.Process/SendSignal", process={"pid": pid}, signal="SIGNAL_SIGTERM")
        assert (await events.rest())[-1]["event"]["end"]["status"] == "signal: terminated"


async def test_a_command_waits_for_a_client_that_does_not_read(envd: Envd) -> None:
    async with envd.run("seq 1 2500000; touch done") as events:
        await started(events)
        await events.output(b"10\n")
        assert (await envd.ran("ls done"))[1]["exitCode"] != 0  # it stands still, and nothing is lost
        lines = output_of(await events.rest()).split()
    assert lines[-1] == b"2500000"


async def test_a_sandbox_that_is_deleted_ends_a_stream_as_unavailable(live: Served, envd: Envd) -> None:
    async with envd.run("sleep 300") as events:
        await started(events)
        headers = {"Authorization": f"Bearer {live.key}"}
        await envd.http.delete(f"/v1/sandboxes/{envd.sandbox}", headers=headers)
        assert await events.rest() == []
        assert events.end is not None
        assert events.end["error"]["code"] == "unavailable"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\0\xff\xff\xff\xff{}", "resource_exhausted"),
        (b"\1\0\0\0\2{}", "invalid_argument"),
        (b"\x80\0\0\0\2{}", "invalid_argument"),
        (b"\0\0\0\0\x09{}", "invalid_argument"),
        (b"\0\0", "invalid_argument"),
        (b"", "invalid_argument"),
        (b"\0\0\0\0\2[]", "invalid_argument"),
        (b"\0\0\0\0\3{]}", "invalid_argument"),
        (frame({"process": {"cmd": 1}}), "invalid_argument"),
        (frame({"process": {"cmd": ""}}), "invalid_argument"),
    ],
    ids=[
        "4-gib",
        "compressed",
        "flags",
        "cut-off",
        "cut-head",
        "empty",
        "list",
        "no-json",
        "kind",
        "no-program",
    ],
)
async def test_a_malformed_stream_is_refused_in_its_last_frame(envd: Envd, body: bytes, code: str) -> None:
    url = envd.url("/process.Process/Start")
    answer = await envd.http.post(url, content=body, headers={"Content-Type": STREAM})
    assert answer.status_code == 200
    assert [(flags, end["error"]["code"]) for flags, end in frames(answer.content)] == [(2, code)]


async def test_many_empty_messages_feed_nothing_and_end_well(envd: Envd) -> None:
    async with envd.run("cat", stdin=True) as events:
        process = {"pid": await started(events)}
        body = frame({"start": {"process": process}}) + frame({}) * 100_000
        url = envd.url("/process.Process/StreamInput")
        answer = await envd.http.post(url, content=body, headers={"Content-Type": STREAM})
        assert frames(answer.content) == [(0, {}), (2, {})]
        await envd.ok("process.Process/SendSignal", process=process, signal="SIGNAL_SIGKILL")


@pytest.mark.parametrize("kind", ["application/proto", "application/connect+proto", "application/grpc", ""])
async def test_other_encodings_are_refused_in_clear_words(envd: Envd, kind: str) -> None:
    for method in ("List", "Start", "StreamInput"):
        url = envd.url(f"/process.Process/{method}")
        answer = await envd.http.post(url, content=b"\0", headers={"Content-Type": kind})
        assert answer.status_code == 415
        assert "binary protobuf" in answer.json()["message"]


async def test_a_unary_call_reads_every_form_of_the_json_mapping(envd: Envd) -> None:
    async with envd.run("cat", stdin=True) as events:
        pid = await started(events)
        unpadded = b64(b"two").rstrip("=")
        sent: list[Json] = [
            {"process": {"pid": str(pid), "unknown": 1}, "input": {"stdin": b64(b"one")}},
            {"process": {"pid": pid, "tag": None}, "input": {"stdin": unpadded, "pty": None}, "more": []},
            {"process": {"pid": pid}, "input": {"stdin": "_-8"}},
        ]
        for message in sent:
            await envd.ok("process.Process/SendInput", **message)
        assert await events.output(b"\xff\xef") == b"onetwo\xff\xef"
        await envd.ok("process.Process/SendSignal", process={"pid": pid}, signal="SIGNAL_SIGKILL")


async def test_a_malformed_unary_call_is_refused_with_its_code(envd: Envd) -> None:
    url = envd.url("/process.Process/SendInput")
    for body in (b"[]", b"{", b"[" * 100_000, b'{"process": 3}', b'{"process": {"pid": "x"}}', b"{}"):
        answer = await envd.http.post(url, content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument"), body


async def test_a_key_that_may_only_read_starts_nothing(live: Served, envd: Envd) -> None:
    key = await live.bay.keys.add("alice", "reader", "read")
    reader = Envd(httpx.AsyncClient(base_url=live.url, headers={"X-API-Key": key}), envd.sandbox)
    async with reader.http:
        assert (await reader.ok("process.Process/List"))["processes"] == []
        headers = {"Content-Type": STREAM}
        body = frame({"process": {"cmd": "id"}})
        answer = await reader.http.post(reader.url("/process.Process/Start"), content=body, headers=headers)
        assert answer.status_code == 403


async def test_commands_in_a_row_lose_no_output(envd: Envd) -> None:
    async with asyncio.TaskGroup() as group:
        ran = [group.create_task(envd.ran(f"echo {n}")) for n in range(40)]
    assert [task.result()[0] for task in ran] == [b"%d\n" % n for n in range(40)]


async def test_an_unknown_method_answers_in_json(envd: Envd) -> None:
    answer = await within(envd.call("process.Process/Nothing"))
    assert answer.status_code == 404
    assert "code" in json.loads(answer.text)


async def test_a_process_is_found_by_its_tag(envd: Envd) -> None:
    async with envd.run("echo on; sleep 60", tag='my "own" tag') as events:
        pid = await started(events)
        listed = (await envd.ok("process.Process/List"))["processes"]
        assert [(item["pid"], item["tag"]) for item in listed] == [(pid, 'my "own" tag')]
        async with envd.stream("process.Process/Connect", {"process": {"tag": 'my "own" tag'}}) as again:
            assert await started(again) == pid
            await envd.ok(
                "process.Process/SendSignal", process={"tag": 'my "own" tag'}, signal="SIGNAL_SIGKILL"
            )
            assert (await again.rest())[-1]["event"]["end"]["status"] == "signal: killed"
    other = await envd.call("process.Process/SendSignal", process={"tag": "other"}, signal="SIGNAL_SIGKILL")
    assert other.status_code == 404


@pytest.mark.parametrize("code", [0xD800, 0xDCFF])
async def test_half_of_a_surrogate_pair_is_no_text(envd: Envd, code: int) -> None:
    half = chr(code)
    calls: list[tuple[str, Json]] = [
        ("filesystem.Filesystem/Stat", {"path": f"a{half}"}),
        ("process.Process/SendInput", {"process": {"tag": half}, "input": {"stdin": ""}}),
    ]
    for method, message in calls:
        answer = await envd.call(method, **message)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument"), answer.text
    process = {"cmd": "/bin/true", "args": [half], "envs": {half: half}}
    starts: list[Json] = [{"process": process}, {"process": {"cmd": "/bin/true"}, "tag": half}]
    for started in starts:
        async with envd.stream("process.Process/Start", started) as events:
            assert await events.rest() == []
            assert events.end is not None
            assert events.end["error"]["code"] == "invalid_argument"
    raw = await envd.http.post(
        envd.url("/filesystem.Filesystem/Stat"),
        content=b'{"path": "\xff"}',
        headers={"Content-Type": "application/json"},
    )
    assert (raw.status_code, raw.json()["code"]) == (400, "invalid_argument")


async def test_a_process_whose_client_has_no_place_does_not_begin(live: Served, envd: Envd) -> None:
    owner = live.bay.keys.authenticate(f"Bearer {live.key}").owner
    with ExitStack() as held:
        for _ in range(LIMIT):
            held.enter_context(live.bay.connections.place(owner))
        async with envd.run("sleep 60") as events:
            assert await events.rest() == []
            assert events.end is not None
            assert events.end["error"]["code"] == "resource_exhausted"
    assert await envd.ok("process.Process/List") == {"processes": []}
