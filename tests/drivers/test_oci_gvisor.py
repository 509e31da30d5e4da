"""Sessions of the `oci` driver in gVisor: a kernel of their own, files as ever, and what is refused."""

import asyncio
import hashlib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from image_roots import TestImage
from oci_bench import OciBench

from bay.drivers.base import Exited, Gone, MountedVolume, Running
from bay.drivers.oci import cgroups, probe, runsc
from bay.drivers.oci.driver import OciDriver
from bay.errors import CapabilityNotSupported, DriverUnavailable
from bay.models import NetworkPolicy, Resources
from bay.testing.driver_bench import cgroups_of, endpoint_of, run

pytestmark = [
    pytest.mark.host,
    pytest.mark.anyio,
    pytest.mark.long,
    pytest.mark.skipif(os.getuid() != 0, reason="the oci driver needs root"),
]

MIB = 1 << 20


def ids_of(cgroup: str, pid: int) -> tuple[set[int], list[str]]:
    """The real uids of all processes there, and the first line of that one's map."""
    status = [Path(f"/proc/{one}/status").read_text() for one in cgroups.processes(cgroup)]
    uids = {int(text.partition("\nUid:")[2].split()[0]) for text in status}
    return uids, Path(f"/proc/{pid}/uid_map").read_text().split()


async def test_programs_have_a_kernel_of_their_own_with_the_ids_of_their_session(
    oci_gvisor: OciBench,
) -> None:
    async with oci_gvisor.session() as handle, oci_gvisor.session() as other:
        seen = await run(handle, "dmesg; uname -r; cat /proc/sys/kernel/ostype; ls /proc/1/root", user="root")
        assert "gVisor" in seen.stdout
        assert os.uname().release not in seen.stdout
        for session in (handle, other):
            base = int(session.data["id_base"])
            cgroup = f"/bay/{oci_gvisor.instance}/{session.session_id}"
            uids, mapped = await asyncio.to_thread(ids_of, cgroup, int(session.data["pid"]))
            assert base in uids
            assert all(base <= uid < base + 65_536 for uid in uids)
            assert mapped == ["0", str(base), "65536"]
        assert handle.data["id_base"] != other.data["id_base"]


async def test_what_is_read_only_cannot_be_truncated_by_root_inside(
    oci_gvisor: OciBench, oci_root: Path
) -> None:
    # runsc 20240729 truncates a file of a mount that its specification alone calls read-only.
    kept = oci_gvisor.workspaces / "volume"
    kept.mkdir()
    (kept / "file").write_text("kept")
    (kept / "file").chmod(0o666)
    closures = list((oci_root / "closures").glob("*/bin/python3"))
    before = [hashlib.sha256(path.read_bytes()).digest() for path in closures]
    usr = hashlib.sha256(Path("/usr/bin/env").read_bytes()).digest()
    volumes = (MountedVolume(path="/volume", source=kept, read_only=True),)
    async with oci_gvisor.session(volumes=volumes) as handle:
        for path in ("/.ship/bin/python3", "/volume/file", "/.ship-run/ship.sock", "/.ship-run/new"):
            ended = await run(handle, f"(: > {path}) || rm -f {path} || mv {path} /tmp", user="root")
            assert "Read-only file system" in ended.stderr, path
        assert (
            await run(handle, ": > /usr/bin/env; : > /etc/hostname; ls -s /usr/bin/env", user="root")
        ).exit_code == 0
        assert (await run(handle, "cat /volume/file")).stdout == "kept"
    assert (kept / "file").read_text() == "kept"
    assert [hashlib.sha256(path.read_bytes()).digest() for path in closures] == before
    assert hashlib.sha256(Path("/usr/bin/env").read_bytes()).digest() == usr


async def test_files_are_the_users_on_disk_and_a_volume_is_seen_by_two_sessions(oci_gvisor: OciBench) -> None:
    shared = oci_gvisor.workspaces / "shared"
    shared.mkdir()
    os.chown(shared, 1000, 1000)
    volumes = (MountedVolume(path="/data", source=shared, read_only=False),)
    async with oci_gvisor.session(volumes=volumes) as one, oci_gvisor.session(volumes=volumes) as two:
        assert (await run(two, "ls /data")).stdout == ""
        assert (await run(one, "echo first > /data/file; ls -l /data/file")).exit_code == 0
        assert (await run(two, "cat /data/file; echo second > /data/file")).stdout == "first\n"
        assert (await run(one, "cat /data/file")).stdout == "second\n"
    assert ((shared / "file").stat().st_uid, (shared / "file").read_text()) == (1000, "second\n")


