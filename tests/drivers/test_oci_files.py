"""All files of a real sandbox: its user's permissions and nothing of Ship's, whatever programs inside do
meanwhile.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from oci_bench import OciBench

from bay.drivers.base import Handle
from bay.models import Resources
from bay.testing.driver_bench import TOKEN, DriverBench, endpoint_of, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]

MIB = 1 << 20

_SWAPPING = """
import os
while True:
    for target in ("/proc/1/environ", "/proc/self/mem", "/.ship-run/ship.sock", "/etc/passwd", "pipe", "/dev/zero"):
        os.symlink(target, "tmp"); os.rename("tmp", "f")
        open("tmp", "w").write("mine"); os.rename("tmp", "f")
        os.symlink("/proc/self", "tmp"); os.rename("tmp", "l")
        os.symlink("real", "tmp"); os.rename("tmp", "l")
"""


@pytest.fixture
async def inside(oci: DriverBench) -> AsyncGenerator[Handle]:
    """A running session, with little memory, so that its tmpfs are small."""
    async with oci.session(resources=Resources(memory=128 * MIB)) as handle:
        yield handle


@pytest.fixture
async def ship(inside: Handle) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of its Ship."""
    transport = httpx.AsyncHTTPTransport(uds=endpoint_of(inside).socket_path)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://ship", headers=headers, timeout=30
    ) as made:
        yield made


async def get(ship: httpx.AsyncClient, path: str) -> httpx.Response:
    return await ship.get("/fs/content", params={"path": path})


async def put(ship: httpx.AsyncClient, path: str, content: bytes) -> httpx.Response:
    return await ship.put("/fs/content", params={"path": path}, content=content)


async def post(ship: httpx.AsyncClient, what: str, **body: Any) -> httpx.Response:
    return await ship.post(f"/fs/{what}", json=body)


def code(answer: httpx.Response) -> tuple[int, str]:
    assert TOKEN not in answer.text
    return answer.status_code, answer.json()["error"]["code"]


FILES = "printf old > locked; chmod 444 locked; printf old > open; chmod 640 open; printf new > other"
ROOTS = "printf old > roots; printf old > shared; chmod 666 shared; printf old > group; chown 1000:50 group; chmod 660 group"
FACTS = "stat -c '%n %U:%G %a' locked open roots shared group; cat locked open roots shared group"


async def test_a_file_that_the_user_may_not_write_is_not_replaced(
    inside: Handle, ship: httpx.AsyncClient
) -> None:
    await run(inside, FILES)
    await run(inside, ROOTS, user="root")
    before = (await run(inside, FACTS)).stdout
    for name in ("locked", "roots"):
        for answer in (
            await put(ship, name, b"new"), await ship.put("/fs/content", params={"path": name, "beneath": "true"}, content=b"new"),
            await put(ship, f"/workspace/{name}", b"new"), await post(ship, "edit", path=name, old="old", new="new"),
            await post(ship, "copy", source="other", destination=name, overwrite=True),
            await post(ship, "move", source="other", destination=name, overwrite=True),
        ):  # fmt: skip
            assert code(answer) == (403, "forbidden"), answer.request.url
            assert f"may not write {name}" in answer.text.replace("/workspace/", "")
    assert (await run(inside, FACTS)).stdout == before
    assert (await run(inside, "ls -A")).stdout.split() == [
        "group",
        "locked",
        "open",
        "other",
        "roots",
        "shared",
    ]
    assert (await post(ship, "chmod", path="locked", mode="644")).status_code == 200
    assert (await put(ship, "locked", b"new")).status_code == 200


async def test_a_file_that_is_written_keeps_its_owner_its_group_and_its_mode(
    inside: Handle, ship: httpx.AsyncClient
) -> None:
    await run(inside, FILES)
    await run(inside, ROOTS, user="root")
    for name in ("open", "shared", "group"):
        assert (await put(ship, name, b"a longer text")).status_code == 200
        assert (await post(ship, "edit", path=name, old="a longer text", new=name)).json() == {"replaced": 1}
    found = (
        await run(inside, "stat -c '%n %U:%G %a' open shared group; cat open shared group; ls -A")
    ).stdout
    assert found.splitlines() == [
        "open ship:ship 640", "shared root:root 666", "group ship:staff 660", "opensharedgroupgroup",
        "locked", "open", "other", "roots", "shared",
    ]  # fmt: skip
    answer = await ship.put("/fs/content", params={"path": "shared", "mode": "600"}, content=b"x")
    assert code(answer) == (403, "forbidden")  # the mode is its owner's to change


