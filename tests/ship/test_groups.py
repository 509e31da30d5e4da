"""Groups that mark trees: which are given out again, and when.

In a process of its own, whose children have them.

Not the groups that Ships have: those of other tests run beside this.
"""

import os
import subprocess
import sys

import pytest

PREAMBLE = """
import subprocess
from ship.process.groups import Groups
from ship.process.identity import Identity
user = Identity("ship", 1000, 1000, "/", switch=True)
groups = Groups(range(64_500, 64_504))
taken = [groups.take(user) for _ in range(4)]
assert taken == [64_500, 64_501, 64_502, 64_503], taken
"""


def check(body: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PREAMBLE + body], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr


pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="sets groups, which takes root"), pytest.mark.host]


def test_a_group_comes_again_only_when_nobody_asks_for_it_any_more_and_no_process_has_it() -> None:
    check("""
child = subprocess.Popen(["sleep", "60"], extra_groups=[64_501])
for group in taken[1:3]:
    groups.give_back(group)
assert groups.take(user) == 64_502
assert groups.take(user) is None
child.kill()
child.wait()
assert groups.take(user) == 64_501
""")


def test_when_all_are_in_use_there_is_none() -> None:
    check("assert groups.take(user) is None; groups.give_back(None)")


def test_where_users_are_not_switched_there_is_none() -> None:
    check("""
assert groups.take(Identity("me", 0, 0, "/", switch=False)) is None
""")


def test_where_the_namespaces_map_forbids_groups_programs_start_without() -> None:
    start = """
import os
from ship.process.groups import Groups
from ship.process.identity import Identity
from ship.process.spawn import Ids, Spawner
assert Groups().take(Identity("root", 0, 0, "/", switch=True)) is None
root = os.open("/", os.O_RDONLY)
pid = Spawner().start([b"true"], {}, root, (0, 1, 2), Ids(0, 0, ()), tty=False)
assert os.waitpid(pid, 0) == (pid, 0)
"""
    unshare = ["unshare", "--user", "--map-root-user", sys.executable, "-c", start]
    run = subprocess.run(unshare, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
