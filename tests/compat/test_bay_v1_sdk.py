"""The public client of Bay v1, unmodified, in a process and an environment of its own."""

import json
from collections.abc import Iterator

import pytest
from client_programs import ClientHost, client_host

pytestmark = [pytest.mark.clients, pytest.mark.long, pytest.mark.timeout(300)]

PROFILE = {"user": "shipyard", "skills": True, "env_file": True, "env": {"FROM_PROFILE": "it's here"}}


@pytest.fixture(scope="module")
def host() -> Iterator[ClientHost]:
    """A Bay whose profile has all that clients of Bay v1 know."""
    with client_host(BAY_PROFILES=json.dumps({"python-default": PROFILE})) as host:
        yield host


@pytest.mark.parametrize(
    "program", [pytest.param("bay_v1_life.py", marks=pytest.mark.gate), "bay_v1_skills.py"]
)
def test_a_program_of_the_sdk_of_bay_v1_does_its_work(host: ClientHost, program: str) -> None:
    assert host.run(program).splitlines()[-1] == "done"
