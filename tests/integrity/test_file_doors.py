"""Every byte of files and archives, both ways, and of parts of files."""

from pathlib import Path

import pytest
from counting import PERFECT, SIZES, judged, lines, pieces_of, printing, sha256_of_lines

import bay

pytestmark = [pytest.mark.host, pytest.mark.long, pytest.mark.timeout(900)]
PART = 999_983


@pytest.mark.parametrize("size", SIZES)
def test_uploads_and_downloads(box: bay.Box, place: Path, size: int) -> None:
    with lines(size) as stream:
        assert box.files.upload(stream, "up") == size
    assert box.run("sha256sum up").stdout.split()[0] == sha256_of_lines(size)
    assert box.files.download("up", place / "down") == size
    with (place / "down").open("rb") as down:
        assert judged(size, pieces_of(down)) == PERFECT
    box.files.delete("up")


@pytest.mark.parametrize("size", SIZES)
def test_files_written_and_read_in_parts(box: bay.Box, size: int) -> None:
    with lines(size) as stream, box.files.open("parts", "wb") as file:
        for piece in pieces_of(stream):
            file.write(piece)
    with box.files.open("parts") as file:
        assert judged(size, iter(lambda: file.read(PART), b"")) == PERFECT
    box.files.delete("parts")


@pytest.mark.parametrize("size", SIZES)
def test_archives_both_ways(box: bay.Box, place: Path, size: int) -> None:
    (place / "up/below").mkdir(parents=True)
    with (place / "up/below/file").open("wb") as out, lines(size) as stream:
        for piece in pieces_of(stream):
            out.write(piece)
    box.files.upload_dir(place / "up", "tree")
    assert box.run("sha256sum tree/below/file").stdout.split()[0] == sha256_of_lines(size)
    box.files.download_dir("tree", place / "down")
    with (place / "down/below/file").open("rb") as down:
        assert judged(size, pieces_of(down)) == PERFECT
    box.files.delete("tree")


@pytest.mark.parametrize("size", SIZES)
def test_what_a_command_wrote_is_what_is_read(box: bay.Box, place: Path, size: int) -> None:
    box.run(f"{printing(size)} > made", check=True, timeout_s=300)
    box.files.download("made", place / "made")
    with (place / "made").open("rb") as made:
        assert judged(size, pieces_of(made)) == PERFECT
    box.files.delete("made")
