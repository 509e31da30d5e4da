"""Sandboxes from images: a real Debian, one with busybox and musl, one static program, and nothing at all."""

import asyncio
import base64
import json
import os
import secrets
import shutil
import zipfile
from pathlib import Path
from typing import Any

import image_roots
import pytest
from debian_package import build_package
from image_roots import MUSL, TestImage, busybox_root

from bay.drivers.base import Handle, ImageUser
from bay.linux.threads import in_new_thread
from bay.places import directory_of
from bay.testing.driver_bench import TOKEN, DriverBench, call, endpoint_of, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]

NO_SHELL = "this image has no shell; use argv"
WHO = "import os, sys; print(sys.executable, os.getuid(), os.getcwd())"
PLACES = (".ship", ".ship-run", "dev", "etc", "proc", "run", "sys", "tmp", "workspace")


@pytest.fixture(params=["oci", "oci_by_runc"])
def driver(request: pytest.FixtureRequest) -> DriverBench:
    """The driver, with a Ship that the zygote forks and with one that runc starts."""
    chosen: DriverBench = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(params=["static_image", "empty_image"])
def shell_less(request: pytest.FixtureRequest) -> TestImage:
    """An image without a shell."""
    chosen: TestImage = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(params=["debian_image", "musl_image"])
def with_shell(request: pytest.FixtureRequest) -> TestImage:
    """One with a shell that reads /etc/profile."""
    chosen: TestImage = request.getfixturevalue(request.param)
    return chosen


async def image(store: Path, *layers: Path, **config: str) -> TestImage:
    """The image of `layers`, by the name of the first."""
    return await in_new_thread(lambda: image_roots.image(store, layers[0].name, *layers, **config))


async def ask(handle: Handle, *argv: str, **order: Any) -> tuple[int, str]:
    """The exit code of a program and what it printed."""
    words = {"argv": list(argv)} if argv else {}
    body = {"id": f"exec-{secrets.token_hex(8)}", **words, **order}
    ended = await call(endpoint_of(handle), "POST", "/execs?wait=30", body)
    return ended["exit_code"], "".join(
        base64.b64decode(ended[stream]).decode() for stream in ("stdout", "stderr")
    )