async def test_a_machine_keeps_its_layers_and_learns_its_name(oci_gvisor: OciBench) -> None:
    machine = oci_gvisor.workspaces / "machine"
    machine.mkdir()
    async with oci_gvisor.session(machine=machine, hostname="first") as handle:
        seen = await run(
            handle, "hostname; cat /etc/hostname; echo x > /etc/mine; echo y > /usr/local/mine", user="root"
        )
        assert (seen.stdout, seen.stderr) == ("first\nfirst\n", "")
    async with oci_gvisor.session(machine=machine, hostname="second") as handle:
        await oci_gvisor.driver.set_hostname(handle, "third")
        seen = await run(handle, "cat /etc/mine /usr/local/mine /etc/hostname; hostname")
        assert seen.stdout == "x\ny\nsecond\nthird\n"


async def test_an_image_of_layers_and_secrets_in_memory(oci_gvisor: OciBench, musl_image: TestImage) -> None:
    async with oci_gvisor.session(root=musl_image.root(), secret_files=True) as handle:
        seen = await run(handle, "cat /etc/os-release; stat -c %a /run/secrets; echo x > /workspace/file")
        assert "700" in seen.stdout.split()
        assert seen.exit_code == 0


async def test_a_program_without_bounds_ends_for_want_of_memory_and_no_other_session(
    oci_gvisor: OciBench,
) -> None:
    sizes = Resources(cpus=1, memory=256 * MIB, pids=256)
    async with oci_gvisor.session(resources=sizes) as handle, oci_gvisor.session() as other:
        eat = "held = []\nwhile True: held.append(bytearray(b'x') * (16 << 20))"
        try:
            assert (await run(handle, f'python3 -c "{eat}"')).exit_code != 0
        except (AssertionError, OSError, ValueError):  # the kernel chose the sentry, and Ship is gone
            assert await oci_gvisor.driver.observe(handle) == Exited(None)
        assert (await run(other, "echo fine")).stdout == "fine\n"


async def test_a_gofer_that_dies_takes_its_session_with_it(oci_gvisor: OciBench) -> None:
    async with oci_gvisor.session() as handle:
        gofer = endpoint_of(handle).peer_pid
        assert gofer is not None
        assert gofer != handle.data["pid"]
        os.kill(gofer, 9)
        async with asyncio.timeout(30):
            assert await oci_gvisor.driver.wait(handle) == Exited(None)
    assert cgroups_of(oci_gvisor) == []


