"""The tools that agents have, by the protocol's own client."""

import json

import agents
import pytest
from agents import agent, data, refusal, text_of, told
from real_bay import RealBay

import bay as sdk
from bay.mcp.tools import TOOLS

pytestmark = pytest.mark.anyio

LIST_BYTES = 9_500
"""Some 2,300 tokens. The budget is 4,000."""


async def test_the_list_of_tools_fits_into_an_agents_budget(bay: RealBay) -> None:
    async with agent("http", bay.url) as client:
        listed = await client.list_tools()
    text = json.dumps(listed.model_dump(by_alias=True, exclude_none=True)["tools"], separators=(",", ":"))
    assert len(text) <= LIST_BYTES
    assert [tool.name for tool in listed.tools] == list(TOOLS)
    assert all(tool.input_schema["additionalProperties"] is False for tool in listed.tools)
    destroys = {tool.name for tool in listed.tools if tool.annotations and tool.annotations.destructive_hint}
    assert destroys == {"delete_sandbox", "restore", "end_command"}


@pytest.mark.parametrize("way", agents.WAYS)
async def test_an_agent_works_without_naming_a_sandbox(bay: RealBay, way: agents.Way) -> None:
    async with agent(way, bay.url) as client:
        assert (
            await told(client, "write_file", path="d/a.txt", content="one\ntwo\n")
            == "[wrote 8 bytes to d/a.txt]"
        )
        assert (await told(client, "run", command="cat d/a.txt")).startswith("one\ntwo\n[exited with 0 after")
        assert await told(client, "edit_file", path="d/a.txt", old="two", new="three") == "[replaced 1]"
        assert await told(client, "read_file", path="d/a.txt") == "one\nthree\n"
        assert (await told(client, "list_files", depth=2)).splitlines()[1].endswith("d/a.txt 10")
        assert (await told(client, "search_files", query="thr")).endswith("d/a.txt:2: three")
        assert (await told(client, "python", code="x = 6 * 7")).startswith("[ok after")
        assert await told(client, "python", code="print(x)") == "42"
        assert "status: ready" in await told(client, "get_sandbox")


async def test_a_command_that_fails_is_an_error_with_what_it_said(bay: RealBay) -> None:
    async with agent("http", bay.url) as client:
        answer = await client.call_tool("run", {"command": "echo out; echo err >&2; exit 3"})
        assert answer.is_error
        assert text_of(answer).startswith("out\nerr\n[exited with 3 after")
        assert answer.structured_content is not None
        assert {
            "exit_code": 3,
            "timed_out": False,
            "omitted_bytes": 0,
        }.items() <= answer.structured_content.items()
        late = await client.call_tool("run", {"command": "sleep 60", "timeout_s": 0.3})
        assert late.is_error
        assert text_of(late).startswith("[ran out of time")
        broken = await client.call_tool("python", {"code": "1/0"})
        assert broken.is_error
        assert "ZeroDivisionError" in text_of(broken)


async def test_long_output_is_bounded_and_read_on_by_offset(bay: RealBay) -> None:
    async with agent("http", bay.url) as client:
        found = await data(client, "run", command="seq 1 20000; printf äöü", max_bytes=1000)
        assert found["output"].endswith("20000\näöü")
        assert found["omitted_bytes"] > 100_000
        whole, offset = "", 0
        while True:
            part = await data(
                client, "read_output", exec_id=found["exec_id"], offset=offset, max_bytes=30_001
            )
            whole += part["output"]
            if part["next_offset"] == offset:
                break
            offset = part["next_offset"]
        assert whole == "".join(f"{number}\n" for number in range(1, 20001)) + "äöü"
        end = await told(client, "read_output", exec_id=found["exec_id"], max_bytes=100)
        assert end.endswith(f"äöü\n[exited with 0; next_offset={offset}]")


async def test_a_command_in_the_background_is_read_while_it_runs_and_ended(bay: RealBay) -> None:
    async with agent("http", bay.url) as client:
        command = "echo begins; read line; echo got $line; sleep 600"
        started = await data(client, "run", command=f"mkfifo f; exec < f; {command}", background=True)
        exec_id = started["exec_id"]
        first = await data(client, "read_output", exec_id=exec_id, offset=0, wait_s=1)
        assert first["state"] == "running"
        await told(client, "run", command="echo hello > f")
        rest = ""
        while "got hello" not in rest:
            part = await data(client, "read_output", exec_id=exec_id, offset=0, wait_s=2)
            rest = part["output"]
        assert rest == "begins\ngot hello\n"
        assert (await data(client, "end_command", exec_id=exec_id))["state"] == "killed"
        assert f"{exec_id} killed" in await told(client, "logs")