async def cell(handle: Handle, code: str) -> str:
    """What a cell of the default kernel printed."""
    body = json.dumps({"id": f"cell-{secrets.token_hex(8)}", "code": code, "timeout_s": 60}).encode()
    reader, writer = await asyncio.open_unix_connection(endpoint_of(handle).socket_path)
    head = (
        f"POST /kernels/default/cells?follow=true HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    try:
        async with asyncio.timeout(70):
            answer = await reader.read()
    finally:
        writer.close()
    events = [json.loads(line) for line in answer.partition(b"\r\n\r\n")[2].splitlines()]
    return "".join(str(event.get("text") or event.get("message") or "") for event in events)


async def root_of(handle: Handle, command: str) -> str:
    """What root inside got, of a command that must succeed."""
    answer = await run(handle, command, user="root")
    assert answer.exit_code == 0, answer
    return answer.stdout


async def test_an_image_gets_the_user_and_the_home_that_a_session_names(
    oci: DriverBench, debian_image: TestImage
) -> None:
    async with oci.session(root=debian_image.root(), user="user", home="/home/user") as handle:
        who = await run(handle, "id -un; id -gn; stat -c %U:%G ~; cd; pwd; cat /etc/passwd | grep -c ^user:")
        assert (who.stdout.split(), who.stderr) == (["user", "user", "user:user", "/home/user", "1"], "")


async def test_a_debian_knows_its_users_and_every_group_of_a_command(
    driver: DriverBench, debian_image: TestImage
) -> None:
    async with driver.session(root=debian_image.root()) as handle:
        who = await run(
            handle, 'id -un; groups; echo "$HOME $PWD"; hostname 2>/dev/null || cat /etc/hostname'
        )
        assert who.stderr == ""
        name, groups, where, _ = who.stdout.splitlines()
        assert (name, where) == ("ship", "/workspace /workspace")
        assert groups.split()[0] == "ship"
        assert groups.split()[1].startswith("exec-60")
        assert await root_of(handle, "id -u; echo $HOME; stat -c %a:%U /etc /etc/shadow") == (
            "0\n/root\n755:root\n640:root\n"
        )


async def test_users_and_groups_are_added_in_a_debian_and_root_becomes_them(
    oci: DriverBench, debian_image: TestImage
) -> None:
    async with oci.session(root=debian_image.root()) as handle:
        made = await run(
            handle, "groupadd devs && useradd -m -G devs bob && su bob -c 'id -un; groups'", user="root"
        )
        assert (made.stdout, made.stderr) == ("bob\nbob devs\n", "")
        became = await run(handle, "su ship -c 'id -un; pwd'", user="root")
        assert (became.stdout, became.stderr) == ("ship\n/workspace\n", "")


async def test_apt_installs_in_a_debian(oci: DriverBench, debian_image: TestImage) -> None:
    spec = oci.spec(root=debian_image.root())
    build_package(directory_of(spec.workspace))
    handle = await oci.start(spec)
    await root_of(handle, "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*")
    await root_of(
        handle, "echo 'deb [trusted=yes] file:/workspace/repo ./' > /etc/apt/sources.list.d/own.list"
    )
    await root_of(handle, "apt-get -q update && apt-get -qy install bay-probe")
    assert (await run(handle, "bay-probe")).stdout == "installed\n"


async def test_pip_installs_in_a_debian_for_the_user_and_for_all(
    oci: DriverBench, debian_image: TestImage
) -> None:
    spec = oci.spec(root=debian_image.root())
    with zipfile.ZipFile(directory_of(spec.workspace) / "probe-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("probe.py", "print('imported')\n")
        wheel.writestr("probe-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: probe\nVersion: 1.0\n")
        wheel.writestr("probe-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("probe-1.0.dist-info/RECORD", "")
    handle = await oci.start(spec)
    for user in (None, "root"):
        command = (
            "pip install -q --no-index probe-*.whl && python3 -c 'import probe' && pip uninstall -qy probe"
        )
        installed = await run(handle, command, user=user)
        assert (installed.exit_code, installed.stdout) == (0, "imported\n"), installed


async def test_set_up_as_npm_does_it_works(oci_debian: DriverBench) -> None:
    """Links, modes, hard links, renames of directories that came with the image, and many files."""
    steps = (
        "mkdir -p app/node_modules/.bin && cd app && echo 'echo ran' > node_modules/tool && chmod +x node_modules/tool",
        "ln -s ../tool node_modules/.bin/tool && node_modules/.bin/tool",
        "for i in $(seq 300); do mkdir -p node_modules/p$i && ln node_modules/tool node_modules/p$i/x; done",
        "mv node_modules ../moved && ls ../moved | wc -l",
    )
    async with oci_debian.session() as handle:
        assert (await run(handle, " && ".join(steps))).stdout == "ran\n301\n"
        moved = (
            "mv /usr/share/doc /usr/share/papers && mv /usr/lib/apt /opt/ && ls -d /usr/share/papers /opt/apt"
        )
        assert await root_of(handle, moved) == "/opt/apt\n/usr/share/papers\n"


async def test_a_kernel_is_the_images_own_python_where_it_has_one(
    driver: DriverBench, debian_image: TestImage, musl_image: TestImage
) -> None:
    async with driver.session(root=debian_image.root()) as handle:
        assert await cell(handle, WHO) == "/usr/bin/python3 1000 /workspace\n"
    async with driver.session(root=musl_image.root(), kernel="eager") as handle:
        assert await cell(handle, WHO) == "/.ship/bin/python3 1000 /workspace\n"


async def test_programs_for_musl_run_and_root_becomes_other_users(
    driver: DriverBench, musl_image: TestImage
) -> None:
    async with driver.session(root=musl_image.root()) as handle:
        assert "musl libc" in (await run(handle, f"/lib/{MUSL.name} 2>&1")).stdout
        assert (await run(handle, "id -un; groups; pwd")).stderr == ""
        # As `adduser` does, which Debian's busybox lacks.
        await root_of(handle, "echo devs:x:500: >> /etc/group; echo bob:x:500:500::/:/bin/sh >> /etc/passwd")
        became = await root_of(handle, "su bob -c 'id -un; id -gn'; su ship -c 'id -un; pwd'")
        assert became == "bob\ndevs\nship\n/workspace\n"


async def test_an_image_without_a_shell_says_so_and_has_files_and_cells(
    driver: DriverBench, shell_less: TestImage
) -> None:
    terminal = ["sh", "-c", 'exec "$(command -v bash || echo sh)" -l']  # as Bay opens one
    async with driver.session(root=shell_less.root()) as handle:
        assert await ask(handle, command="echo hi") == (127, f"ship: /bin/sh: {NO_SHELL}\n")
        assert await ask(handle, *terminal, tty=True) == (127, f"ship: sh: {NO_SHELL}\r\n")
        assert await ask(handle, "/nothing") == (127, "ship: /nothing: command not found\n")
        assert await cell(handle, WHO) == "/.ship/bin/python3 1000 /workspace\n"
        meta = await call(endpoint_of(handle), "GET", "/meta")
        assert meta["image"] == {"os": None, "shell": None}


async def test_a_program_without_a_shell_runs_by_argv(driver: DriverBench, static_image: TestImage) -> None:
    async with driver.session(root=static_image.root()) as handle:
        assert await ask(handle, "/echo", "hi") == (0, "hi\n")
        assert await ask(handle, "/echo", "hi", user="root") == (0, "hi\n")


async def test_whom_user_names_runs_the_commands_in_workdir_and_has_the_workspace(
    driver: DriverBench, image_store: Path, tmp_path: Path
) -> None:
    layer = image_store / f"app-{secrets.token_hex(4)}"
    busybox_root(layer)
    with (layer / "etc/passwd").open("a") as passwd:
        passwd.write("app:x:4711:4712:App:/home/app:/bin/sh\n")
    with (layer / "etc/group").open("a") as group:
        group.write("app:x:4712:\nkeen:x:70:app\n")
    (layer / "home/app").mkdir()
    os.chown(layer / "home/app", 4711, 4712)
    made = await image(image_store, layer, user="app", working_dir="/srv/code")
    assert made.facts.user is not None
    look = 'id -u; id -g; id -G; pwd; echo "$HOME $USER"; touch /workspace/mine $HOME/mine && stat -c %U /workspace/mine'
    spec = driver.spec(root=made.root(made.facts.user))
    handle = await driver.start(spec)
    uid, gid, groups, cwd, home, owner = (await run(handle, look)).stdout.splitlines()
    assert (uid, gid, cwd, home, owner) == ("4711", "4712", "/srv/code", "/home/app app", "app")
    assert {"4712", "70"} < set(groups.split())
    assert directory_of(spec.workspace).stat().st_uid == 4711
    assert await root_of(handle, "id -u") == "0\n"
    assert (await run(handle, "id -un", user="ship")).stdout == "ship\n"


async def test_a_user_with_a_group_has_no_other(driver: DriverBench, musl_image: TestImage) -> None:
    user = ImageUser(name="nobody", uid=65534, gid=7, home="/", groups=())
    async with driver.session(root=musl_image.root(user)) as handle:
        gid, marker = (await run(handle, "id -G")).stdout.split()
        assert gid == "7"
        assert int(marker) >= 60_000


async def test_root_of_an_image_is_root_inside_alone(driver: DriverBench, debian_image: TestImage) -> None:
    assert debian_image.facts.user is not None
    async with driver.session(root=debian_image.root(debian_image.facts.user)) as handle:
        look = 'id -u; echo "$HOME"; touch /workspace/x ~/x && echo wrote; cat /proc/self/uid_map'
        uid, home, wrote, mapped = (await run(handle, look)).stdout.splitlines()
        assert (uid, home, wrote) == ("0", "/root", "wrote")
        assert int(mapped.split()[1]) > 65_536


async def test_uid_1000_of_the_image_keeps_its_name(
    driver: DriverBench, image_store: Path, musl_image: TestImage
) -> None:
    layer = image_store / f"node-{secrets.token_hex(4)}"
    (layer / "etc").mkdir(parents=True)
    for name, line in (("passwd", "node:x:1000:1000::/home/node:/bin/sh\n"), ("group", "node:x:1000:\n")):
        (layer / "etc" / name).write_text((musl_image.layers[-1] / "etc" / name).read_text() + line)
    made = await image(image_store, layer, musl_image.layers[-1])
    async with driver.session(root=made.root()) as handle:
        assert (await run(handle, 'id -un; echo "$HOME"')).stdout == "node\n/workspace\n"
        assert (await run(handle, "id -un", user="node")).stdout == "node\n"
        assert (await root_of(handle, "su node -c 'id -un'")) == "node\n"


async def test_a_login_shell_keeps_the_path_of_the_sandbox(oci: DriverBench, with_shell: TestImage) -> None:
    """Whose /etc/profile sets another, as that of Debian and Alpine does."""
    env = {"PATH": "/opt/conda/bin:/usr/bin:/bin"}
    profile = "PATH=/bin:/usr/bin; export PATH; for file in /etc/profile.d/*.sh; do . $file; done"
    async with oci.session(root=with_shell.root()) as handle:
        await root_of(handle, f"[ -e /etc/profile ] || echo '{profile}' > /etc/profile")
        for argv in (["sh", "-lc", 'echo "$PATH"'], ["sh", "-c", "exec sh -lc 'echo \"$PATH\"'"]):
            assert (await ask(handle, *argv, env=env))[1].strip().endswith(env["PATH"])
        assert (await ask(handle, command='echo "$PATH"', env=env))[1].strip().endswith(env["PATH"])


async def test_what_root_changed_in_an_image_lasts_with_its_machine(
    oci: DriverBench, debian_image: TestImage, workspaces: Path
) -> None:
    machine = workspaces / "machine"
    machine.mkdir(mode=0o700)
    first = oci.spec(machine=machine, root=debian_image.root())
    handle = await oci.start(first)
    await root_of(handle, "useradd bob && rm /etc/debian_version && mv /usr/share/doc /opt/doc")
    await oci.driver.destroy(handle)
    assert sorted(os.listdir(machine)) == ["root"]
    async with oci.session(machine=machine, root=debian_image.root(), workspace=first.workspace) as again:
        look = "id -un bob; ls -d /opt/doc; ls /etc/debian_version /usr/share/doc"
        answer = await run(again, look)
        assert answer.stdout == "bob\n/opt/doc\n"
        assert answer.stderr.count("No such file") == 2


async def test_an_upper_that_replaces_usr_lasts_too(
    oci: DriverBench, musl_image: TestImage, workspaces: Path
) -> None:
    """Nothing is mounted on an image's /usr: it is the sandbox's to replace."""
    machine = workspaces / "machine"
    machine.mkdir(mode=0o700)
    handle = await oci.start(oci.spec(machine=machine, root=musl_image.root()))
    await root_of(handle, "cp -a /usr /var/usr && rm -r /usr && ln -s /var/usr /usr")
    await oci.driver.destroy(handle)
    async with oci.session(machine=machine, root=musl_image.root()) as again:
        assert (await run(again, "readlink /usr; ls -d /usr/bin")).stdout == "/var/usr\n/usr/bin\n"


async def test_127_layers_start(driver: DriverBench, image_store: Path, musl_image: TestImage) -> None:
    below = image_store / f"many-{secrets.token_hex(4)}"
    layers = [below / str(number) for number in range(126)]
    for layer in layers:
        layer.mkdir(parents=True)
        (layer / f"file-{layer.name}").touch()
    made = await image(image_store, *layers[:-1], musl_image.layers[-1])
    async with driver.session(root=made.root()) as handle:
        assert (await run(handle, "ls / | grep -c ^file-")).stdout == "125\n"


@pytest.mark.parametrize("trap", ["link out", "link in", "loop", "file"])
async def test_an_image_with_traps_in_all_places_starts_and_reaches_nothing(
    driver: DriverBench, image_store: Path, musl_image: TestImage, tmp_path: Path, trap: str
) -> None:
    layer = image_store / f"trap-{secrets.token_hex(4)}"
    layer.mkdir()
    (tmp_path / "kept").write_text("kept")
    for name in PLACES:
        lay_trap(layer / name, trap, tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    made = await image(image_store, layer, musl_image.layers[-1])
    async with driver.session(root=made.root(), secret_files=True) as handle:
        look = "id -un; ls -d /proc/self/maps /dev/null /workspace; ls /run; touch /tmp/x /workspace/x && echo wrote"
        answer = await run(handle, look)
        assert answer.stdout.split() == [
            "ship", "/dev/null", "/proc/self/maps", "/workspace", "secrets", "wrote",
        ]  # fmt: skip
        assert (await run(handle, "cat /kept /etc/kept /dev/kept", user="root")).stdout == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    shutil.rmtree(layer)


async def test_files_of_an_image_with_special_rights_give_none(
    oci: DriverBench, image_store: Path, musl_image: TestImage
) -> None:
    layer = image_store / f"special-{secrets.token_hex(4)}"
    (layer / "bin").mkdir(parents=True)
    shutil.copy(musl_image.layers[-1] / "bin/busybox", layer / "bin/id")
    (layer / "bin/id").chmod(0o6755)
    os.mknod(layer / "disk", 0o666 | 0o020000, os.makedev(1, 3))
    made = await image(image_store, layer, musl_image.layers[-1])
    async with oci.session(root=made.root()) as handle:
        answer = await run(handle, "stat -c %a /bin/id; id -u; id -ru; cat /disk")
        assert answer.stdout == "6755\n1000\n1000\n"
        assert "ermission denied" in answer.stderr
        assert (await run(handle, "id -u; id -ru", user="nobody")).stdout == "65534\n65534\n"


async def test_layers_stay_as_they_are_whatever_root_inside_does(
    oci: DriverBench, image_store: Path, musl_image: TestImage
) -> None:
    layer = image_store / f"still-{secrets.token_hex(4)}"
    busybox_root(layer)
    made = await image(image_store, layer)
    before = {path: state(path) for one in made.layers for path in sorted(one.rglob("*"))}
    async with oci.session(root=made.root()) as handle:
        await root_of(handle, "chmod 777 /etc && echo x >> /etc/passwd && rm -r /home && touch /bin/busybox")
        await root_of(
            handle, "chown 5:5 /etc/group && mv /var /etc/var && mkdir /home && rm /etc/resolv.conf"
        )
    assert {path: state(path) for one in made.layers for path in sorted(one.rglob("*"))} == before


def state(path: Path) -> tuple[int, ...]:
    found = path.lstat()
    return found.st_mode, found.st_uid, found.st_gid, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def lay_trap(path: Path, trap: str, outside: Path) -> None:
    match trap:
        case "link out":
            path.symlink_to(f"../../../../../../../..{outside}")
        case "link in":
            path.symlink_to("/bin")
        case "loop":
            path.symlink_to(path.name)
        case _:
            path.touch()
