"""`bay admin backup` and `bay admin restore` as a person types them."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from bay.store.engine import migrate

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
