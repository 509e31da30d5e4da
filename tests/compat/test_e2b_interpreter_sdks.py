"""The public clients of E2B's code interpreter, unmodified, in processes of their own."""

import pytest
from client_programs import ClientHost

pytestmark = [pytest.mark.clients, pytest.mark.long]


PROGRAMS = ["e2b_interpreter.py", "e2b_interpreter_async.py", "e2b_interpreter.mjs"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_of_the_sdks_of_the_code_interpreter_does_its_work(host: ClientHost, program: str) -> None:
    here = {"E2B_API_KEY": host.key, "E2B_API_URL": f"{host.url}/e2b", "E2B_SANDBOX_URL": host.url}
    assert host.run(program, **here).splitlines()[-1] == "done"
