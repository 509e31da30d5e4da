"""Commands in a real sandbox: where they begin, who they are, and what they find."""

import secrets
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from driver_harness import Bench, call, endpoint_of, run

from bay.drivers.base import Handle

pytestmark = pytest.mark.anyio

Json = dict[str, Any]


@pytest.fixture
async def inside(oci: Bench) -> AsyncGenerator[Handle]:
    """A running session."""
    async with oci.session() as handle:
        yield handle


async def refused(handle: Handle, **order: Any) -> Json:
    """The error of an exec that is refused."""
    body = {"id": f"exec-{secrets.token_hex(8)}", "argv": ["true"], **order}
    answer = await call(endpoint_of(handle), "POST", "/execs", body)
    assert "error" in answer, answer
    return answer["error"]


async def test_a_command_begins_in_any_directory_that_its_user_may_enter(inside: Handle) -> None:
    await run(inside, "mkdir sub; ln -s /usr/share link")
    for cwd, found in [
        (None, "/workspace"),
        ("sub", "/workspace/sub"),
        ("/tmp", "/tmp"),
        ("/", "/"),
        ("/workspace/sub/../", "/workspace"),
        ("link", "/usr/share"),
    ]:
        assert (await run(inside, "pwd -P", cwd=cwd)).stdout == f"{found}\n"
    assert (await run(inside, "pwd", cwd="/root", user="root")).stdout == "/root\n"


@pytest.mark.parametrize(
    ("cwd", "code", "says"),
    [
        ("/nowhere", "file_not_found", "there is no directory /nowhere in the sandbox"),
        ("sub/x", "file_not_found", "there is no directory /workspace/sub/x in the sandbox"),
        ("/etc/passwd", "file_not_found", "there is no directory /etc/passwd in the sandbox"),
        ("/root", "forbidden", "ship may not enter the directory /root"),
        ("/proc/1/root/tmp", "validation_error", "too many links"),
        ("/proc/1", "validation_error", "no program begins in /proc/1"),
    ],
)
async def test_a_directory_that_cannot_be_entered_is_named(
    inside: Handle, cwd: str, code: str, says: str
) -> None:
    error = await refused(inside, cwd=cwd)
    assert (error["code"], says in error["message"]) == (code, True), error


async def test_a_path_of_the_environment_holds_in_commands_and_in_login_shells(inside: Handle) -> None:
    path = "/opt/tools/bin:/usr/bin:/bin"
    for command in (
        "echo $PATH",
        "bash -lc 'echo $PATH'",
        "bash -lic 'echo $PATH' 2>/dev/null",
        "sh -lc 'echo $PATH'",
    ):
        assert (await run(inside, command, env={"PATH": path})).stdout == f"{path}\n"


async def test_what_a_user_installs_is_on_its_path_and_not_on_roots(inside: Handle) -> None:
    await run(
        inside,
        "mkdir -p ~/.local/bin; printf '#!/bin/sh\\necho mine' > ~/.local/bin/mine; chmod +x ~/.local/bin/mine",
    )
    assert (await run(inside, "mine")).stdout == "mine\n"
    assert (await run(inside, "bash -lc mine")).stdout == "mine\n"
    assert "/workspace" not in (await run(inside, "echo $PATH", user="root")).stdout


async def test_a_login_shell_greets_as_before_and_reads_profile_d(inside: Handle) -> None:
    await run(inside, "mkdir -p /etc/profile.d; echo 'FROM_D=yes' > /etc/profile.d/x.sh", user="root")
    assert (await run(inside, "bash -lic 'echo $FROM_D $PS1' 2>/dev/null")).stdout.startswith("yes ")
    assert (await run(inside, "env -i bash -lc 'command -v ls'")).stdout == "/usr/bin/ls\n"


ME = "id -u; id -g; id -Gn; echo $HOME $USER; touch /tmp/mine.$USER && stat -c %u:%g /tmp/mine.$USER"


def groups_of(line: str) -> set[str]:
    return {name for name in line.split() if not name.startswith("exec-")}


