"""Files through the SDK."""

import io
from pathlib import Path

import pytest

import bay


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 4096, b"\r\n--boundary\r\n"])
def test_what_is_written_is_read_back(box: bay.Box, data: bytes) -> None:
    assert box.files.write("dir/file.bin", data) == len(data)
    assert box.files.read("dir/file.bin") == data


def test_text_is_utf_8(box: bay.Box) -> None:
    box.files.write("ä.txt", "größe\n")
    assert box.files.read_text("ä.txt") == "größe\n"
    with pytest.raises(UnicodeDecodeError):
        box.files.read_text("ä.txt", encoding="ascii")


@pytest.mark.parametrize(
    "name", ["中文.txt", "a b.txt", 'qu"ote.txt', "per%cent&amp=.txt", "semi;colon.txt", "-dash"]
)
def test_any_file_name_works(box: bay.Box, tmp_path: Path, name: str) -> None:
    box.files.write(name, b"data")
    assert name in [entry.name for entry in box.files.list()]
    box.files.download(name, tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"data"
    box.files.delete(name)


def test_a_path_from_a_listing_can_be_used_as_it_is(box: bay.Box) -> None:
    box.files.write("a/b.txt", b"1")
    [entry] = box.files.list("a")
    assert entry.path == f"{home(box)}/a/b.txt"
    assert box.files.read(entry.path) == b"1"
    assert [entry.name for entry in box.files.list(home(box))] == ["a"]


def home(box: bay.Box) -> str:
    """The workspace, which a sandbox of the `fake` driver has under a path of this host."""
    return box.files.stat(".").path


@pytest.mark.parametrize("spelling", ["./x", "././x", ".//x", "{home}/x", "{home}/./x"])
def test_one_file_has_many_spellings(box: bay.Box, spelling: str) -> None:
    path = spelling.format(home=home(box))
    box.files.write("x", b"same")
    assert box.files.read(path) == b"same"
    box.files.write(path, b"new")
    assert box.files.read("x") == b"new"


def test_an_absolute_path_works(box: bay.Box) -> None:
    box.files.write(f"{home(box)}/etc/motd", b"hello")
    assert box.files.read("etc/../etc/./motd") == b"hello"
    assert [entry.path for entry in box.files.list(f"{home(box)}/etc")] == [f"{home(box)}/etc/motd"]


@pytest.mark.parametrize("call", ["read", "list", "delete"])
def test_a_missing_file_is_file_missing(box: bay.Box, call: str) -> None:
    with pytest.raises(bay.FileMissing):
        getattr(box.files, call)("nope")


def test_a_file_goes_up_and_down(box: bay.Box, tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(b"z" * 700_000)
    assert box.files.upload(tmp_path / "up", "remote") == 700_000
    assert box.files.download("remote", tmp_path / "down") == 700_000
    assert (tmp_path / "down").read_bytes() == b"z" * 700_000


def test_open_files_go_up_and_down(box: bay.Box) -> None:
    box.files.upload(io.BytesIO(b"stream"), "remote")
    sink = io.BytesIO()
    box.files.download("remote", sink)
    assert sink.getvalue() == b"stream"


def test_directories_go_up_and_down(box: bay.Box, tmp_path: Path) -> None:
    (tmp_path / "src" / "deep").mkdir(parents=True)
    (tmp_path / "src" / "a").write_bytes(b"1")
    (tmp_path / "src" / "deep" / "b").write_bytes(b"22")
    assert box.files.upload(tmp_path / "src", "tree") == 3
    assert box.files.download_dir("tree", tmp_path / "back") == 3
    assert (tmp_path / "back" / "deep" / "b").read_bytes() == b"22"


def test_a_download_of_what_is_not_there_makes_no_file(box: bay.Box, tmp_path: Path) -> None:
    with pytest.raises(bay.FileMissing):
        box.files.download("nope", tmp_path / "local")
    assert list(tmp_path.iterdir()) == []


def test_a_download_to_a_device_does_not_replace_it(box: bay.Box) -> None:
    box.files.write("remote", b"gone")
    box.files.download("remote", "/dev/null")
    assert not Path("/dev/null").is_file()


def test_an_upload_of_what_is_not_there_is_the_callers_own_error(box: bay.Box, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        box.files.upload(tmp_path / "nope", "remote")