async def test_a_network_that_gvisor_cannot_have_here_is_refused_before_anything_begins(
    oci_gvisor: OciBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = oci_gvisor.driver.capabilities
    assert here.of("gvisor") == here
    assert here.network == ("none", "allowlist", "open")

    def fails(*_: object) -> str:
        raise OSError("no devices today")

    monkeypatch.setattr(runsc, "trial_with_network", fails)
    await oci_gvisor.driver.open()
    here = oci_gvisor.driver.capabilities
    assert (here.isolation, here.of("gvisor").network) == (("container", "gvisor"), ("none",))
    assert here.of("container").network == here.network
    before = await oci_gvisor.traces()
    spec = oci_gvisor.spec(network=NetworkPolicy(mode="open"))
    with pytest.raises(
        CapabilityNotSupported, match="isolation gvisor has no network on this host; give mode none"
    ):
        await oci_gvisor.start(spec)
    after = await oci_gvisor.traces()
    assert {**after, "workspaces": None} == {**before, "workspaces": None}
    async with oci_gvisor.session(network=NetworkPolicy(mode="none")) as handle:
        devices = await run(handle, "cut -d: -f1 -s /proc/net/dev", user="root")
        assert devices.stdout.split() == ["lo"]


async def test_programs_under_none_reach_their_own_loopback_and_no_other_network(
    oci_gvisor: OciBench,
) -> None:
    program = (
        "import socket; s = socket.create_server(('127.0.0.1', 80)); c = socket.create_connection(('127.0.0.1', 80)); "
        "print('loopback'); socket.create_connection(('192.0.2.1', 80), 2)"
    )
    async with oci_gvisor.session(network=NetworkPolicy(mode="none")) as handle:
        ended = await run(handle, f'python3 -c "{program}"', user="root")
        assert ended.stdout == "loopback\n"
        assert "No route to host" in ended.stderr or "unreachable" in ended.stderr


async def test_a_device_that_was_not_there_from_the_start_is_refused(
    oci_gvisor: OciBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As of a session that began while the network was off.
    driver = oci_gvisor.driver
    begun_with = replace(driver.capabilities, without_network=("gvisor",))
    spec = oci_gvisor.spec(network=NetworkPolicy(mode="none"))
    with monkeypatch.context() as patch:
        patch.setattr(driver, "capabilities", begun_with)
        handle = await oci_gvisor.start(spec)
    await driver.set_network(handle, NetworkPolicy(mode="none"))
    with pytest.raises(DriverUnavailable, match="stop the sandbox and start it again"):
        await driver.set_network(handle, NetworkPolicy(mode="open"))
    assert isinstance(await driver.observe(handle), Running)
    await driver.destroy(handle)


async def test_a_machine_finds_the_resolver_of_the_isolation_that_it_is_in(oci_gvisor: OciBench) -> None:
    machine = oci_gvisor.workspaces / "machine"
    machine.mkdir()
    for isolation, resolver in (
        ("gvisor", "10.186.0.53"),
        ("container", "127.0.0.53"),
        ("gvisor", "10.186.0.53"),
    ):
        async with oci_gvisor.session(machine=machine, isolation=isolation) as handle:
            assert (await run(handle, "cat /etc/resolv.conf")).stdout == f"nameserver {resolver}\n"


async def test_a_host_without_a_working_runsc_offers_no_gvisor_and_says_why(
    tmp_path: Path, oci_root: Path
) -> None:
    broken = tmp_path / "runsc"
    broken.write_text("#!/bin/sh\necho 'no sandbox today' >&2\nexit 1\n")
    broken.chmod(0o755)
    for binary, reason in (
        (str(broken), "no sandbox today"),
        ("/nowhere/runsc", "there is no /nowhere/runsc"),
    ):
        with pytest.raises(OSError, match=reason):
            await asyncio.to_thread(runsc.trial, binary, 1_879_048_192)
        row = next(
            one
            for one in await asyncio.to_thread(partial(probe.checks, runsc=binary))
            if one.name == "gvisor"
        )
        assert (row.ok, row.required, row.found) == (False, False, reason)
        assert "install gVisor" in row.fix
    run_dir = Path("/run/bay") / tmp_path.name[-12:]
    driver = OciDriver(
        root=oci_root, run_dir=run_dir, ids_dir=tmp_path, fork_ships=False, runsc_binary=str(broken)
    )
    await driver.open()
    try:
        assert driver.capabilities.isolation == ("container",)
        bench = OciBench(driver, tmp_path, (oci_root, run_dir, tmp_path), run_dir.name, isolation="gvisor")
        with pytest.raises(CapabilityNotSupported, match="there is no isolation 'gvisor'"):
            await bench.start(bench.spec())
    finally:
        await driver.aclose()


async def test_doctor_tries_gvisor_only_where_it_is_asked_for() -> None:
    rows = {one.name: one for one in await asyncio.to_thread(partial(probe.checks, runsc="runsc"))}
    assert rows["gvisor"].ok, rows["gvisor"].found
    assert "runsc version" in rows["gvisor"].found
    assert rows["gvisor-network"].ok, rows["gvisor-network"].found
    assert "gvisor" not in {one.name for one in await asyncio.to_thread(probe.checks)}


@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("sleep 600", "did not start a sandbox within 1 s"),
        ("echo no room >&2; exit 3", "could not start the sandbox; it said: no room"),
    ],
)
async def test_a_runsc_that_hangs_or_fails_leaves_nothing(
    tmp_path: Path, oci_gvisor: OciBench, does: str, reason: str
) -> None:
    broken = tmp_path / "runsc"
    broken.write_text(f"#!/bin/sh\n{does}\n")
    broken.chmod(0o755)
    before = await oci_gvisor.traces()
    spec = oci_gvisor.spec()
    oci_gvisor.driver._runsc = runsc.Runsc(str(broken), 1)
    with pytest.raises(DriverUnavailable, match=reason):
        await oci_gvisor.start(spec)
    await oci_gvisor.driver.destroy(oci_gvisor.handle(spec.session_id))
    after = await oci_gvisor.traces()
    assert {**after, "workspaces": None} == {**before, "workspaces": None}


async def test_a_session_ends_where_runsc_is_gone(oci_gvisor: OciBench) -> None:
    spec = oci_gvisor.spec()
    handle = await oci_gvisor.start(spec)
    oci_gvisor.driver._runsc = None  # as a Bay without the setting
    assert isinstance(await oci_gvisor.driver.observe(handle), Running)
    await oci_gvisor.driver.stop(handle, 1)
    assert await oci_gvisor.driver.observe(handle) == Exited(None)
    await oci_gvisor.driver.destroy(handle)
    assert await oci_gvisor.driver.observe(handle) == Gone()
