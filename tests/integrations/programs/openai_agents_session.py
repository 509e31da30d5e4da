"""An agent of the OpenAI Agents SDK works in a sandbox; a session is closed, found again and deleted."""

import asyncio
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import httpx
from agents import Model, ModelResponse, Runner, Usage, set_tracing_disabled
from agents.run import RunConfig
from agents.sandbox import Manifest, SandboxAgent, SandboxRunConfig
from agents.sandbox.errors import ExecTimeoutError, PtySessionNotFoundError, WorkspaceReadNotFoundError
from agents.sandbox.session import SandboxSession
from agents.sandbox.snapshot import LocalSnapshotSpec
from openai.types.responses import (
    ResponseFunctionToolCall,
    ResponseOutputItem,
    ResponseOutputMessage,
    ResponseOutputText,
)

import bay
from bay.integrations.openai_agents import BayClientOptions, BaySandboxClient

SERVE = "nohup python3 -m http.server 8000 >/dev/null 2>&1 &"


class Scripted(Model):
    """A model that runs one command and repeats its output."""

    async def get_response(self, *_: Any, **given: Any) -> ModelResponse:
        outputs = [
            item
            for item in given["input"]
            if isinstance(item, dict) and item.get("type") == "function_call_output"
        ]
        if outputs:
            text = ResponseOutputText(text=str(outputs[-1]["output"]), type="output_text", annotations=[])
            said: ResponseOutputItem = ResponseOutputMessage(
                id="m", content=[text], role="assistant", status="completed", type="message"
            )
        else:
            said = ResponseFunctionToolCall(
                call_id="c",
                name="exec_command",
                arguments=json.dumps({"cmd": "cat note.txt; whoami"}),
                type="function_call",
            )
        return ModelResponse(output=[said], usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


async def sessions(bay_client: bay.AsyncClient, snapshots: Path) -> None:
    client = BaySandboxClient(bay_client)
    manifest = Manifest(environment={"value": {"MODE": "quick"}})
    options = BayClientOptions(labels={"of": "agents"}, exposed_ports=(8000,))
    session = await client.create(
        manifest=manifest, options=options, snapshot=LocalSnapshotSpec(base_path=snapshots)
    )
    await session.start()
    assert await session.running()
    done = await session.exec("echo $MODE; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.exit_code) == (b"quick\n", b"err\n", 3)
    assert (await session.exec("whoami", user="root")).stdout == b"root\n"
    try:
        await session.exec("sleep 60", timeout=1)
    except ExecTimeoutError:
        pass
    else:
        raise AssertionError("the time limit was not kept")

    await session.write(Path("dir/a.txt"), io.BytesIO(b"hello"))
    assert (await session.read(Path("dir/a.txt"))).read() == b"hello"
    assert await session.read_bounded(Path("dir/a.txt"), max_bytes=2) == b"he"
    assert [Path(entry.path).name for entry in await session.ls("dir")] == ["a.txt"]
    try:
        await session.read(Path("none"))
    except WorkspaceReadNotFoundError:
        pass
    else:
        raise AssertionError("there is no such file")

    await session.exec(SERVE)
    where = await session.resolve_exposed_port(8000)
    async with httpx.AsyncClient(base_url=os.environ["BAY_URL"]) as browser:  # here no DNS has that host
        host = {"Host": f"{where.host}:{where.port}"}
        assert (await browser.get("/dir/a.txt", headers=host)).text == "hello"

    await session.aclose()
    stored = json.loads(json.dumps(client.serialize_session_state(session.state)))
    again = await client.resume(client.deserialize_session_state(stored))
    await again.start()
    assert (await again.read(Path("dir/a.txt"))).read() == b"hello"
    await again.aclose()
    await client.delete(again)

    anew = await client.resume(client.deserialize_session_state(stored))  # its files come from the snapshot
    await anew.start()
    assert (await anew.read(Path("dir/a.txt"))).read() == b"hello"
    await client.delete(anew)


async def until(session: SandboxSession, number: int, wanted: bytes, chars: str) -> None:
    """Give a command input, and look at it until it has printed what is wanted."""
    output = b""
    while wanted not in output:
        update = await session.pty_write_stdin(session_id=number, chars=chars, yield_time_s=0.25)
        output, chars = output + update.output, ""
        assert update.process_id is not None or wanted in output, output


async def terminals(bay_client: bay.AsyncClient) -> None:
    client = BaySandboxClient(bay_client)
    session = await client.create(options=BayClientOptions(network="none", labels={"of": "agents"}))
    await session.start()
    assert session.supports_pty()
    done = await session.pty_exec_start("echo out; echo err >&2; kill -9 $$", yield_time_s=30)
    assert (sorted(done.output.split()), done.exit_code, done.process_id) == ([b"err", b"out"], 137, None)

    shell = await session.pty_exec_start("tty; exec sh", tty=True, user="root", yield_time_s=0.25)
    assert shell.process_id is not None
    assert shell.exit_code is None
    await until(session, shell.process_id, b"0:root", "echo $(id -u):$(whoami)\r")
    last = await session.pty_write_stdin(session_id=shell.process_id, chars="exit 7\r", yield_time_s=30)
    assert (last.process_id, last.exit_code) == (None, 7)
    try:
        await session.pty_write_stdin(session_id=shell.process_id, chars="x")
    except PtySessionNotFoundError:
        pass
    else:
        raise AssertionError("an ended command took input")

    sleeper = await session.pty_exec_start("sleep 600", yield_time_s=0.25)
    assert sleeper.process_id is not None
    try:
        await session.pty_write_stdin(session_id=sleeper.process_id, chars="x")
    except RuntimeError as error:
        assert str(error) == "stdin is not available for this process"
    else:
        raise AssertionError("a command without a terminal took input")
    assert await running(session, "sleep 600")
    await session.pty_terminate_all()
    assert not await running(session, "sleep 600")
    await client.delete(session)


async def running(session: SandboxSession, command: str) -> bool:
    processes = await session._inner.box.processes()
    return any(command in one.command for one in processes)


async def agent(bay_client: bay.AsyncClient) -> None:
    client = BaySandboxClient(bay_client)
    session = await client.create(options=BayClientOptions(network="none", labels={"of": "agents"}))
    async with session:
        await session.write(Path("note.txt"), io.BytesIO(b"from the workspace\n"))
        config = RunConfig(sandbox=SandboxRunConfig(session=session))
        result = await Runner.run(SandboxAgent(name="a", model=Scripted()), "read it", run_config=config)
        assert "from the workspace" in result.final_output, result.final_output
        assert "ship" in result.final_output
    await client.delete(session)


async def main() -> None:
    set_tracing_disabled(True)
    async with bay.AsyncClient() as client:
        with tempfile.TemporaryDirectory() as snapshots:
            await sessions(client, Path(snapshots))
        await terminals(client)
        await agent(client)
        assert [box async for box in client.sandboxes.list(label="of:agents")] == []


if __name__ == "__main__":
    asyncio.run(main())
