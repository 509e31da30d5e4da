"""A Deep Agents backend on a sandbox: the operations that its middleware has, and an agent that uses them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from deepagents import create_deep_agent
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, ToolMessage

import bay
from bay.integrations.deepagents import BayBackend


class Scripted(GenericFakeChatModel):
    """A model whose answers are known beforehand."""

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


def call(name: str, **args: object) -> AIMessage:
    return AIMessage(content="", tool_calls=[{"name": name, "args": args, "id": f"call-{name}"}])


async def cancelled(backend: BayBackend) -> None:
    """A call that is given up ends its command, also where no other thread is free."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    call = asyncio.create_task(backend.aexecute("touch runs; sleep 600"))
    while not backend.box.files.exists("runs"):
        await asyncio.sleep(0)  # the look waits for Bay, and the call needs turns of the loop
    call.cancel()
    try:
        await call
    except asyncio.CancelledError:
        assert not any("sleep 600" in one.command for one in backend.box.processes())
    else:
        raise AssertionError("the call was not cancelled")
    assert (await backend.aexecute("echo $((6 * 7))")).output == "42\n"


def main() -> None:
    with bay.Client() as client, client.sandbox() as box:
        backend = BayBackend(box)
        assert backend.id == box.id

        done = backend.execute("echo out; echo err >&2; exit 3")
        assert (sorted(done.output.split()), done.exit_code, done.truncated) == (["err", "out"], 3, False)
        assert backend.execute("sleep 60", timeout=1).exit_code == 124
        assert backend.execute("head -c 40000000 /dev/zero | tr '\\0' x").truncated

        asyncio.run(cancelled(backend))

        sent = backend.upload_files(
            [("/workspace/a/b.txt", b"one\ntwo\n"), ("/etc/no", b""), ("/workspace", b"")]
        )
        assert [one.error for one in sent] == [None, "permission_denied", "is_directory"]
        got = backend.download_files(["/workspace/a/b.txt", "/workspace/none", "/etc", "/etc/shadow"])
        assert got[0].content == b"one\ntwo\n"
        assert [one.error for one in got[1:]] == ["file_not_found", "is_directory", "permission_denied"]

        assert backend.write("/workspace/c.txt", "three\n").error is None
        assert backend.edit("/workspace/c.txt", "three", "four").error is None
        assert box.files.read_text("c.txt") == "four\n"
        found = backend.grep("two", "/workspace").matches
        assert found is not None
        assert [match["path"] for match in found] == ["/workspace/a/b.txt"]

        answers = [call("write_file", file_path="/workspace/d.txt", content="by the agent"),
                   call("execute", command="cat d.txt"), AIMessage(content="done")]  # fmt: skip
        agent = create_deep_agent(model=Scripted(messages=iter(answers)), backend=backend)
        said = agent.invoke({"messages": [{"role": "user", "content": "write"}]})["messages"]
        tools = [message for message in said if isinstance(message, ToolMessage)]
        assert "by the agent" in str(tools[-1].content), said
        assert box.files.read_text("d.txt") == "by the agent"


if __name__ == "__main__":
    main()
