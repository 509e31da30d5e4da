"""The accounts of an image, with those that a sandbox needs; and whom its USER names."""

import time

import pytest

from bay.drivers.base import ImageUser
from bay.images.accounts import AccountFiles, completed, image_user, ship_user

pytestmark = pytest.mark.pure

DEBIAN = AccountFiles(
    "root:x:0:0:root:/root:/bin/bash\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\n",
    "root:x:0:\nshadow:x:42:\nstaff:x:50:\n",
    "root:*:20000:0:99999:7:::\n_apt:*:20000:0:99999:7:::\n",
)
NODE = AccountFiles(
    f"{DEBIAN.passwd}node:x:1000:1000::/home/node:/bin/bash\n",
    f"{DEBIAN.group}node:x:1000:\nkeen:x:70:node,root\n",
    f"{DEBIAN.shadow}node:!:20000:0:99999:7:::\n",
)
NOTHING = AccountFiles("", "", "")


def test_the_lines_of_an_image_stay_as_they_are_and_ship_comes_behind_them() -> None:
    done = completed(DEBIAN, "/bin/bash")
    assert done.passwd == f"{DEBIAN.passwd}ship:x:1000:1000:ship:/workspace:/bin/bash\n"
    assert done.group.startswith(f"{DEBIAN.group}ship:x:1000:\nexec-60000:x:60000:\n")
    assert done.group.endswith("exec-60999:x:60999:\n")
    assert done.shadow == f"{DEBIAN.shadow}ship:*:::::::\n"


def test_uid_1000_keeps_the_name_that_the_image_has_for_it() -> None:
    done = completed(NODE, "/bin/bash")
    assert (done.passwd, done.shadow) == (NODE.passwd, NODE.shadow)
    assert ship_user(NODE) == ImageUser(name="node", uid=1000, gid=1000, home="/workspace")


def test_uid_1000_keeps_its_group_unless_that_is_roots() -> None:
    def gid(number: int) -> int:
        return ship_user(AccountFiles(f"jovyan:x:1000:{number}::/home/jovyan:/bin/sh\n", "", "")).gid

    assert (gid(100), gid(0), gid(60_500), gid(70_000)) == (100, 1000, 1000, 1000)


def test_an_image_without_accounts_gets_root_and_ship() -> None:
    done = completed(NOTHING, None)
    assert done.passwd == "root:x:0:0:root:/root:/bin/sh\nship:x:1000:1000:ship:/workspace:/bin/sh\n"
    assert done.group.startswith("root:x:0:\nship:x:1000:\nexec-60000")
    assert done.shadow == "root:*:::::::\nship:*:::::::\n"


def test_a_name_that_another_has_is_not_taken_from_it() -> None:
    taken = AccountFiles("root:x:0:0::/:/bin/sh\nship:x:500:500::/:/bin/sh\n", "root:x:0:\nship:x:500:\n", "")
    assert ship_user(taken).name == "ship2"
    done = completed(taken, "/bin/sh")
    assert "ship2:x:1000:1000:" in done.passwd
    assert "ship2:x:1000:\n" in done.group


@pytest.mark.parametrize("name", ["a,b", "-x", "a b", "a\x1b[0m", "root", "x" * 100, "ümlaut"])
def test_a_name_that_no_user_should_have_is_passed_over(name: str) -> None:
    odd = AccountFiles(f"root:x:0:0::/root:/bin/sh\n{name}:x:1000:1000::/:/bin/sh\n", "root:x:0:\n", "")
    assert ship_user(odd).name == "ship"
    # Before the image's line, as the first of a number counts.
    assert completed(odd, "/bin/sh").passwd.startswith("ship:x:1000:1000:ship:/workspace:/bin/sh\n")


def test_a_root_under_another_name_has_one_of_its_own_too() -> None:
    done = completed(AccountFiles("toor:x:0:0::/:/bin/sh\n", "", ""), "/bin/sh")
    assert done.passwd.startswith("root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0:")


def test_a_group_of_an_exec_that_the_image_has_already_is_left_to_it() -> None:
    done = completed(AccountFiles("", "mine:x:60007:\nexec-60008:x:7:\n", ""), None)
    assert "exec-60007:" not in done.group
    assert done.group.count("exec-60008:") == 1


def test_lines_that_make_no_sense_stay_and_count_for_nothing() -> None:
    odd = "::::::\nroot\n+::::::\nroot:x:zero:0:::\n" + "a:" * 40 + "\nlast:x:7:7::/:"
    done = completed(AccountFiles(odd, "\udcff\udcfe:x", "\n\n"), None)
    assert f"{odd}\n" in done.passwd
    assert "\nship:x:1000:1000:" in done.passwd
    assert "\udcff\udcfe:x\n" in done.group


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("", ("root", 0, 0, "/root", None)),
        ("root", ("root", 0, 0, "/root", None)),
        ("0", ("root", 0, 0, "/root", None)),
        ("node", ("node", 1000, 1000, "/home/node", None)),
        ("1000", ("node", 1000, 1000, "/home/node", None)),
        ("node:staff", ("node", 1000, 50, "/home/node", ())),
        ("node:50", ("node", 1000, 50, "/home/node", ())),
        ("node:", ("node", 1000, 1000, "/home/node", None)),
        (":staff", ("root", 0, 50, "/root", ())),
        ("4711", ("4711", 4711, 0, "/", None)),
        ("4711:4712", ("4711", 4711, 4712, "/", ())),
        ("nobody-here", None),
        ("node:nobody-here", None),
        ("70000", None),
        ("node:60000", None),
        ("-1", None),
        ("\u0661", None),  # a digit, but none of ASCII
    ],
)
def test_user_is_read_as_docker_reads_it(user: str, found: tuple[str, int, int, str, object] | None) -> None:
    said = image_user(user, NODE)
    assert (said and (said.name, said.uid, said.gid, said.home, said.groups)) == found


@pytest.mark.parametrize("home", ["", "relative", "/with\ttab", "/" + "x" * 2000, "/\udcff"])
def test_a_home_that_is_no_path_is_the_root_directory(home: str) -> None:
    said = image_user("odd", AccountFiles(f"odd:x:7:7::{home}:/bin/sh\n", "", ""))
    assert said is not None
    assert said.home == "/"


def test_as_many_lines_as_a_file_can_have_take_no_more_than_a_moment() -> None:
    numbers = range(60_000)
    passwd = "".join(f"u{n}:x:{n}::::\n" for n in numbers)
    shadow = "".join(f"::u{n}\n" for n in numbers)
    started = time.process_time()
    completed(AccountFiles(passwd, "", shadow), None)
    assert time.process_time() - started < 5, "it is below 0.5 where nothing else runs"