@pytest.mark.parametrize(
    ("user", "ids", "groups", "home"),
    [
        ("nobody", "65534:65534", {"nogroup"}, "/nonexistent nobody"),
        ("65534", "65534:65534", {"nogroup"}, "/nonexistent nobody"),
        ("www-data", "33:33", {"www-data"}, "/var/www www-data"),
        ("ship", "1000:1000", {"ship"}, "/workspace ship"),
        ("1000", "1000:1000", {"ship"}, "/workspace ship"),
        ("1234", "1234:1234", {"1234"}, "/ 1234"),
        ("1000:50", "1000:50", {"staff"}, "/workspace ship"),
        ("nobody:users", "65534:100", {"users"}, "/nonexistent nobody"),
        ("0", "0:0", {"root"}, "/root root"),
    ],
)
async def test_a_program_is_the_user_that_was_asked_for(
    inside: Handle, user: str, ids: str, groups: set[str], home: str
) -> None:
    uid, gid, names, homes, made = (await run(inside, f"{ME} 2>/dev/null", user=user)).stdout.splitlines()
    assert (f"{uid}:{gid}", groups_of(names), homes, made) == (ids, groups, home, ids)


async def test_a_user_that_was_added_inside_has_its_groups_and_its_tree_is_ended_as_a_whole(
    inside: Handle,
) -> None:
    await run(inside, "useradd -m -U -G staff,users eve; usermod -aG staff ship", user="root")
    found = await run(inside, "id -un; id -Gn; echo ~; cat /proc/1/environ", user="eve", cwd="/home/eve")
    name, groups, home = found.stdout.splitlines()
    assert (name, groups_of(groups), home) == ("eve", {"eve", "staff", "users"}, "/home/eve")
    assert "Permission denied" in found.stderr
    assert groups_of((await run(inside, "id -Gn")).stdout) == {"ship", "staff"}
    forest = "(setsid env -i sleep 4321 &); (setsid sleep 4321 &); sleep 4321"
    await run(inside, forest, user="eve", timeout_s=1)
    assert (await run(inside, "pgrep -x sleep", user="root")).stdout == ""


@pytest.mark.parametrize(
    "user", ["1000:60500", "1000:exec-60500", "60500:60500", "1000:70000", "1000:none", "1000:"]
)
async def test_no_program_joins_the_group_of_anothers_exec(inside: Handle, user: str) -> None:
    assert (await refused(inside, user=user))["code"] == "validation_error"


async def test_other_users_have_no_more_rights_than_their_own(oci: Bench) -> None:
    async with oci.session(allow_root=False) as handle:
        for user in ("root", "0", "1000:0", "1000:staff", "1234", "ship:ship"):
            error = await refused(handle, user=user)
            assert (error["code"], error["details"]) == ("forbidden", {"field": "user"}), error
        for user in ("eve", "70000", "exec-60001", "99999999999999999999"):
            assert (await refused(handle, user=user))["code"] == "validation_error"
        assert (await run(handle, "id -u", user="www-data")).stdout == "33\n"
        assert (await run(handle, "touch /workspace/x", user="www-data")).exit_code == 1


async def test_a_profile_lists_who_may_be_asked_for_and_names_its_user(oci: Bench) -> None:
    async with oci.session(allow_root=False, user="shipyard", users=("nobody",)) as handle:
        assert (
            await run(handle, "id -un; id -gn; echo $USER ~")
        ).stdout == "shipyard\nshipyard\nshipyard /workspace\n"
        assert (await run(handle, "id -un", user="shipyard")).stdout == "shipyard\n"
        assert (await run(handle, "id -un", user="nobody")).stdout == "nobody\n"
        error = await refused(handle, user="www-data")
        assert "it allows shipyard, nobody" in error["message"]


@pytest.mark.parametrize(
    "harm",
    [
        "rm /etc/passwd; mkfifo /etc/passwd",
        "rm /etc/passwd; mkdir /etc/passwd",
        "yes a:x:1:1::/: | head -c 4000000 > /etc/passwd",
        "printf 'a:x:%s:1:::\\n' $(head -c 90000 /dev/zero | tr '\\0' 9) > /etc/passwd",
    ],
)
async def test_a_passwd_that_root_inside_made_strange_harms_nobody(inside: Handle, harm: str) -> None:
    assert (await run(inside, harm, user="root")).exit_code == 0
    assert (await run(inside, "echo here")).stdout == "here\n"
    assert (await refused(inside, user="nobody"))["code"] == "validation_error"
