"""The top layer of an image, made of files that a stranger made. Needs root."""

import contextlib
import json
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from bay.drivers.base import ImageUser
from bay.images import image_tree
from bay.images.config import ImageConfig
from bay.images.tops import ImageFacts, make_top, remove_unfinished

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="merging layers needs root")

PLACES = (".ship", ".ship-run", "dev", "etc", "proc", "run", "run/secrets", "sys", "tmp", "workspace")


def made(
    tmp_path: Path, *layers: Path, user: str = "", working_dir: str = "", env: Mapping[str, str] | None = None
) -> tuple[Path, ImageFacts]:
    tops = tmp_path / "tops"
    config = ImageConfig(os="linux", architecture="amd64", user=user, working_dir=working_dir, env=env or {})
    facts = make_top(tops, "image-1", layers, config)
    return tops / "image-1", facts


def layer(tmp_path: Path, name: str, **files: str) -> Path:
    """A layer with text files: `etc__passwd` is etc/passwd."""
    directory = tmp_path / name
    directory.mkdir()
    for place, text in files.items():
        path = directory / place.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def whiteout(path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(0, 0))


def test_every_place_of_a_start_is_a_real_directory_also_for_no_layer_at_all(tmp_path: Path) -> None:
    top, facts = made(tmp_path)
    assert all((top / name).is_dir() and not (top / name).is_symlink() for name in PLACES)
    assert (facts.shell, facts.python, facts.working_dir) == (None, None, "/workspace")
    assert facts.user == ImageUser(name="root", uid=0, gid=0, home="/root")
    assert (top / "etc/hosts").read_text().startswith("127.0.0.1 localhost sandbox\n")
    assert stat.S_IMODE((top / "etc/shadow").stat().st_mode) == 0o640


def test_the_upper_layers_files_count(tmp_path: Path) -> None:
    lower = layer(tmp_path, "lower", etc__passwd="old:x:1000:1000::/:/bin/sh\n", etc__group="old:x:1000:\n")
    upper = layer(tmp_path, "upper", etc__passwd="new:x:1000:1000::/:/bin/sh\n")
    whiteout(upper / "etc/group")
    top, facts = made(tmp_path, upper, lower)
    assert facts.ship.name == "new"
    assert "old" not in (top / "etc/group").read_text()


def test_etc_and_its_files_keep_mode_and_owner_and_lose_special_bits(tmp_path: Path) -> None:
    lower = layer(tmp_path, "lower", etc__passwd="root:x:0:0::/root:/bin/sh\n")
    (lower / "etc").chmod(0o751)
    os.chown(lower / "etc", 7, 8)
    os.chown(lower / "etc/passwd", 3, 4)
    (lower / "etc/passwd").chmod(0o4604)
    top, _ = made(tmp_path, lower)
    etc, passwd = (top / "etc").stat(), (top / "etc/passwd").stat()
    assert (stat.S_IMODE(etc.st_mode), etc.st_uid, etc.st_gid) == (0o751, 7, 8)
    assert (stat.S_IMODE(passwd.st_mode), passwd.st_uid, passwd.st_gid) == (0o604, 3, 4)


def test_shell_and_python_are_found_where_the_image_has_them(tmp_path: Path) -> None:
    lower = layer(tmp_path, "lower", usr__bin__dash="#!", opt__conda__bin__python3="#!", bin__bash="#!")
    (lower / "bin/sh").symlink_to("/usr/bin/dash")
    for program in ("usr/bin/dash", "opt/conda/bin/python3"):
        (lower / program).chmod(0o755)
    _, facts = made(tmp_path, lower, env={"PATH": "relative:/none:/opt/conda/bin"})
    assert facts.shell == "/bin/sh"  # bash may not be run
    assert facts.python == "/opt/conda/bin/python3"


def test_a_link_of_the_image_leads_nowhere_out_of_it(tmp_path: Path) -> None:
    lower = layer(tmp_path, "lower")
    for name in ("bin", "etc"):
        (lower / name).mkdir()
    (lower / "bin/sh").symlink_to("../../../../../../bin/sh")
    (lower / "bin/bash").symlink_to("/bin/bash")
    (lower / "etc/passwd").symlink_to(Path("/etc/passwd"))
    (lower / "etc/group").symlink_to("/proc/self/root/etc/group")
    top, facts = made(tmp_path, lower)
    assert facts.shell is None
    assert (top / "etc/passwd").read_text().count("\n") == 2


def test_accounts_behind_links_within_the_image_are_read(tmp_path: Path) -> None:
    lower = layer(tmp_path, "lower", nix__store__passwd="dev:x:1000:1000::/:/bin/sh\n")
    (lower / "etc").mkdir()
    (lower / "etc/passwd").symlink_to("/nix/store/passwd")
    assert made(tmp_path, lower)[1].ship.name == "dev"


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "directory", "large", "loop"])
def test_a_passwd_that_is_no_small_file_is_not_read_and_is_replaced(tmp_path: Path, kind: str) -> None:
    lower = layer(tmp_path, "lower", etc__keep="")
    make_odd(lower / "etc/passwd", kind)
    make_odd(lower / "etc/group", kind)
    top, facts = made(tmp_path, lower)
    assert facts.ship.name == "ship"
    assert (top / "etc/passwd").is_file()
    assert (top / "etc/group").stat().st_size < image_tree.LARGEST


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ["link out", "file", "fifo", "loop"])
def test_a_trap_in_place_of_a_directory_lies_below_a_real_one(tmp_path: Path, place: str, kind: str) -> None:
    lower = layer(tmp_path, "lower")
    (lower / place).parent.mkdir(exist_ok=True)
    make_odd(lower / place, kind)
    top, _ = made(tmp_path, lower)
    assert stat.S_ISDIR((top / place).lstat().st_mode)


