"""Commands in a real sandbox: where they begin, who they are, and what they find."""

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bay.drivers.base import Endpoint, Handle
from bay.testing.driver_bench import TOKEN, DriverBench, call, endpoint_of, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]

Json = dict[str, Any]


@pytest.fixture
async def inside(oci: DriverBench) -> AsyncGenerator[Handle]:
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
        ("/proc/1/root/tmp", "validation_error", "too many symbolic links"),
        ("/proc/1", "validation_error", "/proc/1 may not be the cwd"),
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


async def test_other_users_have_no_more_rights_than_their_own(oci: DriverBench) -> None:
    async with oci.session(allow_root=False) as handle:
        for user in ("root", "0", "1000:0", "1000:staff", "1234", "ship:ship"):
            error = await refused(handle, user=user)
            assert (error["code"], error["details"]) == ("forbidden", {"field": "user"}), error
        for user in ("eve", "70000", "exec-60001", "99999999999999999999"):
            assert (await refused(handle, user=user))["code"] == "validation_error"
        assert (await run(handle, "id -u", user="www-data")).stdout == "33\n"
        assert (await run(handle, "touch /workspace/x", user="www-data")).exit_code == 1


async def test_a_profile_lists_who_may_be_asked_for_and_names_its_user(oci: DriverBench) -> None:
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


WHEEL = """
import zipfile
with zipfile.ZipFile("hello-1.0-py3-none-any.whl", "w") as wheel:
    wheel.writestr("hello.py", "def main(): print('hello')")
    wheel.writestr("hello-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: hello\\nVersion: 1.0\\n")
    wheel.writestr("hello-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
    wheel.writestr("hello-1.0.dist-info/entry_points.txt", "[console_scripts]\\nhello = hello:main\\n")
    wheel.writestr("hello-1.0.dist-info/RECORD", "")
"""
PIP = "python -m pip --disable-pip-version-check install --no-index --quiet /workspace/hello-1.0-py3-none-any.whl"


async def imported(handle: Handle) -> list[Json]:
    """What a cell of the default kernel says that imports the package."""
    body = {"id": f"cell-{secrets.token_hex(8)}", "code": "import hello; hello.main()", "timeout_s": 60}
    endpoint = endpoint_of(handle)
    made = await call(endpoint, "POST", "/kernels/default/cells", body)
    async with asyncio.timeout(60):
        while (await call(endpoint, "GET", f"/cells/{made['id']}"))["state"] != "ended":
            await run(handle, "true")
    raw = await text_of(endpoint, f"/kernels/default/cells/{made['id']}/events")
    return [json.loads(line) for line in raw.splitlines()]


async def text_of(endpoint: Endpoint, path: str) -> str:
    transport = httpx.AsyncHTTPTransport(uds=endpoint.socket_path)
    async with httpx.AsyncClient(transport=transport, base_url="http://ship") as client:
        return (await client.get(path, headers={"Authorization": f"Bearer {TOKEN}"})).text


async def test_pip_installs_for_the_user_and_a_running_kernel_finds_it(inside: Handle) -> None:
    if (await run(inside, "python3 -m pip --version")).exit_code:
        pytest.skip("the host has no pip")
    await run(inside, f"python3 - <<'END'\n{WHEEL}\nEND")
    assert "ModuleNotFoundError" in str(await imported(inside))
    assert (await run(inside, PIP)).exit_code == 0
    assert (
        await run(inside, "hello; ls -d .local/lib/python3*/site-packages/hello.py | wc -l")
    ).stdout == "hello\n1\n"
    assert [event.get("text") for event in await imported(inside) if event["type"] == "stdout"] == ["hello\n"]


async def test_pip_installs_for_all_as_root(inside: Handle) -> None:
    if (await run(inside, "python3 -m pip --version")).exit_code:
        pytest.skip("the host has no pip")
    await run(inside, f"python3 - <<'END'\n{WHEEL}\nEND")
    done = await run(inside, PIP, user="root")
    assert (done.exit_code, done.stderr) == (0, "")
    assert (await run(inside, "hello", user="nobody")).stdout == "hello\n"


async def test_python_is_called_python(inside: Handle) -> None:
    script = "printf '#!/usr/bin/python\\nprint(42)' > s; chmod +x s; ./s; python -c 'print(43)'"
    assert (await run(inside, script)).stdout == "42\n43\n"


async def test_no_program_reads_every_font_of_the_host_first(inside: Handle) -> None:
    if not Path("/var/cache/fontconfig").is_dir() or not Path("/usr/bin/fc-list").exists():
        pytest.skip("the host has no fontconfig")
    found = await run(inside, "fc-list | wc -l; ls ~/.cache/fontconfig")
    assert int(found.stdout) > 0
    assert "No such file" in found.stderr


async def test_debians_chromium_shows_a_page(inside: Handle) -> None:
    if not Path("/usr/bin/chromium").exists() or not Path("/etc/chromium.d").is_dir():
        pytest.skip("the host has no Chromium of Debian's")
    page = "data:text/html,<title>seen</title>"
    shown = await run(inside, f"chromium --headless=new --no-sandbox --disable-gpu --dump-dom '{page}'")
    assert "<title>seen</title>" in shown.stdout, shown.stderr
    assert (await run(inside, "ls /etc/chromium.d/apikeys")).exit_code != 0
