"""A browser by Bay v1's `shipyard-neo-sdk`: commands, a batch, a trace, and a skill that is made of it."""

import asyncio
import contextlib
import os
from pathlib import Path

from shipyard_neo import BayClient, CapabilityNotSupportedError, NotFoundError

URL, KEY, PROGRAM = os.environ["BAY_URL"], os.environ["BAY_API_KEY"], os.environ["BROWSER_PROGRAM"]
PAGE = "data:text/html,<title>first</title><button onclick=document.title=/second/.source>go</button>"


async def browser(client: BayClient, box) -> None:
    await box.filesystem.upload(".local/bin/agent-browser", Path(PROGRAM).read_bytes())
    await box.shell.exec("chmod 755 .local/bin/agent-browser")
    opened = await box.browser.exec(f"open '{PAGE}'", timeout=60)
    assert opened.success, opened
    pressed = await box.browser.exec_batch(
        ["find role button click --name go", "get title"], timeout=60, include_trace=True, tags="try"
    )
    assert pressed.success, pressed
    assert pressed.results[1].stdout == "second\n"
    assert pressed.completed_steps == pressed.total_steps == 2
    failed = await box.browser.exec_batch(["nonsense", "get title"], timeout=60)
    assert (failed.success, failed.completed_steps) == (False, 1)
    assert failed.results[0].exit_code != 0
    await skill(client, box, pressed.execution_id, pressed.trace_ref)
    history = await box.get_execution_history(exec_type="browser_batch", success_only=True)
    assert history.total == 2


async def skill(client: BayClient, box, source: str, trace: str) -> None:
    try:
        await box.browser.run_skill("press")
    except NotFoundError:
        made = await client.skills.create_candidate(
            skill_key="press", source_execution_ids=[source], payload_ref=trace
        )
        await client.skills.evaluate_candidate(made.id, passed=True)
        release = await client.skills.promote_candidate(made.id)
        ran = await box.browser.run_skill("press", timeout=60)
        assert (ran.success, ran.release_id) == (True, release.id), ran
        assert (await client.skills.get_release_health(release.id)).samples == 1


async def main() -> None:
    async with BayClient(endpoint_url=URL, access_token=KEY) as client:
        plain = await client.create_sandbox()
        with contextlib.suppress(CapabilityNotSupportedError):
            raise AssertionError(await plain.browser.exec("get title"))
        box = await client.create_sandbox(profile="web")
        await browser(client, box)
    print("done")


asyncio.run(main())
