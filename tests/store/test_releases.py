"""The database and files of each release: the present Bay migrates them, and has all that they had."""

import json
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from serving import KEY, serving

import bay
from bay.server.offline import backup
from bay.store.sqlite import migrate
from bay.store.versions import newest_version

RELEASES = sorted(Path(__file__).with_name("releases").glob("*.tar.gz"))


def counts(database: Path) -> dict[str, int]:
    """The rows of each table that has any, but for those by which SQLite and alembic keep their own books."""
    with closing(sqlite3.connect(database)) as db:
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        own = [name for name in names if name not in ("sqlite_sequence", "alembic_version")]
        found = {name: db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in own}  # noqa: S608
    return {name: count for name, count in found.items() if count}


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_the_database_of_a_release_is_migrated_with_every_row(release: Path, tmp_path: Path) -> None:
    with tarfile.open(release) as tar:
        tar.extract("bay.db", tmp_path, filter="data")
        manifest = json.load(tar.extractfile("manifest.json") or pytest.fail("it has no manifest"))
    database = tmp_path / "bay.db"
    before = counts(database)
    assert before["sandboxes"] == 2
    assert manifest["schema"] <= newest_version()
    migrate(database)
    after = counts(database)
    assert {name: after.get(name) for name in before} == before
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("SELECT version_num FROM alembic_version").fetchone() == (newest_version(),)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []


def test_the_last_release_is_restored_and_served_with_all_that_it_had() -> None:
    with tempfile.TemporaryDirectory(prefix="bay-r-", dir="/tmp") as name:
        root = Path(name)
        assert backup.restore(RELEASES[-1], root / "data", force=False).sandboxes == 1
        with serving(root) as server, bay.Client(server.url, KEY) as client:
            (box,) = client.sandboxes.list()
            assert (box.name, box.info.labels) == ("web", {"team": "a"})
            assert box.run("cat note; echo $COLOR").stdout == "kept since 0.1.0\nblue\n"
            assert [service.name for service in box.services.list()] == ["db"]
            assert [cargo.managed for cargo in client.cargos.list()] == [False]
            assert [hook.url for hook in client.webhooks.list()] == ["https://93.184.216.34/hook"]
            assert [key.owner for key in client.keys.list() if key.name == "ci"] == ["team-a"]
            assert box.checkpoint("after").name == "after"
            box.delete()
