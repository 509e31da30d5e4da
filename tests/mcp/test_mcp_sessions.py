"""Sessions of agents: their default sandboxes, cancelled calls, progress, files as resources, and keys."""

import json
import signal
import subprocess
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import agents
import anyio
import httpx
import mcp_types as types
import pytest
from agents import LONGEST_S, agent, bearer, refusal, stdio, text_of, told
from cutting_proxy import cutting_proxy
from mcp.client.subscriptions import ResourceUpdated
from mcp.shared.exceptions import MCPError
from pydantic import SecretStr
from real_bay import RealBay
from server_harness import clear, served, short_dir, until

import bay as sdk
from bay.models import KeyScope
from bay.server.compat.mcp import transport

pytestmark = [pytest.mark.clients, pytest.mark.anyio]


@asynccontextmanager
async def other_key(bay: RealBay, owner: str, scope: KeyScope = "write") -> AsyncGenerator[tuple[str, str]]:
    """A key's id and secret, of another owner."""
    async with sdk.AsyncClient(*bay.where) as admin:
        made = await admin.keys.create(owner, owner=owner, scope=scope)
        assert made.secret is not None
        yield made.id, made.secret


async def names(bay: RealBay) -> set[str | None]:
    async with sdk.AsyncClient(*bay.where) as client:
        return {box.name async for box in client.sandboxes.list()}


async def test_the_default_sandbox_of_a_process_ends_with_it_and_a_named_one_stays(bay: RealBay) -> None:
    before = await names(bay)
    async with agent("stdio", bay.url) as client:
        await told(client, "run", command="true")
        (own,) = await names(bay) - before
        assert own is not None
        assert own.startswith("mcp-")
        await told(client, "delete_sandbox", sandbox=own)
        await told(client, "write_file", path="f", content="another one is made")
        assert await names(bay) - before == {own}
    assert await names(bay) == before
    async with agent("stdio", bay.url, agents.KEY, "--sandbox", "kept") as client:
        await told(client, "write_file", path="f", content="stays")
    async with agent("http", bay.url, query="?sandbox=kept") as client:
        assert await told(client, "read_file", path="f") == "stays"


async def test_a_signal_ends_the_process_and_its_sandbox(bay: RealBay) -> None:
    before = await names(bay)
    parameters = stdio(bay.url, agents.KEY)
    async with await anyio.open_process(
        [parameters.command, *parameters.args], env=parameters.env
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        meta: dict[str, object] = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        params: dict[str, object] = {"name": "run", "arguments": {"command": "echo hi"}, "_meta": meta}
        call = types.JSONRPCRequest(jsonrpc="2.0", id=1, method="tools/call", params=params)
        await process.stdin.send(b"nonsense\n\xff\xfe\n[]\n{}\n" + call.model_dump_json().encode() + b"\n")
        said = b""
        with anyio.fail_after(LONGEST_S):
            while b"exited with 0" not in said:
                said += await process.stdout.receive()
        assert len(await names(bay) - before) == 1
        process.send_signal(signal.SIGTERM)
        with anyio.fail_after(LONGEST_S):
            assert await process.wait() == 128 + signal.SIGTERM
    assert await names(bay) == before


async def test_sessions_over_http_have_sandboxes_of_their_own(bay: RealBay) -> None:
    async with agent("http-sessions", bay.url) as one, agent("http-sessions", bay.url) as two:
        await told(one, "write_file", path="f", content="of one")
        assert (await refusal(two, "read_file", path="f"))[0] == "file_not_found"
        assert "expires_at" in await told(one, "get_sandbox")
    async with agent("http", bay.url) as three:
        assert (await refusal(three, "read_file", path="f"))[0] == "file_not_found"


@pytest.mark.parametrize("way", agents.WAYS)
async def test_a_call_that_is_cancelled_ends_its_command(bay: RealBay, way: agents.Way) -> None:
    async with agent(way, bay.url, query="?sandbox=cancelled") as client, anyio.create_task_group() as group:
        await told(client, "run", command="rm -f begun; mkfifo begun")
        group.start_soon(client.call_tool, "run", {"command": "echo $$ > begun; exec sleep 600"})
        pid = (await told(client, "run", command="cat begun")).splitlines()[0]
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True), anyio.fail_after(LONGEST_S):
            while (await client.call_tool("run", {"command": f"kill -0 {pid}"})).is_error is False:
                await anyio.lowlevel.checkpoint()


