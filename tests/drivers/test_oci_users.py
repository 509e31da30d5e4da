"""Users and groups inside: packages add them, root becomes them, and every id has a name."""

from pathlib import Path
from typing import Any

import pytest

from bay.testing.driver_bench import DriverBench, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]


async def test_root_adds_users_and_groups_and_becomes_them(oci: DriverBench) -> None:
    async with oci.session() as handle:
        made = await run(
            handle, "groupadd devs && useradd -m -G devs bob && su bob -c 'id -un; groups'", user="root"
        )
        assert (made.stdout, made.stderr) == ("bob\nbob devs\n", "")


async def test_root_becomes_the_sandboxs_user(oci: DriverBench) -> None:
    async with oci.session() as handle:
        became = await run(handle, "su ship -c 'id -un; pwd'; runuser -u ship id -- -un", user="root")
        assert (became.stdout, became.stderr) == ("ship\n/workspace\nship\n", "")
        assert (await run(handle, "echo | su root -c id")).exit_code == 1


@pytest.mark.parametrize("user", [None, "root"])
async def test_every_group_of_a_command_has_a_name(oci: DriverBench, user: str | None) -> None:
    async with oci.session() as handle:
        assert (await run(handle, "groups; id", user=user)).stderr == ""


async def test_a_user_with_a_home_of_its_own_has_it_at_each_start_with_its_files(
    oci: DriverBench, workspaces: Path
) -> None:
    machine = workspaces / "machine"
    machine.mkdir(mode=0o700)
    own: dict[str, Any] = {"user": "sprite", "home": "/home/sprite", "machine": machine}
    spec = oci.spec(**own)
    handle = await oci.start(spec)
    who = await run(
        handle, "id -un; id -gn; echo $HOME; pwd; stat -c %U:%G ~; echo kept > ~/file; mkdir ~/src"
    )
    assert (who.stdout.split(), who.stderr) == (
        ["sprite", "sprite", "/home/sprite", "/workspace", "sprite:sprite"],
        "",
    )
    await oci.driver.stop(handle, 2)
    await oci.driver.destroy(handle)
    async with oci.session(workspace=spec.workspace, **own) as again:
        for cwd, command, found in [("~", "cat file", "kept"), ("~/src", "pwd", f"{own['home']}/src")]:
            assert (await run(again, command, cwd=cwd)).stdout == f"{found}\n"
        assert (await run(again, "pwd", cwd="~", user="root")).stdout == "/root\n"
        became = await run(again, "su sprite -c 'cd; pwd'; grep -c sprite /etc/passwd", user="root")
        assert (became.stdout, became.stderr) == ("/home/sprite\n1\n", "")
