"""Transfers through the SDK: pieces, open files, progress, and connections that break in the middle."""

import io
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import canned
import fault_proxy
import httpx
import pytest
from real_bay import KEY

import bay

BIG = bytes(range(251)) * 5000


@pytest.fixture
def cut(proxy: fault_proxy.Proxy, box: bay.Box) -> Iterator[bay.Files]:
    """The files of `box`, over a server that breaks the first download of each off in its middle."""
    with bay.Client(f"{proxy.url}/cut", KEY) as client:
        yield client.sandboxes.get(box.id).files


class Told:
    """A `progress` that keeps what it is told."""

    def __init__(self, told: list[tuple[int, int | None]]) -> None:
        self.told = told

    def __call__(self, done: int, total: int | None) -> None:
        self.told.append((done, total))


# Pieces


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (None, None, b"0123456789"),
        (3, None, b"3456789"),
        (None, 4, b"0123"),
        (2, 3, b"234"),
        (8, 5, b"89"),
        (0, 0, b""),
        (10, 1, b""),
        (99, None, b""),
    ],
)
def test_a_part_of_a_file_is_read(
    box: bay.Box, offset: int | None, length: int | None, expected: bytes
) -> None:
    box.files.write("ten", b"0123456789")
    assert box.files.read("ten", offset, length) == expected


def test_nothing_is_before_the_front_of_a_file(box: bay.Box) -> None:
    with pytest.raises(bay.InvalidArgument):
        box.files.read("ten", -1)


def test_a_part_of_an_empty_file_is_empty(box: bay.Box) -> None:
    box.files.write("empty", b"")
    assert box.files.read("empty", 0, 10) == b""


# Mode and time


def test_mode_and_time_go_along_both_ways(box: bay.Box, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "up").chmod(0o750)
    os.utime(tmp_path / "up", (1_500_000_000.25, 1_500_000_000.25))
    box.files.upload(tmp_path / "up", "run.sh")
    there = box.files.stat("run.sh")
    assert (there.mode, there.mtime) == ("0750", 1_500_000_000.25)
    box.files.download("run.sh", tmp_path / "down")
    found = (tmp_path / "down").stat()
    assert (found.st_mode & 0o7777, found.st_mtime) == (0o750, 1_500_000_000.25)


def test_a_download_is_never_more_than_readable_for_others(box: bay.Box, tmp_path: Path) -> None:
    box.files.write("evil", b"x", mode=0o6777)
    box.files.download("evil", tmp_path / "down")
    assert (tmp_path / "down").stat().st_mode & 0o7777 == 0o755


def test_a_written_file_keeps_its_mode_unless_told(box: bay.Box) -> None:
    box.files.write("f", "1", mode="0600")
    box.files.write("f", "2")
    assert box.files.stat("f").mode == "0600"


# Connections that break


def test_a_download_goes_on_where_it_broke(
    cut: bay.Files, box: bay.Box, proxy: fault_proxy.Proxy, tmp_path: Path
) -> None:
    box.files.write("big", BIG)
    told: list[tuple[int, int | None]] = []
    assert cut.download("big", tmp_path / "big", progress=Told(told)) == len(BIG)
    assert (tmp_path / "big").read_bytes() == BIG
    assert told == sorted(told)
    assert told[-1] == (len(BIG), len(BIG))
    assert proxy.requests(f"GET /cut/v1/sandboxes/{box.id}/files/content") == 2


def test_a_part_of_a_file_goes_on_where_it_broke(cut: bay.Files, box: bay.Box) -> None:
    box.files.write("big", BIG)
    assert cut.read("big", 1000, 300_000) == BIG[1000:301_000]


def test_a_file_that_was_changed_meanwhile_is_read_from_its_front(
    cut: bay.Files, box: bay.Box, proxy: fault_proxy.Proxy, tmp_path: Path
) -> None:
    box.files.write("big", BIG)
    proxy.after_cut = lambda: box.files.write("big", b"new")
    assert cut.download("big", tmp_path / "big") == 3
    assert (tmp_path / "big").read_bytes() == b"new"


def test_a_file_that_was_emptied_meanwhile_is_empty(
    cut: bay.Files, box: bay.Box, proxy: fault_proxy.Proxy
) -> None:
    box.files.write("big", BIG)
    proxy.after_cut = lambda: box.files.write("big", b"")
    assert cut.read("big") == b""


def test_what_went_into_a_pipe_cannot_be_taken_back(
    cut: bay.Files, box: bay.Box, proxy: fault_proxy.Proxy
) -> None:
    box.files.write("big", BIG)
    proxy.after_cut = lambda: box.files.write("big", b"new")
    with pytest.raises(bay.Conflict, match="was changed during the read"):
        cut.download("big", io.BytesIO())