async def test_bytes_and_images_come_and_go(bay: RealBay) -> None:
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    async with agent("http", bay.url) as client:
        await told(client, "upload", path="dot.png", base64=png)
        seen = await client.call_tool("read_file", {"path": "dot.png"})
        assert seen.content[1].model_dump(include={"type", "data", "mime_type"}) == {
            "type": "image", "data": png, "mime_type": "image/png",
        }  # fmt: skip
        got = await client.call_tool("download", {"path": "dot.png"})
        assert got.content[1].model_dump()["resource"]["blob"] == png
        assert (await refusal(client, "upload", path="x", base64="no base64!"))[0] == "validation_error"
        await told(client, "upload", path="zeros", base64="AAAA")
        assert "download gives its bytes" in (await refusal(client, "read_file", path="zeros"))[1]


async def test_checkpoints_forks_and_deletion(bay: RealBay) -> None:
    async with agent("http", bay.url) as client:
        await told(client, "create_sandbox", sandbox="work", env={"GREETING": "hello"})
        assert (await refusal(client, "create_sandbox", sandbox="work"))[0] == "conflict"
        assert (await told(client, "run", sandbox="work", command="echo $GREETING | tee f")).startswith(
            "hello\n"
        )
        await told(client, "checkpoint", sandbox="work", name="first")
        await told(client, "write_file", sandbox="work", path="f", content="changed")
        assert (await data(client, "fork_sandbox", sandbox="work", name="twin"))["sandboxes"] == ["twin"]
        await told(client, "restore", sandbox="work", checkpoint="first")
        assert await told(client, "read_file", sandbox="work", path="f") == "hello\n"
        assert await told(client, "read_file", sandbox="twin", path="f") == "changed"
        assert "checkpoints: ['first']" in await told(client, "get_sandbox", sandbox="work")
        assert "compute: cold" in await told(client, "stop_sandbox", sandbox="work")
        assert "twin" in await told(client, "list_sandboxes", sandbox="tw")
        for name in ("work", "twin"):
            await told(client, "delete_sandbox", sandbox=name)
        assert (await refusal(client, "get_sandbox", sandbox="work"))[0] == "not_found"
        assert "sandbox is missing" in (await refusal(client, "delete_sandbox"))[1]


async def test_network_and_ports(bay: RealBay) -> None:
    async with agent("http", bay.url) as client:
        link = await data(client, "expose_port", port=8000)
        assert "8000-" in link["url"]
        found = await data(client, "network_policy", mode="allowlist", allow=["*.example.com", "8.8.8.0/24"])
        assert (found["mode"], found["rules"]) == ("allowlist", ["allow *.example.com", "allow 8.8.8.0/24"])
        assert (await told(client, "network_policy")).startswith("mode: allowlist\n")
        assert (await refusal(client, "network_policy", allow=["x"]))[0] == "validation_error"
        assert (await refusal(client, "expose_port", port=8001, public=True))[0] == "port_closed"
        await told(client, "network_policy", mode="open")


async def test_logs_of_a_service_are_its_latest_output(bay: RealBay) -> None:
    async with agent("http", bay.url) as client, sdk.AsyncClient(*bay.where) as direct:
        await told(client, "run", command="true")
        box = await direct.sandboxes.get("mcp")
        spec = sdk.ServiceSpec(name="talker", argv=("/bin/sh", "-c", "echo service talks; exec sleep 600"))
        await box.services.put(spec, wait=30)
        async for chunk in box.services.logs("talker", follow=True):
            if b"talks" in chunk.data:
                break
        assert await told(client, "logs", service="talker") == "service talks\n\n[talker is running]"
        assert "service talker: running" in await told(client, "logs")
        await box.services.delete("talker")


