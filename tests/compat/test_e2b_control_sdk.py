"""The public clients of E2B, unmodified, manage sandboxes."""

import pytest
from client_programs import ClientHost


@pytest.mark.parametrize("program", ["e2b_life.py", "e2b_async.py", "e2b_life.mjs"])
def test_a_program_of_an_sdk_of_e2b_manages_sandboxes(host: ClientHost, program: str) -> None:
    assert host.run(program).splitlines()[-1] == "done"