async def test_a_long_command_reports_progress(bay: RealBay) -> None:
    heard = anyio.Event()

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        assert (progress > 0, total) == (True, None)
        assert message is not None
        assert message.startswith("run takes ")
        heard.set()

    async with agent("http", bay.url) as client, anyio.create_task_group() as group:
        await told(client, "run", command="rm -f heard; mkfifo heard")

        async def call() -> None:
            answer = await client.call_tool(
                "run", {"command": "read x < heard"}, progress_callback=on_progress
            )
            assert not answer.is_error

        group.start_soon(call)
        with anyio.fail_after(LONGEST_S):
            await heard.wait()
        await told(client, "run", command="echo > heard")


async def test_files_are_resources(bay: RealBay) -> None:
    async with agent("http", bay.url, query="?sandbox=files") as client:
        assert (await client.list_resources()).resources == []
        await told(client, "write_file", path="ä b.txt", content="text")
        await told(client, "upload", path="bytes", base64="/wAB")
        listed = {one.name: one.uri for one in (await client.list_resources()).resources}
        text = (await client.read_resource(listed["ä b.txt"])).contents[0]
        assert isinstance(text, types.TextResourceContents)
        assert text.text == "text"
        blob = (await client.read_resource(listed["bytes"])).contents[0]
        assert isinstance(blob, types.BlobResourceContents)
        assert blob.blob == "/wAB"
        template = (await client.list_resource_templates()).resource_templates[0]
        assert template.uri_template == "bay://{sandbox}/{+path}"
        for uri in ("file:///etc/passwd", "bay://files/none", "bay://none/x", "bay://files"):
            with pytest.raises(MCPError) as refused:
                await client.read_resource(uri)
            assert refused.value.error.code == types.INVALID_PARAMS


@pytest.mark.parametrize("way", ["stdio", "http"])
async def test_changes_of_a_resource_are_told_to_who_listens(bay: RealBay, way: agents.Way) -> None:
    async with agent(way, bay.url, query="?sandbox=watched") as client:
        await told(client, "write_file", path="f", content="1")
        uri = (await client.list_resources()).resources[0].uri
        async with client.listen(resource_subscriptions=[uri]) as changes:
            await told(client, "write_file", path="f", content="2")
            with anyio.fail_after(LONGEST_S):
                assert await anext(aiter(changes)) == ResourceUpdated(uri=uri)


def subscription(uri: str) -> types.SubscribeRequest:
    return types.SubscribeRequest(params=types.SubscribeRequestParams(uri=uri))


async def test_changes_are_told_in_a_session_over_stdio(bay: RealBay) -> None:
    changed = anyio.Event()

    async def on_message(message: object) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            changed.set()

    async with agent("stdio-sessions", bay.url, message_handler=on_message) as client:
        await told(client, "write_file", path="f", content="1")
        uri = (await client.list_resources()).resources[0].uri
        await client.session.send_request(subscription(uri), types.EmptyResult)
        with pytest.raises(MCPError):
            await client.session.send_request(subscription(f"{uri}-none"), types.EmptyResult)
        await told(client, "write_file", path="f", content="2")
        with anyio.fail_after(LONGEST_S):
            await changed.wait()
        over = types.UnsubscribeRequest(params=types.UnsubscribeRequestParams(uri=uri))
        await client.session.send_request(over, types.EmptyResult)


async def test_another_owners_sandbox_is_not_there(bay: RealBay) -> None:
    async with agent("http", bay.url, query="?sandbox=mine") as client:
        await told(client, "run", command="true")
    async with other_key(bay, "mallory") as (_, key), agent("http", bay.url, key) as client:
        for tool, more in (("run", {"command": "id"}), ("get_sandbox", {}), ("delete_sandbox", {})):
            assert await refusal(client, tool, sandbox="mine", **more) == (
                "not_found",
                "there is no sandbox mine",
            )


