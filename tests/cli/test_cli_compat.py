"""`bay compat`: lines that a shell can take, for the Bay and the key that the command itself uses."""

import json
import subprocess

import pytest
from cli_runner import Cli
from real_bay import KEY, RealBay


@pytest.mark.parametrize(
    ("client", "names"),
    [
        ("bay-v1", {"BAY_ENDPOINT": "{url}", "BAY_TOKEN": KEY}),
        ("sprites", {"SPRITES_URL": "{url}", "SPRITES_TOKEN": KEY}),
        ("e2b", {"E2B_API_KEY": KEY, "E2B_API_URL": "{url}/e2b", "E2B_SANDBOX_URL": "{url}"}),
    ],
)
def test_a_shell_takes_the_lines_for_a_client(
    bay: Cli, real: RealBay, client: str, names: dict[str, str]
) -> None:
    wanted = {name: value.format(url=real.url) for name, value in names.items()}
    said = bay("compat", client).stdout.decode()
    found = subprocess.run(
        ["sh", "-c", f"{said}\nenv"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    ).stdout
    shown = dict(line.split("=", 1) for line in found.splitlines())
    assert {name: shown.get(name) for name in wanted} == wanted
    assert json.loads(bay("compat", client, "--json").stdout) == wanted


def test_an_unknown_client_is_told_which_there_are(bay: Cli) -> None:
    done = bay("compat", "daytona")
    assert done.returncode == 2
    assert b"bay-v1, sprites, e2b" in done.stderr
