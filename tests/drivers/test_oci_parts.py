"""The small parts of the `oci` driver that can be tried without a container."""

import asyncio
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest

from bay.drivers.oci import cgroups, closure, host_image, kernel_bundle, probe, rlimits, userns
from bay.drivers.oci.idrange import IdRanges
from bay.drivers.oci.layout import Layout
from bay.drivers.oci.sealed_copy import SealedCopy
from bay.errors import DriverUnavailable, InvalidArgument
from bay.linux import mounts, processes
from bay.linux.processes import closing_fd
from bay.linux.threads import opened_in_thread
from bay.testing.driver_bench import mounts_of_the_host

pytestmark = pytest.mark.host

START = 1_879_048_192


@pytest.fixture
def ranges(tmp_path: Path) -> IdRanges:
    return IdRanges(tmp_path / "ids", START, 3)


def holder(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir(exist_ok=True)
    return tmp_path / name


def test_every_holder_gets_a_range_of_its_own(ranges: IdRanges, tmp_path: Path) -> None:
    claimed = [ranges.claim(holder(tmp_path, name)) for name in "abc"]
    assert claimed == [START, START + 65_536, START + 2 * 65_536]


def test_a_claim_that_a_killed_bay_left_is_released_with_the_next_of_its_holder(
    ranges: IdRanges, tmp_path: Path
) -> None:
    first, again = ranges.claim(holder(tmp_path, "a")), ranges.claim(holder(tmp_path, "a"))
    assert ranges.numbers(tmp_path / "a") == [ranges.number_of(first), ranges.number_of(again)] == [0, 1]
    ranges.release(tmp_path / "a")
    assert ranges.holders() == {}


def test_a_known_number_is_believed_where_its_claim_says_the_same(ranges: IdRanges, tmp_path: Path) -> None:
    ranges.claim(holder(tmp_path, "a"))
    ranges.claim(holder(tmp_path, "b"))
    assert ranges.numbers(tmp_path / "b", 1) == [1]
    for wrong in (0, 2, -1, 10**9):
        assert ranges.numbers(tmp_path / "b", wrong) == [1]
    ranges.release(tmp_path / "b")
    assert ranges.holders() == {0: tmp_path / "a"}


def test_a_released_range_is_used_again(ranges: IdRanges, tmp_path: Path) -> None:
    first = holder(tmp_path, "a")
    ranges.claim(first)
    ranges.claim(holder(tmp_path, "b"))
    ranges.release(first)
    ranges.release(first)
    assert ranges.claim(holder(tmp_path, "c")) == START


def test_the_range_of_a_directory_that_is_gone_is_free(ranges: IdRanges, tmp_path: Path) -> None:
    for name in "abc":
        ranges.claim(holder(tmp_path, name))
    (tmp_path / "b").rmdir()
    assert ranges.claim(holder(tmp_path, "d")) == START + 65_536


def test_when_all_are_taken_it_says_so(ranges: IdRanges, tmp_path: Path) -> None:
    for name in "abc":
        ranges.claim(holder(tmp_path, name))
    with pytest.raises(DriverUnavailable, match="all 3 id ranges"):
        ranges.claim(holder(tmp_path, "d"))


@pytest.mark.parametrize("bad", ["", "..", "a/b", "/etc", "a\0b", "-rf", "x" * 200])
def test_a_session_id_is_never_a_path(tmp_path: Path, bad: str) -> None:
    with pytest.raises(InvalidArgument):
        Layout(tmp_path, tmp_path, tmp_path, tmp_path).session(bad)


def test_groups_are_found_on_version_2(tmp_path: Path) -> None:
    (tmp_path / "bay/x/s").mkdir(parents=True)
    (tmp_path / "bay/x/s/cgroup.freeze").write_text("1\n")
    assert cgroups.directories("/bay/x/s", tmp_path) == [tmp_path / "bay/x/s"]
    assert cgroups.is_frozen("/bay/x/s", tmp_path)


def test_groups_are_found_in_every_hierarchy_of_version_1(tmp_path: Path) -> None:
    for name in ("freezer", "memory"):
        (tmp_path / name / "bay/x/s").mkdir(parents=True)
    (tmp_path / "freezer/bay/x/s/freezer.self_freezing").write_text("0\n")
    assert set(cgroups.directories("/bay/x/s", tmp_path)) == {
        tmp_path / n / "bay/x/s" for n in ("freezer", "memory")
    }
    assert not cgroups.is_frozen("/bay/x/s", tmp_path)


@pytest.mark.parametrize("version", [1, 2])
def test_sizes_of_huge_pages_are_told_where_a_group_can_limit_them(tmp_path: Path, version: int) -> None:
    mount, pages = tmp_path / "cgroup", tmp_path / "hugepages"
    for size in (64, 2048, 1048576):
        (pages / f"hugepages-{size}kB").mkdir(parents=True)
    mount.mkdir()
    assert cgroups.huge_page_sizes(mount, pages) == ()
    if version == 1:
        (mount / "hugetlb").mkdir()
    else:
        (mount / "cgroup.controllers").write_text("cpu hugetlb memory\n")
    assert set(cgroups.huge_page_sizes(mount, pages)) == {"64KB", "2MB", "1GB"}
    assert cgroups.huge_page_sizes(mount, tmp_path / "none") == ()


def group(mount: Path, **files: str) -> Path:
    """A directory that stands in for a control group."""
    made = mount / "bay/x/s"
    made.mkdir(parents=True)
    for name, text in files.items():
        (made / name.replace("_", ".")).write_text(text)
    return made


def test_freezing_on_version_2_returns_when_the_kernel_says_frozen(tmp_path: Path) -> None:
    made = group(tmp_path, cgroup_freeze="0", cgroup_events="populated 1\nfrozen 1\n")
    cgroups.freeze("/bay/x/s", 1, tmp_path)
    assert (made / "cgroup.freeze").read_text() == "1"
    cgroups.thaw("/bay/x/s", tmp_path)
    assert (made / "cgroup.freeze").read_text() == "0"


def test_a_group_of_version_2_that_does_not_halt_is_thawed_again(tmp_path: Path) -> None:
    made = group(tmp_path, cgroup_freeze="0", cgroup_events="populated 1\nfrozen 0\n")
    with pytest.raises(TimeoutError, match="halt"):
        cgroups.freeze("/bay/x/s", 0.05, tmp_path)
    assert (made / "cgroup.freeze").read_text() == "0"


def test_a_group_of_version_1_that_stays_freezing_is_given_up(tmp_path: Path) -> None:
    made = group(tmp_path / "freezer")
    (made / "freezer.state").symlink_to("/dev/null")  # takes every word, and never says FROZEN
    with pytest.raises(TimeoutError, match="halt"):
        cgroups.freeze("/bay/x/s", 0.05, tmp_path)


def test_freezing_a_group_that_is_gone_is_fine_and_one_without_a_freezer_is_not(tmp_path: Path) -> None:
    cgroups.freeze("/bay/x/s", 1, tmp_path)
    cgroups.thaw("/bay/x/s", tmp_path)
    group(tmp_path)
    with pytest.raises(OSError, match="no freezer"):
        cgroups.freeze("/bay/x/s", 1, tmp_path)


def test_on_a_hybrid_host_the_freezer_of_version_1_is_used(tmp_path: Path) -> None:
    old = group(tmp_path / "freezer", freezer_state="THAWED")
    new = group(tmp_path / "unified", cgroup_freeze="0", cgroup_events="frozen 0\n")
    cgroups.freeze("/bay/x/s", 1, tmp_path)
    assert (old / "freezer.state").read_text() == "FROZEN"
    assert (new / "cgroup.freeze").read_text() == "0"


HIERARCHIES = {"version 1": cgroups.MOUNT / "freezer", "version 2": cgroups.MOUNT / "unified"}


@pytest.mark.skipif(os.getuid() != 0, reason="making control groups needs root")
@pytest.mark.parametrize("version", HIERARCHIES)
def test_a_real_group_stands_still_until_it_is_thawed(version: str) -> None:
    mount = HIERARCHIES[version] if HIERARCHIES[version].is_dir() else cgroups.MOUNT
    name = f"bay-test-{os.getpid()}"
    (mount / name).mkdir()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as cat:
        assert cat.stdin is not None
        assert cat.stdout is not None
        try:
            (mount / name / "cgroup.procs").write_text(str(cat.pid))
            for _ in range(3):  # the kernel holds back the event of a change that follows another closely
                cgroups.freeze(name, 5, mount)
                assert cgroups.is_frozen(name, mount)
                cat.stdin.write(b"x")
                assert select.select([cat.stdout], [], [], 0.05)[0] == []
                cgroups.thaw(name, mount)
                assert cat.stdout.read(1) == b"x"
        finally:
            cgroups.thaw(name, mount)
            cat.kill()
            cat.wait()
            cgroups.remove(name, mount)


def test_a_tree_of_processes_is_killed_as_a_whole() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 4716 & sleep 4716 & echo begun; wait"], stdout=-1) as top:
        assert top.stdout is not None
        top.stdout.readline()
        below = [os.pidfd_open(pid) for pid in processes.descendants(top.pid)]
        assert processes.kill_tree(top.pid, 5)
        assert len(below) == 2
        for pidfd in below:
            with closing_fd(pidfd):
                assert processes.ends_within(pidfd, 0)


HOLDING = """
import os, sys
from bay.drivers.oci import userns
with userns._helper(2_000_000_000) as (helper, said, go):
    print(os.read(said, 64).decode(), end="", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="user namespaces with a mapping need root")
def test_the_helper_that_makes_a_user_namespace_ends_with_its_bay() -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDING], stdin=-1, stdout=-1) as bay:
        assert bay.stdout is not None
        assert bay.stdout.readline() == b"made\n"
        helpers = [os.pidfd_open(pid) for pid in processes.descendants(bay.pid)]
        bay.kill()
        assert len(helpers) == 1
        with closing_fd(helpers[0]) as helper:
            assert processes.ends_within(helper, 5)


def test_a_claim_that_was_being_written_when_its_bay_died_is_free(ranges: IdRanges, tmp_path: Path) -> None:
    ranges.claim(holder(tmp_path, "a"))
    (tmp_path / "ids/1").touch()
    assert list(ranges.holders().values()) == [tmp_path / "a"]
    assert ranges.claim(holder(tmp_path, "b")) == START + 2 * 65_536
    assert ranges.claim(holder(tmp_path, "c")) == START + 65_536


def test_a_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with closing_fd(mounts.open_directory(tmp_path)) as root:
        os.close(mounts.open_beneath(root, "real"))
        for bad in ("link", "../etc", "/etc"):
            with pytest.raises(OSError, match="openat2"):
                mounts.open_beneath(root, bad)


def test_the_skeleton_takes_only_what_is_named_and_readable_by_everyone(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    (etc / "ssl/certs").mkdir(parents=True)
    (etc / "ssl/private").mkdir()
    for name, mode in (
        ("ld.so.conf", 0o644),
        ("profile", 0o600),
        ("shadow", 0o644),
        ("ssl/private/key", 0o644),
    ):
        (etc / name).write_text(name)
        (etc / name).chmod(mode)
    (etc / "ssl/certs/ca.pem").symlink_to("/usr/share/ca.pem")
    skeleton = host_image.build(tmp_path / "images", etc=etc) / "etc"
    assert (skeleton / "ld.so.conf").read_text() == "ld.so.conf"
    assert os.readlink(skeleton / "ssl/certs/ca.pem") == "/usr/share/ca.pem"
    assert not any((skeleton / name).exists() for name in ("inputrc", "ssl/private"))
    assert "shadow" not in (skeleton / "shadow").read_text()  # written by Bay, and not the host's
    assert "ship:x:1000:1000" in (skeleton / "passwd").read_text()


def test_the_login_shells_of_the_skeleton_are_listed_for_programs_that_ask(tmp_path: Path) -> None:
    etc = host_image.build(tmp_path / "images", etc=tmp_path / "none") / "etc"
    shells = {line.rpartition(":")[2] for line in (etc / "passwd").read_text().splitlines()}
    assert shells - {"/usr/sbin/nologin"} <= {*(etc / "shells").read_text().splitlines()}


def test_the_skeleton_is_made_again_only_when_the_host_changed(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    first = host_image.build(tmp_path / "images", etc=tmp_path / "etc")
    assert host_image.build(tmp_path / "images", etc=tmp_path / "etc") == first
    (tmp_path / "etc/ld.so.conf").write_text("/usr/lib/new\n")
    assert host_image.build(tmp_path / "images", etc=tmp_path / "etc") != first
    assert not any(path.name.startswith(".") for path in (tmp_path / "images").iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="the trials need root")
def test_the_probe_finds_this_host_fit_and_leaves_it_as_it_was() -> None:
    before = mounts_of_the_host()
    found = probe.checks()
    assert [one for one in found if one.required and not one.ok] == []
    assert all(one.fix and one.found for one in found)
    assert len({one.name for one in found}) == len(found)
    assert mounts_of_the_host() == before


def test_a_missing_runc_is_named_with_its_remedy() -> None:
    missing = next(one for one in probe.checks("/nowhere/runc") if one.name == "runc")
    assert not missing.ok
    assert "install runc" in missing.fix


@pytest.mark.parametrize(
    ("said", "fit", "known"),
    [
        ("runc version 1.1.11\\ncommit: v1.1.11", False, False),
        ("runc version 1.1.12\\ncommit: v1.1.12", True, False),
        ("runc version 1.1.5+ds1\\ncommit: 1.1.5+ds1-1+b2", False, False),
        ("runc version 1.1.5+ds1\\ncommit: 1.1.5+ds1-1+deb12u1", True, False),
        ("runc version 1.2.8\\ncommit: \\377\\376", True, True),
        ("runc version 1.3.2", True, False),
        ("crun version 1.21\\ncommit: 1026", True, False),
        ("youki version: 0.5.3", True, False),
        ("runsc version release-20240729.0\\nspec: 1.1.0", False, None),
        ("runsc version 0.0~20240729.0\\nspec: 1.1.0", False, None),
        ("kata-runtime  : 3.2.0", False, None),
        ("\\377\\376", False, None),
    ],
)
def test_a_runc_with_known_holes_is_refused_or_told_of(
    tmp_path: Path, said: str, fit: bool, known: bool | None
) -> None:
    path = tmp_path / "runc"
    path.write_text(f"#!/bin/sh\nprintf '{said}\\n'\n")
    path.chmod(0o755)
    found = {one.name: one for one in probe._runc(str(path))}
    assert found["runc"].ok == fit
    assert str(path) in found["runc"].found
    assert [one.ok for one in found.values() if one.risk] == ([] if known is None else [known])
    assert ("BAY_RUNSC" in found["runc"].fix) == said.startswith("runsc")


def test_what_only_root_may_read_below_usr_is_told_of(tmp_path: Path) -> None:
    for name, mode in (("open", 0o644), ("secret", 0o600), ("helper", 0o4754)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed/key").touch()
    (tmp_path / "empty").mkdir(mode=0o700)
    (tmp_path / "passable").mkdir(mode=0o711)
    (tmp_path / "link").symlink_to("secret")
    assert sorted(probe._closed_below(tmp_path)) == [str(tmp_path / "closed"), str(tmp_path / "secret")]


@pytest.mark.parametrize(
    ("pattern", "hard", "ok"),
    [("core", 0, True), ("|/x", 1, True), ("|/x", -1, True), ("|/x", 0, False), ("@/x.sock", -1, False)],
)
def test_a_handler_of_cores_that_a_crash_inside_reaches_is_told_of(pattern: str, hard: int, ok: bool) -> None:
    assert probe._core_dumps(pattern, hard).ok == ok


def test_a_host_that_refuses_user_namespaces_is_noticed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(OSError, match="helper failed"), userns.user_namespace(2_000_000_000, timeout_s=60):
        pass


@pytest.mark.skipif(os.getuid() != 0, reason="becoming another user needs root")
def test_a_host_that_lets_only_cap_sys_admin_make_user_namespaces_lets_the_helper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asking = Path(tempfile.mkdtemp(prefix="bay-unshare-"))
    asking.chmod(0o755)
    program = asking / "unshare"
    program.write_text(
        "#!/bin/sh\ncase $(grep CapEff /proc/self/status) in *0200000) [ $(id -u) = 2000000000 ] && echo made; read -r go;; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{asking}:/usr/bin:/bin")
    try:
        with userns._helper(2_000_000_000) as (helper, said, _go):
            userns._expect(said, b"made\n", 30)
            assert helper.poll() is None
    finally:
        shutil.rmtree(asking)


def test_a_program_is_run_from_a_copy_that_nobody_can_write_until_its_file_changes(tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copyfile("/bin/true", program)
    program.chmod(0o755)
    copy = SealedCopy(str(program))
    path = copy.path()
    subprocess.run([path], check=True, timeout=30)
    assert copy.path() == path
    with pytest.raises(PermissionError), open(path, "r+b") as file:
        file.write(b"x")
    shutil.copyfile("/bin/false", tmp_path / "new")
    (tmp_path / "new").chmod(0o755)
    (tmp_path / "new").rename(program)
    assert subprocess.run([copy.path()], check=False, timeout=30).returncode == 1
    copy.close()
    assert not Path(path).exists()


def test_a_script_is_run_from_its_file(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    assert SealedCopy(str(script)).path() == str(script)
    with pytest.raises(FileNotFoundError):
        SealedCopy(str(tmp_path / "none")).path()


def test_limits_are_never_above_those_that_bay_itself_may_have() -> None:
    command = [sys.executable, "-c", LIMITED]
    given = subprocess.run(
        ["prlimit", "--nofile=4096:4096", *command], capture_output=True, text=True, timeout=30, check=True
    )
    assert json.loads(given.stdout) == {**rlimits.RLIMITS, "nofile": 4096}


LIMITED = """
import json, os, resource, subprocess, sys
from bay.drivers.oci.rlimits import RLIMITS, limited
ask = "import json, resource as r, sys; print(json.dumps({n: r.getrlimit(getattr(r, 'RLIMIT_' + n.upper())) for n in sys.argv[1:]}))"
said = json.loads(subprocess.check_output(limited([sys.executable, "-c", ask, *RLIMITS])))
assert all(soft == hard for soft, hard in said.values()), said
print(json.dumps({name: soft for name, (soft, _) in said.items()}))
"""


@pytest.fixture(scope="module")
def bundle(oci_root: Path) -> Path:
    """The closure of this interpreter, the same as every session of this run has."""
    return closure.build(Layout(oci_root, oci_root, oci_root, oci_root).closures)


def test_a_closure_is_made_once(bundle: Path) -> None:
    made = bundle.stat().st_ino
    assert closure.build(bundle.parent).stat().st_ino == made
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_a_closure_is_made_anew_when_the_code_of_kernels_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = kernel_bundle.fingerprint()
    monkeypatch.setattr(kernel_bundle, "HOST_PYTHON", Path("/nowhere"))
    assert kernel_bundle.fingerprint() != before


def test_what_kernels_need_can_be_read_by_everyone_and_has_no_compiled_parts(bundle: Path) -> None:
    kernel = bundle / "kernel"
    assert (kernel / "IPython/__init__.py").stat().st_mode & 0o004
    assert list(kernel.rglob("*.so*")) == []
    compiled = {path.suffixes[0] for path in (kernel / "ship_kernel/__pycache__").iterdir()}
    assert f".{sys.implementation.cache_tag}" in compiled


@pytest.mark.parametrize("interpreter", ["closure", "host"])
def test_a_kernel_starts_from_the_closure_alone(bundle: Path, interpreter: str, tmp_path: Path) -> None:
    loader = next((bundle / "lib").glob("ld-linux-*"))
    own = [str(loader), "--library-path", f"{bundle}/lib", f"{bundle}/bin/python3", "-I", "-S", "-B"]
    command = own if interpreter == "closure" else ["/usr/bin/python3", "-s"]
    said = _ask_kernel(bundle, command, tmp_path)
    assert [message["type"] for message in said] == ["ready", "start", "result", "end"]
    assert said[2]["data"] == {"text/plain": "42"}
    assert {path.name for path in tmp_path.iterdir()} <= {"tmp"}


def test_an_interpreter_that_cannot_be_a_kernel_lets_the_next_one_try(bundle: Path, tmp_path: Path) -> None:
    bare = tmp_path / "kernel"
    shutil.copytree(bundle / "kernel/ship_kernel", bare / "ship_kernel")
    boot = str(bare / "ship_kernel/boot.py")
    command = ["/usr/bin/python3", "-I", "-S", boot, str(bare), "python"]
    alone = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert alone.returncode == 1
    assert "no Python here can be a kernel: ModuleNotFoundError: No module named 'IPython'" in alone.stderr
    following = subprocess.run(
        [*command, "/bin/echo", "next"], capture_output=True, text=True, timeout=30, check=False
    )
    assert following.stdout == f"next {boot} {bare} python\n"


def _ask_kernel(bundle: Path, command: list[str], home: Path) -> list[dict[str, Any]]:
    boot = [*command, str(bundle / "kernel/ship_kernel/boot.py"), str(bundle / "kernel"), "python"]
    (home / "tmp").mkdir()
    environment = {"HOME": str(home), "TMPDIR": str(home / "tmp"), "PATH": "/usr/bin:/bin"}
    ours, theirs = socket.socketpair()
    with ours, theirs, subprocess.Popen(boot, stdin=theirs.fileno(), env=environment, cwd=home) as process:
        theirs.close()
        ours.settimeout(30)
        ours.sendall(b'{"type":"run","cell":"c","code":"6 * 7"}\n{"type":"exit"}\n')
        said = [json.loads(line) for line in ours.makefile("rb")]
        assert process.wait(30) == 0
    return said


@pytest.mark.anyio
async def test_a_descriptor_that_nobody_waits_for_any_more_is_closed(tmp_path: Path) -> None:
    entered, go_on = threading.Event(), threading.Event()
    opened: list[int] = []

    def work() -> int:
        entered.set()
        go_on.wait(10)
        opened.append(os.open(tmp_path, os.O_RDONLY))
        return opened[0]

    waiting = asyncio.create_task(opened_in_thread(work))
    await asyncio.to_thread(entered.wait, 10)
    waiting.cancel()
    go_on.set()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
