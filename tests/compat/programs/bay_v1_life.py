"""An agent's day with Bay v1, by `shipyard-neo-sdk`: sandboxes, files, code, history and cargos."""

import asyncio
import os
from collections.abc import Awaitable
from datetime import timedelta

from shipyard_neo import (
    BayClient,
    CapabilityNotSupportedError,
    CargoFileNotFoundError,
    ConflictError,
    InvalidPathError,
    NotFoundError,
    SandboxTTLInfiniteError,
    UnauthorizedError,
)

URL, KEY = os.environ["BAY_URL"], os.environ["BAY_API_KEY"]


async def refused(call: Awaitable[object], error: type[Exception]) -> None:
    try:
        await call
    except error:
        return
    raise AssertionError(f"not refused with {error.__name__}")


async def sandboxes(client: BayClient) -> None:
    profiles = (await client.list_profiles(detail=True)).items
    assert any(profile.id == "python-default" and profile.containers for profile in profiles)
    first, second = await asyncio.gather(
        *(client.create_sandbox(ttl=600, idempotency_key="once") for _ in range(2))
    )
    assert first.id == second.id
    box = await client.get_sandbox(first.id)
    assert {"python", "shell", "filesystem"} <= set(box.capabilities)
    assert box.id in [item.id for item in (await client.list_sandboxes(limit=200)).items]
    before = box.expires_at
    await box.extend_ttl(60)
    await box.refresh()
    assert box.expires_at - before == timedelta(seconds=60), (before, box.expires_at)
    await box.keepalive()
    await files(box)
    await code(box)
    await box.stop()
    assert await box.filesystem.read_file("notes/a.txt") == "héllo"  # starts it again
    await box.delete()
    await refused(client.get_sandbox(box.id), NotFoundError)
    forever = await client.create_sandbox()
    await refused(forever.extend_ttl(60), SandboxTTLInfiniteError)
    await forever.delete()


async def files(box) -> None:
    await box.filesystem.write_file("notes/a.txt", "héllo")
    await box.filesystem.upload("notes/中文.bin", bytes(range(256)))
    assert await box.filesystem.download("notes/中文.bin") == bytes(range(256))
    assert {entry.name for entry in await box.filesystem.list_dir("notes")} == {"a.txt", "中文.bin"}
    await box.filesystem.delete("notes/中文.bin")
    await refused(box.filesystem.read_file("notes/中文.bin"), CargoFileNotFoundError)
    await refused(box.filesystem.read_file("../../etc/passwd"), InvalidPathError)


async def code(box) -> None:
    done = await box.shell.exec(
        "pwd; cat a.txt; id -u; echo $HOME", cwd="notes", tags="t1", description="look"
    )
    assert (done.success, done.exit_code) == (True, 0)
    assert done.output.split() == ["/workspace/notes", "héllo1000", "/workspace"], done.output
    failed = await box.shell.exec("echo said; sleep 100", timeout=1)
    assert (failed.success, failed.exit_code, failed.output.strip()) == (False, -1, "said")
    await box.python.exec("answer = 6 * 7")
    assert (await box.python.exec("print(answer)")).output.strip() == "42"
    assert "ZeroDivisionError" in (await box.python.exec("1 / 0")).error
    made = await box.shell.exec("python3 -m venv --without-pip v && v/bin/python -c 'print(1)'", timeout=120)
    assert made.output.strip() == "1", made
    about = await box.shell.exec(
        "python3 -c \"import urllib.request as u; print(u.urlopen('http://localhost:8123/meta').read().decode())\""
    )
    assert '"ship"' in about.output, about
    assert '"bay-sandbox"' in about.output, about
    assert (await box.shell.exec("whoami; echo $FROM_PROFILE")).output.split() == ["shipyard", "it's", "here"]
    told = await box.python.exec("import os; print(os.environ['FROM_PROFILE'])")
    assert told.output.strip() == "it's here"
    assert "export FROM_PROFILE=" in await box.filesystem.read_file(".bay_env.sh")
    await box.shell.exec("echo export LATER=yes >> .bay_env.sh")
    assert (await box.shell.exec("echo $LATER")).output.strip() == "yes"
    assert "name: bay-sandbox" in await box.filesystem.read_file("skills/bay-sandbox/SKILL.md")
    await refused(box.browser.exec("open about:blank"), CapabilityNotSupportedError)
    history = await box.get_execution_history(tags="t1")
    assert [entry.description for entry in history.entries] == ["look"]
    assert (await box.get_execution_history(exec_type="browser")).total == 0
    last = await box.get_last_execution(exec_type="python")
    assert (await box.annotate_execution(last.id, notes="odd")).notes == "odd"
    assert (await box.get_execution(last.id)).notes == "odd"


async def cargos(client: BayClient) -> None:
    cargo = await client.cargos.create(size_limit_mb=100)
    assert cargo.id in [item.id for item in (await client.cargos.list()).items]
    boxes = [await client.create_sandbox(cargo_id=cargo.id) for _ in range(2)]
    await boxes[0].shell.exec("echo shared > file")
    assert (await boxes[1].filesystem.read_file("file")).strip() == "shared"
    await refused(client.cargos.delete(cargo.id), ConflictError)
    for box in boxes:
        await box.delete()
    await client.cargos.delete(cargo.id)
    await refused(client.cargos.get(cargo.id), NotFoundError)


async def main() -> None:
    async with BayClient(URL, KEY) as client:
        await sandboxes(client)
        await cargos(client)
    async with BayClient(URL, "no-such-key-at-all") as stranger:
        await refused(stranger.list_sandboxes(), UnauthorizedError)
    print("done")


asyncio.run(main())