async def test_the_user_may_what_the_kernel_lets_him(inside: Handle, ship: httpx.AsyncClient) -> None:
    made = await run(
        inside,
        "install -m 600 /dev/null /workspace/roots; install -d -m 700 /var/private; id -u",
        user="root",
    )
    assert made.stdout == "0\n", made.stderr
    for answer in (
        await get(ship, "roots"), await put(ship, "/etc/passwd", b""), await put(ship, "/usr/bin/new", b""),
        await ship.get("/fs/list", params={"path": "/var/private"}), await ship.delete("/fs", params={"path": "/etc/passwd"}),
        await post(ship, "chmod", path="roots", mode="666"), await post(ship, "mkdir", path="/new"),
        await post(ship, "move", source="/etc/passwd", destination="/etc/other"),
    ):  # fmt: skip
        assert code(answer) == (403, "forbidden"), answer.request.url
    assert (await put(ship, "/tmp/deep/er/file", b"content")).json()["uid"] == 1000
    moved = await post(ship, "move", source="/tmp/deep", destination="/workspace/deep")
    assert moved.status_code == 200, moved.text  # another file system
    assert (await run(inside, "cat deep/er/file; ls /tmp/deep")).stdout == "content"
    assert b"ship:" in (await get(ship, "/etc/passwd")).content


async def test_neither_ships_token_nor_its_socket_is_to_be_had(
    inside: Handle, ship: httpx.AsyncClient
) -> None:
    links = "for i in $(seq 0 20); do ln -s /proc/self/fd/$i fd$i; done; ln -s /proc/1/root root; ln -s /proc/1/environ environ"
    await run(inside, links)
    paths = [f"/proc/self/fd/{number}" for number in range(20)] + [f"fd{number}" for number in range(20)]
    paths += [
        "/proc/self/environ", "/proc/self/mem", "/proc/self/cmdline", "/proc/1/environ", "/proc/1/mem", "/proc/1/maps", "/proc/kcore",
        "/proc/1/task/1/environ", "/proc/thread-self/environ", "root/.ship-run/ship.sock", "environ", "/proc/version",
        "/sys/kernel/vmcoreinfo", "/dev/fd/0", "/dev/stdin", "/proc/sys/kernel/hostname",
    ]  # fmt: skip
    for path in paths:
        assert code(await get(ship, path))[0] in (400, 403, 404), path
        if path.startswith(("/proc", "/sys")):  # a link to it may be copied
            assert code(await post(ship, "copy", source=path, destination="x"))[0] in (400, 403, 404), path
        assert code(await put(ship, path, b"x"))[0] in (400, 403, 404), path
    for answer in (
        await get(ship, "/.ship-run/ship.sock"), await ship.get("/fs/list", params={"path": "/.ship-run"}),
        await put(ship, "/.ship-run/ship.sock", b""), await ship.delete("/fs", params={"path": "/.ship-run"}),
    ):  # fmt: skip
        assert code(answer)[0] == 403, (answer.request.url, answer.text)
    everything = (await ship.get("/fs/list", params={"path": "/", "depth": "3", "limit": "200000"})).text
    assert TOKEN not in everything
    assert '"path":"/proc/' not in everything
    assert '"path":"/.ship-run/' not in everything


async def test_what_is_no_file_is_neither_opened_nor_waited_for(
    inside: Handle, ship: httpx.AsyncClient
) -> None:
    await run(inside, "mkfifo pipe; python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('sock')\"")
    async with asyncio.timeout(10):
        for path in (
            "pipe",
            "sock",
            "/dev/zero",
            "/dev/null",
            "/dev/full",
            "/dev/tty",
            "/dev/ptmx",
            "/dev/random",
        ):
            assert code(await get(ship, path))[0] in (400, 403), path
            assert code(await put(ship, path, b"x"))[0] in (400, 403), path
            assert code(await post(ship, "edit", path=path, old="a", new="b"))[0] in (400, 403), path
        assert code(await post(ship, "copy", source="/dev/null", destination="null")) == (
            400,
            "validation_error",
        )
    assert (await run(inside, "ls")).stdout.split() == ["pipe", "sock"]