@pytest.mark.parametrize(
    ("tool", "given", "said"),
    [
        ("run", {}, "run: command is missing"),
        ("run", {"command": ""}, "command must have 1 characters or more"),
        ("run", {"command": "x", "timeout_s": 0}, "timeout_s must be more than 0"),
        ("run", {"command": "x", "comand": "y"}, "there is no argument comand; did you mean command?"),
        ("run", {"command": 7}, "command must be text"),
        ("rum", {"command": "x"}, "there is no tool rum; did you mean run?"),
        ("read_output", {"exec_id": "../../keys"}, "exec"),
        ("read_file", {"path": "none"}, "there is no"),
        ("read_file", {"path": "."}, "directory"),
        ("edit_file", {"path": "e", "old": "a", "new": "b"}, "there is no"),
        ("run", {"command": "x", "sandbox": "no such name"}, "sandbox"),
        ("run", {"command": "x", "sandbox": "../keys"}, "sandbox"),
        ("delete_sandbox", {"sandbox": ""}, "sandbox must have 1 characters or more"),
        ("restore", {"sandbox": "", "checkpoint": "c"}, "sandbox must have 1 characters or more"),
        ("run", {str(number): 0 for number in range(60_000)}, "run: 60000 arguments are too many"),
        ("upload", {"path": "x", "base64": "\u00e9"}, "base64 is not valid"),
    ],
)  # fmt: skip
async def test_a_wrong_call_says_what_to_do(
    bay: RealBay, tool: str, given: dict[str, object], said: str
) -> None:
    async with agent("http", bay.url) as client:
        answer = await client.call_tool(tool, given)
        assert answer.is_error
        assert said in text_of(answer)


async def test_lists_have_no_more_than_an_answer_holds(bay: RealBay) -> None:
    async with agent("http", bay.url) as client:
        name = "n" * 200
        await told(
            client,
            "run",
            command=f"mkdir -p many; cd many; for i in $(seq 300); do echo findme{name} > ${{i}}{name}; done",
        )
        for tool, more in (
            ("list_files", {"path": "many", "limit": 2000}),
            ("search_files", {"query": "findme", "limit": 500}),
        ):
            answer = await client.call_tool(tool, more)
            assert len(answer.model_dump_json()) < 40_000
            assert answer.structured_content is not None
            assert answer.structured_content["truncated"] is True
            assert text_of(answer).splitlines()[-1].startswith("[there ")


async def test_control_characters_cost_an_agent_nothing(bay: RealBay) -> None:
    async with agent("http", bay.url) as client:
        found = await data(client, "run", command="head -c 50 /dev/zero; printf '\\t\\033[1m'")
        assert found["output"] == "\N{REPLACEMENT CHARACTER}" * 50 + "\t\x1b[1m"


async def test_output_that_is_gone_is_said_and_read_from_where_it_is_kept(bay: RealBay) -> None:
    async with agent("http", bay.url) as client:
        started = await data(client, "run", command="seq 1 400000", background=True)
        exec_id = started["exec_id"]
        while (await data(client, "read_output", exec_id=exec_id, wait_s=5))["state"] == "running":
            continue
        answer = await client.call_tool("read_output", {"exec_id": exec_id, "offset": 0})
        assert not answer.is_error
        first, _, rest = text_of(answer).partition("\n")
        assert first.startswith("[output before offset ")
        kept_from = int(first.split()[3])
        seen = await data(client, "read_output", exec_id=exec_id, offset=kept_from)
        assert rest.startswith(str(seen["output"])[:1000])


async def test_a_file_of_any_name_that_was_downloaded_is_a_resource(bay: RealBay) -> None:
    async with agent("http", bay.url) as client:
        await told(client, "write_file", path="a#b?c 100%.txt", content="here")
        got = await client.call_tool("download", {"path": "a#b?c 100%.txt"})
        uri = got.content[1].model_dump()["resource"]["uri"]
        read = (await client.read_resource(uri)).contents[0].model_dump()
        assert read["text"] == "here"


async def test_a_policy_of_many_rules_has_no_more_than_an_answer_holds(bay: RealBay) -> None:
    async with agent("http", bay.url) as client:
        places = [f"{'n' * 60}.{'m' * 60}.{'o' * 60}.{number}.example.com" for number in range(100)]
        found = await data(client, "network_policy", mode="allowlist", allow=places)
        assert 0 < len(found["rules"]) < 100
        shown = await told(client, "network_policy")
        assert f"[there are {100 - len(found['rules'])} more rules]" in shown
        await told(client, "network_policy", mode="open")
