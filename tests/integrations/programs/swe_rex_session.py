"""A SWE-ReX deployment on a sandbox: a shell session, a command, files, and the end of it."""

import asyncio
import sys
from pathlib import Path

from swerex.deployment.hooks.abstract import DeploymentHook
from swerex.exceptions import DeploymentNotStartedError, DeploymentStartupError
from swerex.runtime.abstract import (
    BashAction,
    Command,
    CreateBashSessionRequest,
    ReadFileRequest,
    UploadRequest,
    WriteFileRequest,
)

import bay
from bay.integrations.swe_rex import BayDeployment

SERVER = Path(sys.prefix) / "in-sandboxes"


class Steps(DeploymentHook):
    def __init__(self) -> None:
        self.said: list[str] = []

    def on_custom_step(self, message: str) -> None:
        self.said.append(message)


async def failed_start() -> None:
    deployment = BayDeployment(command="sh -c 'echo no such module >&2; exit 3'")
    try:
        await deployment.start()
    except DeploymentStartupError as error:
        assert "exited with 3" in str(error), error
        assert "no such module" in str(error), error
    else:
        raise AssertionError("a server that is not there has started")
    async with bay.AsyncClient() as client:
        assert [box async for box in client.sandboxes.list()] == []


async def main() -> None:
    await failed_start()
    # In place of an image that has swe-rex: a cargo with its packages for the sandbox's own Python.
    async with bay.AsyncClient() as client:
        cargo = await client.cargos.create()
        async with client.sandbox(cargo_id=cargo.id) as box:
            await box.files.upload_dir(SERVER, "site")
    deployment = BayDeployment(
        sandbox={"cargo_id": cargo.id},
        setup="test -d site/swerex",
        command="env PYTHONPATH=/workspace/site python3 -m swerex.server",
    )
    steps = Steps()
    deployment.add_hook(steps)
    try:
        deployment.runtime  # noqa: B018
    except DeploymentNotStartedError:
        pass
    else:
        raise AssertionError("it has a runtime before it is started")
    await deployment.start()
    assert await deployment.is_alive(timeout=10)
    assert steps.said == ["Starting the sandbox", "Starting runtime"]
    runtime = deployment.runtime
    await runtime.create_session(CreateBashSessionRequest())
    await runtime.run_in_session(BashAction(command="export NAME=kept"))
    assert (await runtime.run_in_session(BashAction(command="echo $NAME"))).output.strip() == "kept"
    done = await runtime.execute(Command(command=["sh", "-c", "echo alone; exit 3"]))
    assert (done.stdout, done.exit_code) == ("alone\n", 3)
    await runtime.write_file(WriteFileRequest(path="/tmp/x", content="hello"))
    assert (await runtime.read_file(ReadFileRequest(path="/tmp/x"))).content == "hello"
    await runtime.upload(UploadRequest(source_path=__file__, target_path="/tmp/program"))
    assert (await runtime.read_file(ReadFileRequest(path="/tmp/program"))).content == Path(
        __file__
    ).read_text()
    assert deployment.box is not None
    sandbox = deployment.box.id
    await deployment.stop()
    await deployment.stop()
    async with bay.AsyncClient() as client:
        assert sandbox not in [box.id async for box in client.sandboxes.list()]
        await client.cargos.delete(cargo.id)


if __name__ == "__main__":
    asyncio.run(main())
