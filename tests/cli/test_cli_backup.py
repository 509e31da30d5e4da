"""`bay admin backup` and `bay admin restore` as a person types them."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from bay.store.sqlite import migrate

Cli = Callable[..., "subprocess.CompletedProcess[bytes]"]


def made(directory: Path) -> Path:
    """A data directory with a database of nothing."""
    directory.mkdir()
    migrate(directory / "bay.db")
    return directory


def test_a_backup_is_made_and_put_back(bay: Cli, tmp_path: Path) -> None:
    out = tmp_path / "saved.tar.gz"
    done = bay("admin", "backup", str(out), "--data-dir", str(made(tmp_path / "data")), "--with-files")
    assert (done.returncode, done.stdout.decode()) == (0, f"backed up to {out} with 0 workspaces\n")
    done = bay("admin", "restore", str(out), "--data-dir", str(tmp_path / "new"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"restored 0 sandboxes, as of 20")
    assert sorted(os.listdir(tmp_path / "new")) == ["bay.db", "bay.lock"]


def test_the_data_directory_may_come_from_the_environment(bay: Cli, tmp_path: Path) -> None:
    out = tmp_path / "saved.tar"
    assert bay("admin", "backup", str(out), BAY_DATA_DIR=str(made(tmp_path / "data"))).returncode == 0
    assert out.exists()


def test_force_says_where_what_was_there_is(bay: Cli, tmp_path: Path) -> None:
    out, data = tmp_path / "saved.tar", made(tmp_path / "data")
    bay("admin", "backup", str(out), "--data-dir", str(data))
    refused = bay("admin", "restore", str(out), "--data-dir", str(data))
    assert refused.returncode == 2
    assert b"--force" in refused.stderr
    done = bay("admin", "restore", str(out), "--data-dir", str(data), "--force")
    (aside,) = data.glob("before-restore-*")
    assert done.stdout.decode().splitlines()[-1] == f"the former data is in {aside}"
    assert (aside / "bay.db").exists()


def test_a_rotation_keeps_the_newest_and_touches_no_other_file(bay: Cli, tmp_path: Path) -> None:
    kept, data = tmp_path / "kept", made(tmp_path / "data")
    kept.mkdir()
    old = [
        "bay-2020-01-01T00-00-00Z.tar.gz",
        "bay-2021-01-01T00-00-00Z.tar.gz",
        "bay-2022-01-01T00-00-00Z.tar.gz",
    ]
    others = ["bay-before-the-upgrade.tar.gz", "notes"]
    for name in [*old, *others]:
        (kept / name).write_bytes(b"")
    done = bay("admin", "backup", str(kept), "--data-dir", str(data), "--keep", "2")
    assert done.returncode == 0, done.stderr
    first, *removed = done.stdout.decode().splitlines()
    new = Path(first.removeprefix("backed up to "))
    assert removed == [f"removed {kept / name}" for name in old[:2]]
    assert sorted(os.listdir(kept)) == sorted([old[2], new.name, *others])
    assert bay("admin", "restore", str(new), "--data-dir", str(tmp_path / "new")).returncode == 0


def test_a_rotation_whose_backup_fails_removes_nothing(bay: Cli, tmp_path: Path) -> None:
    (tmp_path / "bay-2020-01-01T00-00-00Z.tar.gz").write_bytes(b"")
    done = bay("admin", "backup", str(tmp_path), "--data-dir", str(tmp_path / "none"), "--keep", "1")
    assert (done.returncode, b"there is no database" in done.stderr) == (1, True)
    assert os.listdir(tmp_path) == ["bay-2020-01-01T00-00-00Z.tar.gz"]
    done = bay("admin", "backup", str(tmp_path / "none"), "--keep", "1")
    assert (done.returncode, b"is not a directory" in done.stderr) == (2, True)


def test_what_is_no_backup_is_one_line(bay: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"no tar")
    done = bay("admin", "restore", str(tmp_path / "bad.tar"), "--data-dir", str(tmp_path / "d"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert b"not a Bay backup" in line


def test_a_file_that_is_not_there_is_one_line(bay: Cli, tmp_path: Path) -> None:
    done = bay("admin", "restore", str(tmp_path / "none.tar"), "--data-dir", str(tmp_path / "d"))
    assert done.returncode == 1
    assert b"none.tar: No such file" in done.stderr
