"""Users and groups inside: packages add them, root becomes them, and every id has a name."""

import pytest

from bay.testing.driver_bench import DriverBench, run

pytestmark = pytest.mark.anyio


async def test_root_adds_users_and_groups_and_becomes_them(oci: DriverBench) -> None:
    async with oci.session() as handle:
        made = await run(
            handle, "groupadd devs && useradd -m -G devs bob && su bob -c 'id -un; groups'", user="root"
        )
        assert (made.stdout, made.stderr) == ("bob\nusers devs\n", "")


async def test_root_becomes_the_sandboxs_user(oci: DriverBench) -> None:
    async with oci.session() as handle:
        became = await run(handle, "su ship -c 'id -un; pwd'; runuser -u ship id -- -un", user="root")
        assert (became.stdout, became.stderr) == ("ship\n/workspace\nship\n", "")
        assert (await run(handle, "echo | su root -c id")).exit_code == 1


@pytest.mark.parametrize("user", [None, "root"])
async def test_every_group_of_a_command_has_a_name(oci: DriverBench, user: str | None) -> None:
    async with oci.session() as handle:
        assert (await run(handle, "groups; id", user=user)).stderr == ""