async def test_renames_under_a_call_never_lead_it_astray(inside: Handle, ship: httpx.AsyncClient) -> None:
    await run(inside, "mkdir real; echo real > real/environ; mkfifo pipe; echo mine > f; ln -s real l")
    order = {"id": "exec-swapping", "argv": ["python3", "-c", _SWAPPING]}
    assert (await ship.post("/execs", json=order)).status_code == 201
    passwd, seen = (await get(ship, "/etc/passwd")).text, set[str]()
    both_sides = {"f 200", "f 400", "l/environ 200", "l/environ 400"}
    async with asyncio.timeout(60):
        rounds = 0
        while rounds < 150 or not both_sides <= seen:
            rounds += 1
            for path in ("f", "l/environ"):
                answer = await get(ship, path)
                assert answer.text in ("mine\n", "mine", "", "real\n", passwd) or code(answer)[0] in (
                    400,
                    403,
                    404,
                ), answer.text
                seen.add(f"{path} {answer.status_code}")
        for _ in range(15):
            await ship.get("/fs/list", params={"depth": "9"})
            assert (await put(ship, "l/written", b"x")).status_code in (200, 400, 403, 404)
            assert (await post(ship, "chmod", path=".", mode="755", recursive=True)).status_code in (
                200,
                400,
                403,
                404,
                409,
            )
    await ship.delete("/execs/exec-swapping", params={"grace_s": "0"})


async def test_a_disk_that_fills_leaves_the_old_file(inside: Handle, ship: httpx.AsyncClient) -> None:
    assert (await put(ship, "/dev/shm/x", b"old")).status_code == 200
    assert code(await put(ship, "/dev/shm/x", os.urandom(70 * MIB))) == (507, "storage_full")
    assert (await get(ship, "/dev/shm/x")).content == b"old"
    assert (await run(inside, "ls -A /dev/shm")).stdout == "x\n"


async def test_a_session_is_named_and_renamed_and_finds_itself_by_its_name(oci: OciBench) -> None:
    look = "hostname; cat /etc/hostname; getent hosts $(hostname) sandbox | tr -s ' '; bash -ic 'echo ${PS1@P}' 2>&1 | tail -1"
    async with oci.session(hostname="web") as handle:
        said = (await run(handle, look)).stdout.splitlines()
        assert said[:2] == ["web", "web"]
        assert said[2:4] == ["127.0.0.1 localhost sandbox web"] * 2
        assert "@web:" in said[-1]
        await run(handle, "echo '10.0.0.9 mine' >> /etc/hosts", user="root")
        await oci.driver.set_hostname(handle, "api")
        said = (await run(handle, f"{look}; grep -c . /etc/hosts; cat /etc/hosts")).stdout
        assert said.startswith("api\napi\n127.0.0.1 localhost sandbox api\n")
        assert "10.0.0.9 mine" in said
        assert "web" not in said
    await oci.driver.set_hostname(handle, "gone")


@pytest.mark.parametrize("make", ["ln -s /workspace/victim", "mkfifo", "mkdir", "true", "ln /usr/bin/true"])
async def test_what_is_put_in_place_of_the_files_with_the_name_is_left_alone(
    oci: OciBench, make: str
) -> None:
    async with oci.session(hostname="web") as handle:
        await run(
            handle,
            "printf '127.0.0.1 localhost sandbox web\n' > /workspace/victim; rm /etc/hosts",
            user="root",
        )
        await run(handle, f"{make} /etc/hosts", user="root")
        async with asyncio.timeout(10):
            await oci.driver.set_hostname(handle, "api")
        said = (await run(handle, "hostname; cat /workspace/victim")).stdout
        assert said == "api\n127.0.0.1 localhost sandbox web\n"


async def test_a_link_in_place_of_etc_leads_the_name_nowhere(oci: OciBench) -> None:
    async with oci.session(hostname="web") as handle:
        swap = "cp -a /etc /workspace/etc && mv /etc /etc.old && ln -s /workspace/etc /etc"
        assert (await run(handle, swap, user="root")).exit_code == 0
        await oci.driver.set_hostname(handle, "api")
        assert (await run(handle, "hostname; cat /workspace/etc/hostname")).stdout == "api\nweb\n"