def test_a_download_that_breaks_for_good_leaves_the_old_file_and_nothing_else(
    proxy: fault_proxy.Proxy, box: bay.Box, tmp_path: Path
) -> None:
    box.files.write("big", BIG)
    (tmp_path / "local").write_bytes(b"old")
    with bay.Client(f"{proxy.url}/cut", KEY, retry_s=-1) as client:
        files = client.sandboxes.get(box.id).files
        with pytest.raises(bay.ConnectionFailed):
            files.download("big", tmp_path / "local")
    assert [path.name for path in tmp_path.iterdir()] == ["local"]
    assert (tmp_path / "local").read_bytes() == b"old"


def test_a_server_that_sends_another_place_than_was_asked_for_is_an_error() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if "content" not in request.url.path:
            return httpx.Response(200, json=canned.SANDBOX)
        return httpx.Response(206, content=b"xx", headers={"Content-Range": "bytes 7-8/9", "ETag": '"1"'})

    client = bay.Client("http://bay.test", "k", transport=httpx.MockTransport(answer))
    with client, pytest.raises(bay.BayError, match="byte 7 instead of byte 5"):
        client.sandboxes.get("box").files.read("f", 5)


def test_a_cut_archive_is_an_error_and_not_an_end(cut: bay.Files, box: bay.Box, tmp_path: Path) -> None:
    box.files.write("tree/f", BIG)
    with pytest.raises(bay.ConnectionFailed):
        cut.download_dir("tree", tmp_path / "tree")
    assert list((tmp_path / "tree").iterdir()) == []


# Uploads that fail


