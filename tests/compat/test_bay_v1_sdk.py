"""The public client of Bay v1, unmodified, in a process and an environment of its own."""

import pytest
from client_programs import ClientHost


@pytest.mark.parametrize("program", ["bay_v1_life.py", "bay_v1_skills.py"])
def test_a_program_of_the_sdk_of_bay_v1_does_its_work(host: ClientHost, program: str) -> None:
    assert host.run(program).splitlines()[-1] == "done"
