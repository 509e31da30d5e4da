"""The account that Ship makes for the sandbox's user."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ship.process import own_account
from ship.process.identity import Identity

pytestmark = pytest.mark.host

ROOT = "root:x:0:0:root:/root:/bin/bash"
NODE = "node:x:1000:1000::/home/node:/bin/sh"


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """An /etc of one user besides root."""
    made = tmp_path / "etc"
    made.mkdir()
    (made / "passwd").write_text(f"{ROOT}\n{NODE}\n")
    (made / "group").write_text("root:x:0:\nnode:x:1000:\n")
    (made / "shadow").write_text("root:*:::::::\n")
    return made


def test_the_user_is_the_first_of_its_name_and_number_and_owns_its_home(etc: Path, tmp_path: Path) -> None:
    user = Identity("user", 1000, 1000, str(tmp_path / "home/user"), switch=True)
    own_account.settle(user, str(etc))
    first, *others = (etc / "passwd").read_text().splitlines()
    assert (first.split(":")[:6], others) == (["user", "x", "1000", "1000", "user", user.home], [ROOT, NODE])
    assert (etc / "group").read_text().splitlines() == ["user:x:1000:", "root:x:0:", "node:x:1000:"]
    assert (etc / "shadow").read_text().splitlines() == ["user:*:::::::", "root:*:::::::"]
    assert sorted(path.name for path in etc.iterdir()) == ["group", "passwd", "shadow"]
    home = os.stat(user.home)
    assert (home.st_uid, home.st_gid, stat.S_IMODE(home.st_mode)) == (1000, 1000, 0o755)


def test_a_second_start_writes_nothing(etc: Path, tmp_path: Path) -> None:
    user = Identity("user", 1000, 1000, str(tmp_path / "home/user"), switch=True)
    own_account.settle(user, str(etc))
    before = {path.name: path.stat().st_ino for path in etc.iterdir()}
    own_account.settle(user, str(etc))
    assert {path.name: path.stat().st_ino for path in etc.iterdir()} == before


def test_a_line_of_another_home_is_replaced(etc: Path, tmp_path: Path) -> None:
    (etc / "passwd").write_text(f"{ROOT}\nuser:x:1000:1000:user:/workspace:/bin/bash\n")
    user = Identity("user", 1000, 1000, str(tmp_path / "home/user"), switch=True)
    own_account.settle(user, str(etc))
    homes = [line.split(":")[5] for line in (etc / "passwd").read_text().splitlines()]
    assert homes == [user.home, "/root"]


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _huge(path: Path) -> None:
    os.truncate(path, 2 << 20)


@pytest.mark.parametrize("spoil", [_fifo, _link, _huge])
def test_files_that_are_none_stay_as_they_are_and_stop_nothing(
    etc: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(etc / "passwd")
    before = (etc / "passwd").lstat()
    user = Identity("user", 1000, 1000, str(tmp_path / "home/user"), switch=True)
    own_account.settle(user, str(etc))
    after = (etc / "passwd").lstat()
    assert (after.st_ino, after.st_size, after.st_mode) == (before.st_ino, before.st_size, before.st_mode)
    assert (etc / "group").read_text().startswith("user:x:1000:\n")


def test_a_home_that_is_a_link_gives_nothing_away(
    etc: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home/user").symlink_to(kept)
    own_account.settle(Identity("user", 1000, 1000, str(tmp_path / "home/user"), switch=True), str(etc))
    assert kept.stat().st_uid == os.getuid()
    assert "account.unmade" in capfd.readouterr().err