class Torn(io.BytesIO):
    """A source that cannot be read to its end."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell():
            raise OSError(5, "Input/output error")
        return super().read(1000)


def test_an_upload_that_is_cut_leaves_the_old_file(box: bay.Box) -> None:
    box.files.write("f", b"old")
    with pytest.raises(OSError, match="Input/output"):
        box.files.upload(Torn(BIG), "f")
    assert box.files.read("f") == b"old"


@pytest.fixture
def full(proxy: fault_proxy.Proxy, box: bay.Box) -> Iterator[bay.Files]:
    with bay.Client(f"{proxy.url}/full", KEY) as client:
        yield client.sandboxes.get(box.id).files


def test_a_full_disk_is_storage_full_and_leaves_the_old_file(full: bay.Files, box: bay.Box) -> None:
    box.files.write("f", b"old")
    with pytest.raises(bay.StorageFull):
        full.upload(io.BytesIO(BIG), "f")
    with pytest.raises(bay.StorageFull), full.open("f", "wb") as file:
        shutil.copyfileobj(io.BytesIO(BIG * 20), file)
    assert box.files.read("f") == b"old"


# Progress


def test_progress_is_told_of_an_upload(box: bay.Box, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"z" * 700_000)
    told: list[tuple[int, int | None]] = []
    box.files.upload(tmp_path / "up", "f", progress=Told(told))
    assert told == [(262_144, 700_000), (524_288, 700_000), (700_000, 700_000)]
    box.files.upload(io.BytesIO(b"abc"), "f", progress=Told(told))
    assert told[-1] == (3, None)


def test_progress_is_told_of_directories(box: bay.Box, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "f").write_bytes(b"z" * 300_000)
    (tmp_path / "a" / "g").write_bytes(b"z")
    told: list[tuple[int, int | None]] = []
    box.files.upload(tmp_path / "a", "a", progress=Told(told))
    assert told[-1] == (300_001, 300_001)
    box.files.download_dir("a", tmp_path / "b", progress=Told(told))
    assert told[-1] == (300_001, None)


# Open files


def test_an_open_file_is_read_here_and_there(box: bay.Box, proxy: fault_proxy.Proxy) -> None:
    box.files.write("big", BIG)
    with bay.Client(proxy.url, KEY) as client, client.sandboxes.get(box.id).files.open("big") as file:
        assert (file.read(10), file.tell()) == (BIG[:10], 10)
        assert file.seek(5, os.SEEK_CUR) == 15
        assert file.read(5) == BIG[15:20]
        before = proxy.requests("files/content")
        assert file.seek(-7, os.SEEK_END) == len(BIG) - 7
        assert (file.read(), file.read(), file.read(1)) == (BIG[-7:], b"", b"")
        assert proxy.requests("files/content") == before + 1
        assert file.seek(0) == 0
        assert file.read() == BIG
        file.seek(len(BIG) + 10)
        assert file.read() == b""
        with pytest.raises(bay.InvalidArgument):
            file.seek(-1)
    with pytest.raises(ValueError, match="closed"):
        file.read()


def test_an_open_file_has_lines(box: bay.Box) -> None:
    box.files.write("lines", "one\n" + "x" * 300_000 + "\nlast")
    with box.files.open("lines") as file:
        assert [len(line) for line in file] == [4, 300_001, 4]
    with box.files.open("lines") as file:
        assert (file.readline(), file.tell()) == (b"one\n", 4)


def test_libraries_take_an_open_file_for_one(box: bay.Box) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inside.txt", "hello")
    box.files.write("a.zip", packed.getvalue())
    with box.files.open("a.zip") as file, zipfile.ZipFile(file) as archive:  # type: ignore[arg-type] # what it needs is there
        assert archive.read("inside.txt") == b"hello"
    with box.files.open("b.zip", "wb") as out, zipfile.ZipFile(out, "w") as archive:  # type: ignore[arg-type]
        archive.writestr("x", "y")
    assert zipfile.ZipFile(io.BytesIO(box.files.read("b.zip"))).namelist() == ["x"]


def test_a_missing_file_cannot_be_opened(box: bay.Box) -> None:
    with pytest.raises(bay.FileMissing), box.files.open("nope"):
        pytest.fail("the block must not be entered")


def test_an_open_file_goes_on_where_a_connection_broke(cut: bay.Files, box: bay.Box) -> None:
    box.files.write("big", BIG)
    with cut.open("big") as file:
        assert file.read() == BIG


def test_an_open_file_that_was_changed_is_a_conflict(box: bay.Box) -> None:
    box.files.write("big", BIG)
    with box.files.open("big") as file:
        assert file.read(1) == BIG[:1]
        box.files.write("big", BIG[::-1])
        file.seek(1_000_000)
        with pytest.raises(bay.Conflict, match="changed"):
            file.read(1)


def test_what_is_written_takes_the_place_of_the_file_at_the_end(box: bay.Box) -> None:
    box.files.write("f", b"old")
    with box.files.open("f", "wb") as file:
        for i in range(0, len(BIG), 100_000):
            assert file.write(BIG[i : i + 100_000]) == len(BIG[i : i + 100_000])
        assert (file.tell(), file.info) == (len(BIG), None)
        assert box.files.read("f") == b"old"
    assert box.files.read("f") == BIG
    assert file.info
    assert file.info.size == len(BIG)
    with pytest.raises(ValueError, match="closed"):
        file.write(b"more")


def test_what_is_written_before_an_exception_is_forgotten(box: bay.Box) -> None:
    box.files.write("f", b"old")
    with pytest.raises(OSError, match="Input/output"), box.files.open("f", "wb") as file:
        shutil.copyfileobj(Torn(BIG), file, 1000)
    assert box.files.read("f") == b"old"


def test_nothing_written_is_an_empty_file(box: bay.Box) -> None:
    with box.files.open("empty", "wb"):
        pass
    assert box.files.read("empty") == b""


def test_a_file_that_is_not_open_takes_nothing(box: bay.Box) -> None:
    file = box.files.open("f", "wb")
    with pytest.raises(bay.BayError, match="context manager"):
        file.write(b"x" * 300_000)
    with pytest.raises(bay.InvalidArgument, match="'rb' or 'wb'"):
        box.files.open("f", "r")  # type: ignore[call-overload]  # pyright: ignore


# Directories


def test_a_directory_comes_back_as_it_was(box: bay.Box, tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "empty").mkdir(parents=True)
    (source / "bin").mkdir()
    (source / "bin" / "tool").write_bytes(b"x" * 1000)
    (source / "bin" / "tool").chmod(0o755)
    (source / "bin" / "same").hardlink_to(source / "bin" / "tool")
    (source / ("long" * 50)).write_text("name")
    (source / "link").symlink_to("bin/tool")
    (source / "中文").write_text("ä")
    box.files.upload_dir(source, "deep/tree")
    back = tmp_path / "back"
    assert box.files.download_dir("deep/tree", back) == 1000 + 4 + 2
    names = sorted(str(path.relative_to(back)) for path in back.rglob("*"))
    assert names == sorted(str(path.relative_to(source)) for path in source.rglob("*"))
    assert (back / "link").readlink() == Path("bin/tool")
    assert (back / "bin" / "tool").stat().st_mode & 0o777 == 0o755
    assert (back / "bin" / "tool").stat().st_mtime == (source / "bin" / "tool").stat().st_mtime
    assert (back / "bin" / "same").samefile(back / "bin" / "tool")


def test_what_leads_out_of_a_directory_is_sent_as_what_it_leads_to(box: bay.Box, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("outside")
    source = tmp_path / "src"
    source.mkdir()
    (source / "link").symlink_to(tmp_path / "outside")
    (source / "dangling").symlink_to("/nowhere")
    os.mkfifo(source / "fifo")
    left: list[str] = []
    box.files.upload_dir(source, "tree", left_out=left.append)
    assert box.files.read("tree/link") == b"outside"
    assert left == ["dangling", "fifo"]


def test_a_missing_directory_is_missing_on_both_sides(box: bay.Box, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        box.files.upload_dir(tmp_path / "nope", "tree")
    with pytest.raises(bay.FileMissing):
        box.files.download_dir("nope", tmp_path / "back")
    assert list(tmp_path.iterdir()) == []