async def test_a_key_that_may_only_read_runs_nothing(bay: RealBay) -> None:
    async with other_key(bay, "reader", "read") as (_, key), agent("http", bay.url, key) as client:
        assert await told(client, "list_sandboxes") == "[none]"
        assert (await refusal(client, "run", command="id"))[0] == "forbidden"


async def test_a_session_ends_with_its_key(bay: RealBay) -> None:
    async with other_key(bay, "leaver") as (key_id, key), sdk.AsyncClient(*bay.where) as admin:
        async with agent("stdio", bay.url, key) as client:
            await told(client, "list_sandboxes")
            await admin.keys.revoke(key_id)
            assert (await refusal(client, "list_sandboxes"))[0] == "unauthorized"
        async with httpx.AsyncClient(headers=bearer(key)) as http:
            answer = await http.post(f"{bay.url}/mcp", json={})
    place = f"{bay.url}/.well-known/oauth-protected-resource/mcp"
    assert (answer.status_code, answer.headers["www-authenticate"]) == (
        401,
        f'Bearer resource_metadata="{place}"',
    )
    async with httpx.AsyncClient() as http:
        metadata = (await http.get(place)).json()
    assert (metadata["resource"], metadata["bearer_methods_supported"]) == (f"{bay.url}/mcp", ["header"])


ABOUT = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
INITIALIZE = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": ABOUT}


async def opened(http: httpx.AsyncClient) -> httpx.Response:
    """The answer to the first message of a session."""
    return await http.post("/mcp", json=INITIALIZE)


async def pinged(http: httpx.AsyncClient, session: str) -> int:
    """The status of a ping in a session."""
    message = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    return (await http.post("/mcp", json=message, headers={"mcp-session-id": session})).status_code


ACCEPT = {"Accept": "application/json, text/event-stream"}


async def test_a_session_is_not_there_for_another_key_and_the_oldest_makes_room(
    bay: RealBay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "SESSIONS_OF_OWNER", 2)
    async with (
        other_key(bay, "many") as (_, key),
        other_key(bay, "thief") as (_, other),
        httpx.AsyncClient(base_url=bay.url, headers={**bearer(key), **ACCEPT}) as http,
        httpx.AsyncClient(base_url=bay.url, headers={**bearer(other), **ACCEPT}) as thief,
    ):
        first, second = [(await opened(http)).headers["mcp-session-id"] for _ in range(2)]
        assert await pinged(thief, first) == await pinged(http, "none") == 404
        assert await pinged(http, first) == 200
        third = (await opened(http)).headers["mcp-session-id"]
        assert [await pinged(http, one) for one in (first, second, third)] == [200, 404, 200]
        assert (await http.delete("/mcp", headers={"mcp-session-id": first})).status_code == 200
        assert await pinged(http, first) == 404


async def test_a_session_in_use_makes_no_room(bay: RealBay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "SESSIONS_OF_OWNER", 1)
    async with other_key(bay, "busy") as (_, key), agent("http-sessions", bay.url, key) as client:
        await told(client, "run", command="mkfifo go")
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "run", {"command": "echo > go; exec sleep 600"})
            await told(client, "run", command="cat go")
            async with httpx.AsyncClient(base_url=bay.url, headers={**bearer(key), **ACCEPT}) as http:
                answer = await opened(http)
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "quota_exceeded")
            group.cancel_scope.cancel()


async def test_the_sessions_of_a_key_are_forgotten_with_it() -> None:
    with short_dir() as root:
        served_bay = served(root, api_key=SecretStr(agents.KEY))
        async with served_bay as live, httpx.AsyncClient(base_url=live.url, timeout=LONGEST_S) as http:
            http.headers.update({**bearer(live.key), **ACCEPT})
            session = (await opened(http)).headers["mcp-session-id"]
            assert live.bay.mcp_messages._opened is not None
            messages = live.bay.mcp_messages._opened.result()
            assert list(messages._sessions) == ["alice"]
            async with http.stream("GET", "/mcp", headers={"mcp-session-id": session}):
                (key,) = live.bay.keys.of_owner("alice")
                async with sdk.AsyncClient(live.url, agents.KEY) as admin:
                    await admin.keys.revoke(key)
                await until(lambda: not messages._sessions["alice"])
                assert messages._manager._server_instances == {}


