"""The public clients of Sprites, unmodified, in processes of their own."""

import pytest
from client_programs import WEBSOCKETS, ClientHost

pytestmark = [pytest.mark.clients, pytest.mark.long]


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("sprites_life.py", marks=pytest.mark.gate),
        "sprites_async.py",
        "sprites_files.py",
        "sprites_life.mjs",
        "sprites_files.mjs",
    ],
)
def test_a_program_of_the_sdks_of_sprites_does_its_work(host: ClientHost, program: str) -> None:
    assert host.run(program, NODE_OPTIONS=WEBSOCKETS).splitlines()[-1] == "done"
