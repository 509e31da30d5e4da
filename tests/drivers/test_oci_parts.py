"""The small parts of the `oci` driver that can be tried without a container."""

import os
from pathlib import Path

import pytest

from bay.drivers.oci import cgroups, host_image, mounts, probe, userns
from bay.drivers.oci.idrange import IdRanges
from bay.drivers.oci.layout import Layout
from bay.drivers.processes import closing_fd
from bay.errors import DriverUnavailable, InvalidArgument

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


def test_a_second_claim_gives_the_same_range(ranges: IdRanges, tmp_path: Path) -> None:
    assert ranges.claim(holder(tmp_path, "a")) == ranges.claim(holder(tmp_path, "a"))


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
        Layout(tmp_path, tmp_path, tmp_path).session(bad)


def test_groups_are_found_on_version_2(tmp_path: Path) -> None:
    (tmp_path / "bay/x/s").mkdir(parents=True)
    (tmp_path / "bay/x/s/cgroup.freeze").write_text("1\n")
    assert cgroups.directories("/bay/x/s", tmp_path) == [tmp_path / "bay/x/s"]
    assert cgroups.is_frozen("/bay/x/s", tmp_path)


def test_groups_are_found_in_every_hierarchy_of_version_1(tmp_path: Path) -> None:
    for name in ("freezer", "memory"):
        (tmp_path / name / "bay/x/s").mkdir(parents=True)
    (tmp_path / "freezer/bay/x/s/freezer.state").write_text("THAWED\n")
    assert set(cgroups.directories("/bay/x/s", tmp_path)) == {
        tmp_path / n / "bay/x/s" for n in ("freezer", "memory")
    }
    assert not cgroups.is_frozen("/bay/x/s", tmp_path)


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
    assert not any((skeleton / name).exists() for name in ("profile", "shadow", "ssl/private"))
    assert "ship:x:1000:1000" in (skeleton / "passwd").read_text()


def test_the_skeleton_is_made_again_only_when_the_host_changed(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    first = host_image.build(tmp_path / "images", etc=tmp_path / "etc")
    assert host_image.build(tmp_path / "images", etc=tmp_path / "etc") == first
    (tmp_path / "etc/ld.so.conf").write_text("/usr/lib/new\n")
    assert host_image.build(tmp_path / "images", etc=tmp_path / "etc") != first
    assert not any(path.name.startswith(".") for path in (tmp_path / "images").iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="the trials need root")
def test_the_probe_finds_this_host_fit_and_leaves_it_as_it_was() -> None:
    before = Path("/proc/self/mountinfo").read_text()
    found = probe.checks()
    assert [one for one in found if one.required and not one.ok] == []
    assert all(one.fix and one.found for one in found)
    assert len({one.name for one in found}) == len(found)
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_missing_runc_is_named_with_its_remedy() -> None:
    missing = next(one for one in probe.checks("/nowhere/runc") if one.name == "runc")
    assert not missing.ok
    assert "install runc" in missing.fix


def test_a_host_that_refuses_user_namespaces_is_noticed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(OSError, match="helper failed"), userns.user_namespace(2_000_000_000, timeout_s=60):
        pass
