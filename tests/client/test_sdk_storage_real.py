"""Files, checkpoints and cargos through the SDK against a real Bay with the `fake` driver: real routes, real
Ship.

Its sandboxes have their workspace where the host has it, so that no path is told of here but by its end.
"""

import io
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import bay

BIG = bytes(range(251)) * 8000


class Torn(io.BytesIO):
    """A source that cannot be read to its end."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            raise OSError(5, "torn")
        return super().read(size)


@pytest.fixture(scope="module")
def shared(served: tuple[str, str]) -> Iterator[bay.Box]:
    """One sandbox for the tests that leave no trace another would see."""
    with bay.Client(*served, timeout_s=30) as made, made.sandbox() as box:
        yield box


@pytest.fixture
def files(shared: bay.Box) -> Iterator[bay.Files]:
    yield shared.files
    for entry in shared.files.list():
        shared.files.delete(entry.path)


def test_parts_of_files_are_read(files: bay.Files) -> None:
    files.write("f", b"0123456789", mode=0o640)
    assert files.read("f", 3, 4) == b"3456"
    assert (files.read("f", 8), files.read("f", 10, 1), files.read("f", 99)) == (b"89", b"", b"")
    files.write("empty", b"")
    assert (files.read("empty"), files.read("empty", 0, 5)) == (b"", b"")
    assert files.stat("f").mode == "0640"


def test_open_files_are_read_and_written(files: bay.Files) -> None:
    with files.open("big", "wb") as out:
        for i in range(0, len(BIG), 70_001):
            out.write(BIG[i : i + 70_001])
        assert not files.exists("big")
    with files.open("big") as file:
        assert file.seek(-10, os.SEEK_END) == len(BIG) - 10
        assert file.read() == BIG[-10:]
        file.seek(0)
        assert file.read() == BIG
        files.write("big", b"another")
        file.seek(5)
        with pytest.raises(bay.Conflict, match="changed"):
            file.read(1)


def test_a_write_that_is_given_up_leaves_the_old_file(files: bay.Files) -> None:
    files.write("f", b"old")
    with pytest.raises(OSError, match="torn"), files.open("f", "wb") as out:
        shutil.copyfileobj(Torn(BIG), out, 300_000)
    assert files.read("f") == b"old"
    deadline = time.monotonic() + 20
    while [entry.name for entry in files.list()] != [
        "f"
    ]:  # the sandbox hears a moment later that nobody writes
        assert time.monotonic() < deadline


def test_mode_and_time_go_along_both_ways(files: bay.Files, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(BIG)
    (tmp_path / "up").chmod(0o750)
    os.utime(tmp_path / "up", (1_500_000_000.25, 1_500_000_000.25))
    told: list[int] = []
    files.upload(tmp_path / "up", "up", progress=lambda done, _: told.append(done))
    files.download("up", tmp_path / "down", progress=lambda done, _: told.append(done))
    found = (tmp_path / "down").stat()
    assert (found.st_mode & 0o7777, found.st_mtime) == (0o750, 1_500_000_000.25)
    assert (tmp_path / "down").read_bytes() == BIG
    assert told.count(len(BIG)) == 2


def test_directories_go_up_and_come_back_as_they_were(files: bay.Files, tmp_path: Path) -> None:
    source, back = tmp_path / "src", tmp_path / "back"
    (source / "empty").mkdir(parents=True)
    (source / "bin").mkdir()
    (source / "bin" / "tool").write_bytes(BIG)
    (source / "bin" / "tool").chmod(0o755)
    (source / "bin" / "same").hardlink_to(source / "bin" / "tool")
    (source / ("long" * 50)).write_text("name")
    (source / "link").symlink_to("bin/tool")
    (source / "ä\n中文").write_text("ä")
    files.upload_dir(source, "deep/tree")
    assert files.download_dir("deep/tree", back) == len(BIG) + 4 + 2
    names = sorted(str(path.relative_to(back)) for path in back.rglob("*"))
    assert names == sorted(str(path.relative_to(source)) for path in source.rglob("*"))
    assert (back / "link").readlink() == Path("bin/tool")
    assert (back / "bin" / "tool").stat().st_mode & 0o777 == 0o755
    assert (back / "bin" / "same").samefile(back / "bin" / "tool")
    assert [entry.name for entry in files.list("deep/tree/bin")] == ["same", "tool"]


def test_what_is_there_is_found(shared: bay.Box, files: bay.Files) -> None:
    for path in ("a/one.py", "a/b/two.py", "a/b/three.txt", "top.py"):
        files.write(path, f"# {path}\nfind ME\n")
    shared.run("ln -s a link", check=True)
    assert [(entry.name, entry.type) for entry in files.list()] == [
        ("a", "directory"),
        ("link", "symlink"),
        ("top.py", "file"),
    ]
    assert [entry.name for entry in files.glob("**/*.py")] == ["two.py", "one.py", "top.py"]
    assert next(entry.path for entry in files.walk("a")).endswith("/a/b")
    assert [entry.name for entry in files.list(depth=9, limit=2)] == ["a", "b"]
    found = files.search("find me", ignore_case=True, glob="*.py")
    assert sorted((Path(match.path).name, match.line, match.column) for match in found.matches) == [
        ("one.py", 2, 1),
        ("top.py", 2, 1),
        ("two.py", 2, 1),
    ]
    assert files.search("fi(n)d", regex=True, limit=1).truncated
    assert files.exists("top.py")
    assert not files.exists("nope")
    assert files.stat("link", follow=False).target == "a"


def test_files_are_changed(files: bay.Files) -> None:
    files.write("f", "a b a")
    assert files.edit("f", "b", "c") == 1
    with pytest.raises(bay.Conflict) as caught:
        files.edit("f", "a", "z")
    assert caught.value.details["matches"] == 2
    assert files.edit("f", "a", "z", all=True) == 2
    files.copy("f", "g")
    with pytest.raises(bay.Conflict):
        files.move("f", "g")
    assert files.move("f", "g", overwrite=True).name == "g"
    files.mkdir("x/y", mode=0o700)
    files.mkdir("x/y")
    assert files.chmod("x", 0o755, recursive=True).mode == "0755"
    with pytest.raises(bay.Conflict):
        files.delete("x", recursive=False)
    assert files.read_text("g") == "z c z"


def test_names_that_are_not_utf_8_are_names_too(shared: bay.Box, files: bay.Files) -> None:
    shared.run(r"printf hello > $'\xff.txt'", check=True)
    assert files.read("\udcff.txt") == b"hello"
    files.delete("\udcff.txt")


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("nope", bay.FileMissing),
        ("/proc/self/environ", bay.CallerError),
        ("x\0y", bay.InvalidPath),
        ("f/below", bay.CallerError),
    ],
)
def test_bad_paths_are_errors_of_the_caller(files: bay.Files, path: str, error: type[bay.BayError]) -> None:
    files.write("f", b"")
    with pytest.raises(error):
        files.read(path)


def test_what_happens_to_files_is_told(files: bay.Files) -> None:
    files.mkdir("seen")
    with files.watch("seen") as watch:
        events = iter(watch)
        files.write("seen/f", b"1")
        files.move("seen/f", "seen/g")
        seen = [next(events)]
        while not (seen[-1].to or seen[-1].path or "").endswith("/seen/g"):
            seen.append(next(events))
        threading.Thread(target=watch.close).start()
        assert all(event.type != "overflow" for event in [*seen, *events])


def test_files_come_back_as_they_were(client: bay.Client, tmp_path: Path) -> None:
    with client.sandbox(name="origin") as box:
        box.files.write("f", "one")
        first = box.checkpoint("first", "a try")
        box.files.write("f", "two")
        second = box.checkpoint()
        assert (first.current, box.get_checkpoint("first").current, second.parent_id) == (
            True,
            False,
            first.id,
        )
        with pytest.raises(bay.Conflict):
            box.checkpoint("first")
        forks = box.fork(2, name="fork")
        [old] = box.fork(checkpoint="first")
        assert [fork.name for fork in forks] == ["fork-1", "fork-2"]
        assert [fork.files.read("f") for fork in (*forks, old)] == [b"two", b"two", b"one"]
        assert box.restore(first).checkpoint_id == first.id
        assert box.files.read("f") == b"one"
        assert box.run("cat f").stdout == "one"
        size = box.export_checkpoint(second, tmp_path / "kept")
        assert (tmp_path / "kept").stat().st_size == size
        made = old.import_checkpoint(tmp_path / "kept", name="imported")
        old.restore(made)
        assert old.files.read("f") == b"two"
        with pytest.raises(bay.CallerError):
            old.import_checkpoint(io.BytesIO((tmp_path / "kept").read_bytes()[:-9]))
        box.delete_checkpoint("first")
        assert [kept.id for kept in box.checkpoints()] == [second.id]
        with client.sandbox(
            from_checkpoint=second, checkpoint_policy=bay.CheckpointPolicy(keep_last=2)
        ) as new:
            assert new.files.read("f") == b"two"
            assert new.info.checkpoint_policy == bay.CheckpointPolicy(keep_last=2)
            assert new.update(checkpoint_policy=None).checkpoint_policy is None
        for fork in (*forks, old):
            fork.delete()


def test_cargos_are_made_moved_and_removed(client: bay.Client) -> None:
    cargo = client.cargos.create(size_limit_mb=64)
    one = client.sandboxes.create(cargo_id=cargo.id, wait=30)
    other = client.sandboxes.create(wait=30)
    one.files.write("f", "kept")
    assert client.cargos.get(cargo.id).sandbox_ids == (one.id,)
    with pytest.raises(bay.Conflict):
        client.cargos.move(cargo.id, other.id)
    one.delete()
    other.stop()
    assert client.cargos.move(cargo.id, other.id).sandbox_ids == (other.id,)
    assert other.files.read("f") == b"kept"
    with pytest.raises(bay.Conflict):
        client.cargos.delete(cargo.id)
    other.delete()
    assert client.cargos.update(cargo.id, size_limit_mb=128).size_limit_mb == 128
    for external in client.cargos.list():
        client.cargos.delete(external.id)
    assert list(client.cargos.list()) == []
