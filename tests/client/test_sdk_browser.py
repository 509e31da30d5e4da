"""`box.browser` against a real Bay with the `fake` driver, and a program in the place of agent-browser."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import real_bay

import bay
from bay.server.settings import ProfileSettings

STAND_IN = """#!/bin/sh
[ "$1" = fail ] && { echo broken >&2; exit 4; }
printf '%s|' "$@"
"""


@pytest.fixture(scope="module")
def real() -> Iterator[real_bay.RealBay]:
    with tempfile.TemporaryDirectory() as name:
        program = Path(name) / "agent-browser"
        program.write_text(STAND_IN)
        program.chmod(0o755)
        web = {"capabilities": ["exec", "browser"], "env": {"PATH": f"{name}:/usr/bin:/bin"}}
        profiles = {**real_bay.PROFILES, "web": ProfileSettings.model_validate(web)}
        with real_bay.running(profiles=profiles) as running:
            yield running


def test_commands_batches_and_traces(real: real_bay.RealBay) -> None:
    with bay.Client(*real.where) as client, client.sandbox(profile="web") as box:
        ran = box.browser.exec("open 'a b'", tags="x", include_trace=True)
        assert (ran.success, ran.output, ran.exit_code) == (True, "open|a b|", 0)
        assert ran.trace_ref is not None
        assert box.browser.trace(ran.trace_ref).trace["commands"] == ["open 'a b'"]
        done = box.browser.exec_batch(["one", "fail", "three"], stop_on_error=False)
        assert (done.success, done.completed_steps) == (False, 3)
        assert [(step.stdout, step.stderr, step.exit_code) for step in done.results] == [
            ("one|", "", 0), ("", "broken\n", 4), ("three|", "", 0),
        ]  # fmt: skip
        assert [entry.exec_type for entry in box.history()] == ["browser_batch", "browser"]
        with pytest.raises(bay.NotFound, match="no active release"):
            box.browser.run_skill("sign/in")
        with pytest.raises(TypeError, match="lear"):
            box.browser.exec("x", lear=True)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


def test_a_profile_without_a_browser_is_told_apart(real: real_bay.RealBay) -> None:
    refused = pytest.raises(bay.CapabilityNotSupported)
    with bay.Client(*real.where) as client, client.sandbox() as box, refused:
        box.browser.exec("open about:blank")


async def _async(where: tuple[str, str]) -> str:
    async with bay.AsyncClient(*where) as client, client.sandbox(profile="web") as box:
        return (await box.browser.exec("say hello")).output


@pytest.mark.anyio
async def test_the_async_client_has_the_same(real: real_bay.RealBay) -> None:
    assert await _async(real.where) == "say|hello|"