async def test_who_listens_keeps_no_call_from_its_turn(bay: RealBay) -> None:
    async with agent("stdio", bay.url) as client, AsyncExitStack() as stack:
        await told(client, "write_file", path="f", content="1")
        uri = (await client.list_resources()).resources[0].uri
        for _ in range(17):
            await stack.enter_async_context(client.listen(resource_subscriptions=[uri]))
        assert await told(client, "read_file", path="f") == "1"


async def test_many_subscriptions_at_once_are_few(bay: RealBay) -> None:
    async with agent("stdio-sessions", bay.url) as client:
        await told(client, "run", command="touch $(seq 30)")
        uris = [one.uri for one in (await client.list_resources()).resources]
        refused: list[str] = []

        async def subscribe(uri: str) -> None:
            try:
                await client.session.send_request(subscription(uri), types.EmptyResult)
            except MCPError as error:
                refused.append(error.error.message)

        async with anyio.create_task_group() as group:
            for uri in uris:
                group.start_soon(subscribe, uri)
        assert refused == ["17 resources are more than 16; watch a directory"] * 14


def test_a_line_that_is_too_long_is_passed_over_and_a_closed_stdout_is_no_defect(bay: RealBay) -> None:
    parameters = stdio(bay.url, agents.KEY)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [parameters.command, *parameters.args], env=parameters.env, stdin=pipe, stdout=pipe, stderr=pipe
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"x" * (9 << 20) + b"\n" + json.dumps(INITIALIZE).encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith(b'{"jsonrpc":"2.0","id":1,')
        process.stdout.close()
        process.stdin.write(b'{"jsonrpc":"2.0","id":2,"method":"ping"}\n')
        process.stdin.flush()
        assert process.wait(LONGEST_S) == 0
        assert process.stderr.read().count(b"\n") == 1  # that it serves


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b"null",
        b'{"jsonrpc":"2.0","id":1,"method":"x"}',
        b"\xff" * 100,
        b"[" * 10_000,
    ],
)
async def test_nonsense_is_refused_and_hurts_no_other(bay: RealBay, body: bytes) -> None:
    for version in ({}, {"MCP-Protocol-Version": "2026-07-28"}, {"MCP-Protocol-Version": "never"}):
        headers = {**bearer(), **ACCEPT, "Content-Type": "application/json", **version}
        async with httpx.AsyncClient(base_url=bay.url, headers=headers) as http:
            assert 400 <= (await http.post("/mcp", content=body)).status_code < 500
    async with agent("http", bay.url) as client:
        await told(client, "list_sandboxes")


async def test_a_body_that_is_too_large_is_refused(bay: RealBay) -> None:
    async with httpx.AsyncClient(base_url=bay.url, headers={**bearer(), **ACCEPT}) as http:
        answer = await http.post("/mcp", content=b" " * (transport.BODY_BYTES + 1))
    assert answer.status_code == 413


async def test_hundreds_of_calls_at_once_are_all_answered(bay: RealBay) -> None:
    answers: list[types.CallToolResult] = []

    async with agent("stdio", bay.url) as client:

        async def call() -> None:
            answers.append(await client.call_tool("read_file", {"path": ""}))

        await told(client, "run", command="true")
        async with anyio.create_task_group() as group:
            for _ in range(300):
                group.start_soon(call)
    assert len(answers) == 300
    assert {text_of(answer) for answer in answers if not answer.is_error} == set()


async def test_an_agent_goes_on_when_bay_comes_back() -> None:
    with short_dir() as root, cutting_proxy() as proxy:
        async with AsyncExitStack() as clients:
            async with served(root, api_key=SecretStr(agents.KEY)) as first:
                proxy.target = first.port
                url = f"http://127.0.0.1:{proxy.port}"
                one = await clients.enter_async_context(agent("stdio", url, agents.KEY, "--sandbox", "box"))
                two = await clients.enter_async_context(agent("http", url, query="?sandbox=box"))
                await told(one, "write_file", path="f", content="here")
                assert await told(two, "read_file", path="f") == "here"
            async with served(root, api_key=SecretStr(agents.KEY)) as second:
                proxy.target = second.port
                assert await told(one, "read_file", path="f") == "here"
                assert await told(two, "read_file", path="f") == "here"
                await clients.aclose()
        await clear(root)
