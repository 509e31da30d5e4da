"""Replicas that are upgraded one after the other, each a real `bay serve`; a version is its migrations."""

from pathlib import Path

import pytest
from made_up_versions import OWN, MadeUpVersions
from replica_bays import KEY, ReplicaBays, replica_bays

import bay

pytestmark = pytest.mark.postgres


def version(bays: ReplicaBays) -> str:
    """That of the database."""
    ((found,),) = bays.sql("SELECT version_num FROM alembic_version")
    return found


def test_replicas_are_replaced_one_after_the_other_while_sandboxes_are_used(tmp_path: Path) -> None:
    newer = MadeUpVersions(tmp_path).add("9001", is_beside=True)
    with replica_bays(2) as bays, bay.Client(bays.address, KEY) as client:
        box = client.sandboxes.create(wait=60)
        box.run("echo kept > note")
        bays.stop(1)
        bays.start(1, migrations=newer)
        assert version(bays) == "9001"
        assert box.run("cat note").stdout == "kept\n"
        bays.kill(0)  # one of the older version crashes, and starts again beside the newer one
        bays.start(0)
        for number in bays.numbers:
            with bay.Client(bays.url(number), KEY) as one, one.sandbox() as other:
                assert other.run("echo hello").stdout == "hello\n"
        bays.stop(0)
        bays.start(0, migrations=newer)
        assert box.run("cat note").stdout == "kept\n"


def test_a_version_that_older_replicas_cannot_run_beside_says_which_to_stop(tmp_path: Path) -> None:
    newer = MadeUpVersions(tmp_path).add("9001", is_beside=False)
    with replica_bays(2) as bays:
        said = bays.refused(newer)
        for (replica,) in bays.sql("SELECT id FROM replicas"):
            assert f"{replica} ({bay.__version__})" in said
        assert len([line for line in said.splitlines() if "at once" in line]) == 1
        assert version(bays) == OWN
        for number in bays.numbers:
            assert bays.stop(number) == 0
        bays.start(0, migrations=newer)
        assert version(bays) == "9001"


def test_the_database_is_migrated_beside_running_replicas_before_one_is_replaced(tmp_path: Path) -> None:
    versions = MadeUpVersions(tmp_path)
    newer, newest = versions.add("9001", is_beside=True), versions.add("9002", is_beside=False)
    with replica_bays(1) as bays, bay.Client(bays.url(0), KEY) as client:
        done = bays.migrate(newer)
        assert (done.returncode, version(bays)) == (0, "9001"), done.stderr
        assert done.stdout.endswith(b"has version 9001\n")
        with client.sandbox() as box:
            assert box.run("echo hello").stdout == "hello\n"
        refused = bays.migrate(newest)
        assert refused.returncode == 1
        assert b"stop all of them at once" in refused.stderr
        assert version(bays) == "9001"
        assert bays.stop(0) == 0
        assert bays.migrate(newest).returncode == 0
        assert version(bays) == "9002"
