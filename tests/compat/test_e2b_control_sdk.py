"""The public clients of E2B, unmodified, manage sandboxes."""

import pytest
from client_programs import ClientHost

pytestmark = pytest.mark.clients


@pytest.mark.parametrize(
    "program", [pytest.param("e2b_life.py", marks=pytest.mark.gate), "e2b_async.py", "e2b_life.mjs"]
)
def test_a_program_of_an_sdk_of_e2b_manages_sandboxes(host: ClientHost, program: str) -> None:
    assert host.run(program).splitlines()[-1] == "done"
