"""Bay is killed at any moment, or parts of the host are lost: what remains is found, and one destroy leaves
nothing.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
import structlog.testing
from oci_bench import OciBench, opening

from bay.drivers.base import Gone, Running, SessionSpec
from bay.drivers.oci import cgroups, driver, runc
from bay.drivers.oci.driver import OciDriver
from bay.errors import DriverUnavailable
from bay.models import NetworkPolicy
from bay.network.manager import NetworkManager
from bay.testing.driver_bench import DriverBench, host_fingerprint

pytestmark = [pytest.mark.host, pytest.mark.anyio, pytest.mark.long]

PROGRAM = Path(__file__).parents[1] / "support" / "crashing_bay.py"


@pytest.mark.parametrize(
    "step", ["claimed", "forked", "born", "created", "joined", "ordered", "launched", "ready"]
)
async def test_bay_killed_after_a_step_leaves_what_one_destroy_removes(oci: OciBench, step: str) -> None:
    spec = oci.spec()
    before = host_fingerprint(oci)
    await killed(oci, spec, step, 0)
    assert [owned.session_id async for owned in oci.driver.list_owned()] == [spec.session_id]
    await oci.driver.destroy(oci.handle(spec.session_id))
    assert host_fingerprint(oci) == before


@pytest.mark.parametrize("delay_ms", [0, 3, 6, 10, 15, 20, 25, 30, 40, 60])
async def test_bay_killed_while_it_launches_leaves_what_one_destroy_removes(
    oci: OciBench, delay_ms: int
) -> None:
    spec = oci.spec()
    before = host_fingerprint(oci)
    await killed(oci, spec, "never", delay_ms / 1000)
    assert [owned.session_id async for owned in oci.driver.list_owned()] == [spec.session_id]
    await oci.driver.destroy(oci.handle(spec.session_id))
    assert await oci.driver.observe(oci.handle(spec.session_id)) == Gone()
    assert host_fingerprint(oci) == before


async def test_a_session_outlives_its_bay_and_the_next_one_goes_on_with_it(oci: OciBench) -> None:
    spec = oci.spec()
    await killed(oci, spec, "ready", 0)
    seen = await oci.driver.observe(oci.handle(spec.session_id))
    assert isinstance(seen, Running)
    assert Path(seen.endpoint.place).is_socket()


@pytest.mark.parametrize("lost", ["data", "run", "runc", "claim"])
async def test_a_session_with_a_part_lost_is_still_listed_and_removed(oci: OciBench, lost: str) -> None:
    spec = oci.spec()
    before = host_fingerprint(oci)
    handle = await oci.start(spec)
    root, run_dir, ids = oci.kept
    for path in {
        "data": [root / "sessions" / spec.session_id],
        "run": [run_dir / "sessions" / spec.session_id],
        "runc": [run_dir / "runc" / spec.session_id],
        "claim": [path for path in ids.glob("[0-9]*") if spec.session_id in path.read_text()],
    }[lost]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert [owned.session_id async for owned in oci.driver.list_owned()] == [spec.session_id]
    await oci.driver.destroy(oci.handle(handle.session_id))
    assert host_fingerprint(oci) == before


async def test_a_session_whose_claim_is_lost_takes_no_policy_and_says_so(oci: OciBench) -> None:
    async with oci.session() as handle:
        for claim in oci.kept[-1].glob("[0-9]*"):
            claim.unlink()
        with pytest.raises(DriverUnavailable, match="lost its claim"):
            await oci.driver.set_network(handle, NetworkPolicy(mode="none"))


async def test_a_host_that_can_hold_no_network_any_more_is_not_taken_for_one_without(
    oci: OciBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, run_dir, ids = oci.kept
    async with oci.session():
        monkeypatch.setattr(NetworkManager, "probe", missing_nft)
        again = OciDriver(
            root=root, run_dir=run_dir, ids_dir=ids, network=NetworkManager(instance=run_dir.name[2:6])
        )
        with pytest.raises(DriverUnavailable, match="cannot be managed any more: nft is gone"):
            await again.open()


def missing_nft(_: NetworkManager) -> list[str]:
    return ["nft is gone"]


async def test_after_a_reboot_the_remains_on_disk_are_listed_and_removed(oci: OciBench) -> None:
    spec = oci.spec()
    before = host_fingerprint(oci)
    handle = await oci.start(spec)
    await oci.driver.stop(handle, grace_s=0)
    await oci.driver.aclose()
    root, run_dir, ids = oci.kept
    for directory in (run_dir, ids):  # as after a reboot, /run is empty
        shutil.rmtree(directory)
    await oci.driver.open()
    owned = [owned async for owned in oci.driver.list_owned()]
    assert [(one.session_id, one.sandbox_id) for one in owned] == [(spec.session_id, spec.sandbox_id)]
    await oci.driver.destroy(owned[0].handle)
    assert host_fingerprint(oci) == before
    assert [name for name in os.listdir(root / "sessions") if spec.session_id in name] == []


async def test_a_session_whose_layers_are_where_an_older_bay_had_them_goes_on_and_is_removed(
    oci: OciBench,
) -> None:
    spec = oci.spec()
    before = host_fingerprint(oci)
    handle = await oci.start(spec)
    root, run_dir, ids = oci.kept
    newer = OciDriver(
        root=root, run_dir=run_dir, ids_dir=ids, layers=oci.workspaces / "layers", network=oci.network
    )
    async with opening(newer):
        assert isinstance(await newer.observe(handle), Running)
        owned = [(one.session_id, one.sandbox_id) async for one in newer.list_owned()]
        assert owned == [(spec.session_id, spec.sandbox_id)]
        await newer.destroy(handle)
    (oci.workspaces / "layers").rmdir()
    assert host_fingerprint(oci) == before


async def test_a_number_used_again_is_not_taken_for_the_first_process(oci: OciBench) -> None:
    spec = oci.spec()
    handle = await oci.start(spec)
    await oci.driver.stop(handle, grace_s=0)
    mine = {**handle.data, "pid": os.getpid()}
    stranger = type(handle)(driver="oci", session_id=spec.session_id, data=mine)
    await oci.driver.stop(stranger, grace_s=0)
    await oci.driver.destroy(stranger)  # and this process is still here
    assert [one async for one in oci.driver.list_owned()] == []


REMAINS = ("a data directory", "a run directory", "a state of runc", "a control group", "an id claim")


@pytest.mark.parametrize("kind", REMAINS)
async def test_any_single_thing_that_is_left_is_listed_and_removed(oci: OciBench, kind: str) -> None:
    before = host_fingerprint(oci)
    root, run_dir, ids = oci.kept
    session_id = "sess-left"
    match kind:
        case "a data directory":
            (root / "sessions" / session_id / "root/upper").mkdir(parents=True)
        case "a run directory":
            (run_dir / "sessions" / session_id / "sock").mkdir(parents=True)
        case "a state of runc":
            (run_dir / "runc" / session_id).mkdir(parents=True)
            os.mkfifo(run_dir / "runc" / session_id / "exec.fifo")
        case "a control group":
            one_hierarchy(f"bay/{oci.instance}/{session_id}").mkdir(parents=True)
        case _:
            ids.mkdir(exist_ok=True)
            (ids / "7").write_text(str(run_dir / "sessions" / session_id))
    assert [owned.session_id async for owned in oci.driver.list_owned()] == [session_id]
    await oci.driver.destroy(oci.handle(session_id))
    assert [owned.session_id async for owned in oci.driver.list_owned()] == []
    assert host_fingerprint(oci) == before


async def test_what_lies_among_the_sessions_and_is_none_is_passed_over(oci: OciBench) -> None:
    (oci.kept[1] / "sessions/.not a session").mkdir()
    assert [owned async for owned in oci.driver.list_owned()] == []


async def test_a_group_that_was_made_below_and_frozen_by_itself_goes_with_its_session(oci: OciBench) -> None:
    spec = oci.spec()
    before = host_fingerprint(oci)
    await oci.start(spec)
    await asyncio.to_thread(freeze_below, f"/bay/{oci.instance}/{spec.session_id}")
    await oci.driver.destroy(oci.handle(spec.session_id))
    assert host_fingerprint(oci) == before


@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("words", ["echo broken >&2; exit 1", "sleep 4711", None])
async def test_a_session_is_stopped_and_removed_without_any_help_of_runc(
    oci: OciBench, workspaces: Path, words: str | None, paused: bool
) -> None:
    spec = oci.spec()
    before = host_fingerprint(oci)
    handle = await oci.start(spec)
    with other_runc(workspaces, words or "") as path:
        driver = driver_with(oci, path if words else Path("/nowhere/runc"))
        if paused:
            await driver.pause(handle)
        await driver.stop(handle, grace_s=5)
        await driver.destroy(oci.handle(spec.session_id))
    assert host_fingerprint(oci) == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("echo no such luck >&2; exit 1", "could not start the container.*no such luck"),
        ("exit 3", "it logged no error"),
        ("echo done; exit 0", "there is none; it said: done"),
        ("sleep 4712 & sleep 4712", "within 1 s"),
        ('runc "$@"; sleep 4712', "within 1 s"),
    ],
)
async def test_a_runc_that_fails_or_hangs_is_told_of_in_time_and_leaves_nothing(
    oci: OciBench, workspaces: Path, words: str, says: str
) -> None:
    spec = oci.spec()
    before = host_fingerprint(oci)
    with other_runc(workspaces, words) as path:
        async with opening(driver_with(oci, path)) as driver:
            with pytest.raises(DriverUnavailable, match=says):
                [handle async for handle in driver.start(spec, None)]
            assert commands_like("sleep\0" + "4712") == []
            await driver.destroy(oci.handle(spec.session_id))
    assert host_fingerprint(oci) == before


async def test_after_a_runc_that_hung_the_session_starts_with_one_that_does_not(
    oci: OciBench, workspaces: Path
) -> None:
    spec = oci.spec()
    with other_runc(workspaces, "sleep 4713") as path:
        async with opening(driver_with(oci, path)) as driver:
            with pytest.raises(DriverUnavailable):
                [handle async for handle in driver.start(spec, None)]
    handle = await oci.start(spec)
    assert isinstance(await oci.driver.observe(handle), Running)


async def test_a_runc_that_answers_late_is_waited_for(oci: OciBench, workspaces: Path) -> None:
    with other_runc(workspaces, 'sleep 1.5; exec runc "$@"') as path:
        async with opening(driver_with(oci, path, runc_timeout_s=20)) as driver:
            handle = [handle async for handle in driver.start(oci.spec(), None)][-1]
        assert isinstance(await oci.driver.observe(handle), Running)


async def test_a_runc_that_hangs_without_its_bay_is_ended_by_the_next_one(
    oci: OciBench, workspaces: Path
) -> None:
    spec = oci.spec()
    before = host_fingerprint(oci)
    with other_runc(workspaces, "echo $$ > $0.pid; sleep 4714") as path:
        await killed(oci, spec, "never", 0.3, runc_path=path)
        assert len(commands_like("sleep\0" + "4714")) == 1
        assert [owned.session_id async for owned in oci.driver.list_owned()] == [spec.session_id]
        async with asyncio.timeout(10):
            await oci.driver.destroy(oci.handle(spec.session_id))
        assert commands_like("sleep\0" + "4714") == []
        path.with_name("runc.pid").unlink()
    assert host_fingerprint(oci) == before


async def test_a_runc_that_hangs_when_it_is_asked_for_its_version_is_told_of(
    oci: OciBench, workspaces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runc, "_VERSION_S", 0.2)
    path = workspaces / "runc"
    path.write_text("#!/bin/sh\nsleep 4715\n")
    path.chmod(0o755)
    with pytest.raises(DriverUnavailable, match="does not run"):
        async with opening(driver_with(oci, path)):
            assert commands_like("sleep\0" + "4715") == []


async def test_a_runc_with_known_holes_is_warned_of_at_the_start(
    oci: OciBench, workspaces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = workspaces / "runc"
    path.write_text("#!/bin/sh\necho runc version 1.1.12\n")
    path.chmod(0o755)
    # Other tests of this process may have turned warnings off.
    said = structlog.testing.CapturingLogger()
    monkeypatch.setattr(driver, "log", said)
    async with opening(driver_with(oci, path)):
        pass
    risks = [call.kwargs["check"] for call in said.calls if call.args == ("host.risk",)]
    assert risks == ["runc-cves"]
    path.unlink()


async def test_a_host_without_runc_is_told_what_to_install(oci: OciBench) -> None:
    root, run_dir, ids = oci.kept
    driver = OciDriver(root=root, run_dir=run_dir, ids_dir=ids, runc="/nowhere/runc")
    with pytest.raises(DriverUnavailable, match="install runc"):
        await driver.open()


def freeze_below(cgroup: str) -> None:
    """Make a group below `cgroup`, move its first process there and freeze it, in every
    hierarchy that can.
    """
    for group in cgroups.directories(cgroup):
        below = group / "below"
        below.mkdir()
        if (below / "freezer.state").exists() or (below / "cgroup.freeze").exists():
            first = (group / "cgroup.procs").read_text().split()[0]
            (below / "cgroup.procs").write_text(first)
    for group in cgroups.directories(cgroup):
        for name, word in (("freezer.state", "FROZEN"), ("cgroup.freeze", "1")):
            if (group / "below" / name).exists():
                (group / "below" / name).write_text(word)


@contextlib.contextmanager
def other_runc(directory: Path, words: str) -> Generator[Path]:
    """A runc that knows its version and otherwise does what `words` say in shell."""
    path = directory / "runc"
    path.write_text(f'#!/bin/sh\ncase "$*" in *--version*) exec runc --version;; esac\n{words}\n')
    path.chmod(0o755)
    yield path
    path.unlink()


def driver_with(bench: OciBench, path: Path, runc_timeout_s: float = 1) -> OciDriver:
    """A driver of the same Bay that calls another runc."""
    root, run_dir, ids = bench.kept
    return OciDriver(
        root=root,
        run_dir=run_dir,
        ids_dir=ids,
        runc=str(path),
        runc_timeout_s=runc_timeout_s,
        network=bench.network,
    )


def commands_like(words: str) -> list[int]:
    """The processes on the host whose command line has `words`, which are told apart by NUL."""
    found: list[int] = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        with contextlib.suppress(OSError):
            if words.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def one_hierarchy(group: str) -> Path:
    """Where `group` would be in one hierarchy only, as when the rest was removed already."""
    version_1 = cgroups.MOUNT / "freezer"
    return (version_1 if version_1.is_dir() else cgroups.MOUNT) / group


async def killed(
    bench: DriverBench, spec: SessionSpec, stop_at: str, delay_s: float, runc_path: Path = Path("runc")
) -> None:
    """Run a Bay until it is at `stop_at`, or until `delay_s` after it began to start, and kill it."""
    arguments = [*map(str, bench.kept), str(spec.workspace), spec.session_id, stop_at, str(runc_path)]
    bay = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert bay.stdout is not None
    try:
        async with asyncio.timeout(30):
            while (line := await bay.stdout.readline()) != f"{stop_at}\n".encode():
                if stop_at == "never" and line == b"claimed\n":
                    break
                assert line, "it ended before it was killed"
        if delay_s:
            # The moment is the subject here: between two steps there is no event to wait for.
            await asyncio.wait([asyncio.ensure_future(bay.wait())], timeout=delay_s)
    finally:
        if bay.returncode is None:
            bay.send_signal(signal.SIGKILL)
        await bay.wait()
