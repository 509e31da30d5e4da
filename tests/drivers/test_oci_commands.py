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
