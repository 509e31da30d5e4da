"""Three replicas behind a balancer for TCP are killed and started again without end, while the tests of the
SDK and other people's clients use that one address.

`make killed-replicas` runs more of both than CI has time for.
"""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import client_programs
import pytest
from anyio.from_thread import start_blocking_portal
from replica_bays import ReplicaBays, replica_bays
from replica_calls import calling, check_nothing_is_lost, never_two_ships
from replica_killer import Killer, killing

pytestmark = [pytest.mark.postgres, pytest.mark.long, pytest.mark.timeout(1800)]

FOLDER = Path(__file__).parents[1] / "client"
IS_LONG = "BAY_TEST_KILLED_LONG" in os.environ
SOME = [
    "test_the_example_of_the_docs_runs", "test_output_is_followed_and_read_again",
    "test_input_is_taken_whole_and_closed", "test_being_attached_gives_output_takes_input_and_comes_back",
    "test_files_of_any_name_and_size", "test_stop_keeps_files_and_the_next_command_wakes",
]  # fmt: skip
TESTS = [FOLDER] if IS_LONG else [f"{FOLDER / 'test_sdk_real.py'}::{name}" for name in SOME]
OPTIONS = ["-q", "-p", "no:cacheprovider", "--tb=short", "--timeout", "300", "-n", "4", "--dist", "load"]
"""They wait for takeovers most of the time."""

SHORT = ["e2b_interpreter_async.py", "sprites_async.py"]
MORE = ["e2b_async.py", "e2b_life.mjs", "e2b_life.py", "bay_v1_skills.py"]
PROGRAMS = [*SHORT, *(MORE if IS_LONG else [])]
"""Of those that need no image: the driver has none."""

ROUNDS = 10
"""How often a test or a program may lose a call that its client does not send again."""

PEACE_S = 3.0

BROKEN = re.compile(
    r"disconnected|reset|refused|closed|terminated|hang up|fetch failed|broke|unexpected EOF", re.IGNORECASE
)
"""How clients call a connection that a killed server leaves. Bay itself refuses no call."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where clients find Bay, and keys of owners who have nothing yet."""

    url: str
    keys: Iterator[str]
    killer: Killer


@pytest.fixture(scope="module")
def bays() -> Generator[ReplicaBays]:
    with replica_bays(3) as bays:
        yield bays


@pytest.fixture(scope="module")
def site(bays: ReplicaBays) -> Generator[Site]:
    """The replicas while they are killed. One more client is at work, and none of what it did is lost."""
    keys = [bays.key_of(f"owner-{number}") for number in range(ROUNDS * len(PROGRAMS))]
    with (
        start_blocking_portal("asyncio") as portal,
        portal.wrap_async_context_manager(_watched(bays, bays.key_of("watcher"))),
        killing(bays) as killer,
    ):
        yield Site(bays.address, iter(keys), killer)
        assert killer.kills


@asynccontextmanager
async def _watched(bays: ReplicaBays, key: str) -> AsyncGenerator[None]:
    async with never_two_ships(bays):
        async with calling(bays, key, workers=1) as ledger:
            yield
        await check_nothing_is_lost(bays, key, ledger)


def test_the_tests_of_the_sdk_pass(site: Site, tmp_path: Path) -> None:
    """Those that lost a call of which the SDK cannot know whether it had its effect are run again."""
    tests, unanswered = [str(test) for test in TESTS], tmp_path / "unanswered"
    own = {**os.environ, "BAY_TEST_URL": site.url, "BAY_TEST_UNANSWERED": str(unanswered)}
    for _ in range(ROUNDS):
        unanswered.write_text("")
        command = [sys.executable, "-m", "pytest", *OPTIONS, *tests]
        done = subprocess.run(command, env=own, check=False)  # it prints why it failed
        assert done.returncode == 0
        if not (tests := unanswered.read_text().splitlines()):
            return
    pytest.fail(f"these tests lost a call each time: {tests}")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_of_other_peoples_clients_does_its_work(site: Site, program: str) -> None:
    """They do not send again what a killed replica had under way, and tell it apart from any answer. One that
    takes longer than a replica lives loses a call each time, so each round has more peace than the last.
    """
    lost: list[str] = []
    for turn, key in enumerate(itertools.islice(site.keys, ROUNDS)):
        site.killer.rest_s = PEACE_S * turn
        done = _run(program, site.url, key)
        if done.returncode == 0:
            assert done.stdout.splitlines()[-1] == "done"
            return
        assert BROKEN.search(done.stderr), done.stderr
        lost.append(done.stderr)
    pytest.fail("\n\n".join([f"{program} lost a call each time", *lost]))


def _run(program: str, url: str, key: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    own = kept | {
        "BAY_URL": url, "BAY_API_KEY": key, "NODE_OPTIONS": client_programs.WEBSOCKETS,
        "E2B_API_KEY": key, "E2B_API_URL": f"{url}/e2b", "E2B_SANDBOX_URL": url,
    }  # fmt: skip
    command = client_programs.command_of(program)
    return subprocess.run(command, env=own, capture_output=True, text=True, timeout=300, check=False)