def test_the_image_itself_is_not_touched(tmp_path: Path) -> None:
    lower = layer(tmp_path, "lower", etc__passwd="a\n", etc__hosts="b\n")
    before = [(path, path.lstat()) for path in sorted(lower.rglob("*"))]
    made(tmp_path, lower, working_dir="/srv/app")
    assert [(path, path.lstat()) for path in sorted(lower.rglob("*"))] == before


def test_a_working_dir_that_is_missing_is_made_as_an_engine_does(tmp_path: Path) -> None:
    lower = layer(tmp_path, "lower", srv__keep="")
    (lower / "srv").chmod(0o700)
    os.chown(lower / "srv", 5, 6)
    top, facts = made(tmp_path, lower, working_dir="srv/app/../app/x")
    assert facts.working_dir == "/srv/app/x"
    srv = (top / "srv").stat()
    assert (stat.S_IMODE(srv.st_mode), srv.st_uid, srv.st_gid) == (0o700, 5, 6)
    assert (top / "srv/app/x").is_dir()


@pytest.mark.parametrize(
    "working_dir",
    [
        "",
        "/workspace/x",
        "/proc/1",
        "/link/x",
        "/file",
        "/file/x",
        "a" * 300,
        "/x" * 40,
        "/a\0b",
        "/.ship",
        "/etc/passwd",
        "/etc/hosts/x",
        "/etc/profile.d/00-sandbox-path.sh",
        "/run/secrets/x",
    ],
)
def test_a_working_dir_that_cannot_be_is_the_workspace(tmp_path: Path, working_dir: str) -> None:
    lower = layer(tmp_path, "lower", file="")
    (lower / "link").symlink_to("/etc")
    top, facts = made(tmp_path, lower, working_dir=working_dir)
    assert facts.working_dir == "/workspace"
    assert sorted(os.listdir(top)) == sorted({*PLACES, "root"} - {"run/secrets"})


def test_pip_may_install_where_the_distribution_says_it_may_not(tmp_path: Path) -> None:
    marked = layer(tmp_path, "marked", **{"usr/lib/python3.13/EXTERNALLY-MANAGED": ""})
    top, _ = made(tmp_path, marked)
    assert "break-system-packages = true" in (top / "etc/pip.conf").read_text()
    assert (top / "etc/uv/uv.toml").is_file()


def test_a_pip_conf_of_the_image_stays_the_one(tmp_path: Path) -> None:
    own = layer(tmp_path, "own", etc__pip_conf="")
    (own / "etc/pip_conf").rename(own / "etc/pip.conf")
    (own / "usr/lib/python3.13").mkdir(parents=True)
    (own / "usr/lib/python3.13/EXTERNALLY-MANAGED").touch()
    assert not (made(tmp_path, own)[0] / "etc/pip.conf").exists()


def test_an_image_without_the_mark_has_no_pip_conf(tmp_path: Path) -> None:
    assert not (made(tmp_path, layer(tmp_path, "plain"))[0] / "etc/pip.conf").exists()


def test_one_that_is_there_stays_and_the_facts_are_the_same(tmp_path: Path) -> None:
    lower = layer(tmp_path, "lower", etc__passwd="dev:x:1000:1000::/:/bin/sh\n")
    first, facts = made(tmp_path, lower)
    inode = first.stat().st_ino
    again, same = made(tmp_path, lower)
    assert (again.stat().st_ino, same) == (inode, facts)
    assert os.listdir(tmp_path / "tops") == ["image-1"]


def test_facts_survive_json(tmp_path: Path) -> None:
    for user in ("", "7:8", "nobody-here"):
        _, facts = made(tmp_path, user=user)
        assert ImageFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


def test_what_a_killed_bay_left_is_removed(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "tops/.building-abc/etc").mkdir(parents=True)
    remove_unfinished(tmp_path / "tops")
    assert os.listdir(tmp_path / "tops") == ["image-1"]


@pytest.mark.parametrize("names", ["options", "text"])
def test_127_layers_are_read_whichever_way_the_kernel_names_them(
    tmp_path: Path, names: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_tree, "LAYER_NAMES", (names,))
    layers = [layer(tmp_path, f"layer-{number}", **{f"file{number}": ""}) for number in range(127)]
    (layers[126] / "etc").mkdir()
    (layers[126] / "etc/passwd").write_text("deep:x:1000:1000::/:/bin/sh\n")
    assert made(tmp_path, *layers)[1].ship.name == "deep"


def make_odd(path: Path, kind: str) -> None:
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as made_by, contextlib.chdir(path.parent):
                made_by.bind(path.name)
        case "device":
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 5))
        case "directory":
            path.mkdir()
        case "large":
            path.write_text("x:x:1000:1000::/:/bin/sh\n" * 120_000)
        case "loop":
            path.symlink_to(path.name)
        case "link out":
            path.symlink_to("../../../../../../etc")
        case _:
            path.touch()
