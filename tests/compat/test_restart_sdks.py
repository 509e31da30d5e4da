"""A Bay is killed under a command of each public client, unmodified, and another takes its place."""

import os
import subprocess
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

import client_programs
import image_bay
import pytest
from cutting_proxy import CuttingProxy, cutting_proxy

pytestmark = [pytest.mark.clients, pytest.mark.long]

_LONGEST_S = 60
PROGRAMS = [
    "bay_v1_restart.py", "sprites_restart.py", "sprites_restart.mjs", "e2b_restart.py", "e2b_restart.mjs",
]  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_command_whose_bay_is_killed_is_cut_and_goes_on_with_the_next_bay(name: str) -> None:
    with client_programs.environment() as own, cutting_proxy() as proxy, ExitStack() as stack:
        try:
            with image_bay.started(own) as (bay, url):
                proxy.target = port_of(url)
                client = stack.enter_context(program(name, proxy))
                assert client.stdout is not None
                assert client.stdout.readline() == "running\n"
                bay.kill()
                bay.wait(_LONGEST_S)
            assert client.stdout.readline().startswith("cut: ")
            with client_programs.serving(own) as host:
                proxy.target = port_of(host.url)
                said, _ = client.communicate("back\n", timeout=_LONGEST_S)
                assert (client.returncode, said) == (0, "done\n")
        except BaseException:
            with client_programs.serving(own):  # which removes what the dead one left
                raise


@contextmanager
def program(name: str, proxy: CuttingProxy) -> Generator[subprocess.Popen[str]]:
    """The client's program, which reaches Bay by the proxy."""
    url = f"http://127.0.0.1:{proxy.port}"
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    given = kept | {
        "BAY_API_KEY": image_bay.KEY, "BAY_URL": url,
        "E2B_API_KEY": image_bay.KEY, "E2B_API_URL": f"{url}/e2b", "E2B_SANDBOX_URL": url,
        "NODE_OPTIONS": client_programs.WEBSOCKETS,
    }  # fmt: skip
    command = client_programs.command_of(name)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=given, stdin=pipe, stdout=pipe, text=True) as client:
        try:
            yield client
        finally:
            client.kill()


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])
