"""Commands and files by the public clients of E2B, unmodified, in processes of their own."""

import pytest
from client_programs import ClientHost

pytestmark = [pytest.mark.clients, pytest.mark.long]


@pytest.mark.parametrize("program", ["e2b_commands.py", "e2b_files.py", "e2b_files.mjs"])
def test_a_program_of_the_sdks_of_e2b_works_with_a_sandbox(host: ClientHost, program: str) -> None:
    places = {"E2B_API_KEY": host.key, "E2B_API_URL": f"{host.url}/e2b", "E2B_SANDBOX_URL": host.url}
    assert host.run(program, **places).splitlines()[-1] == "done"
