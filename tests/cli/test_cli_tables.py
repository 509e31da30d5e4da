"""Tables: aligned in every script, folded to the terminal, and one line a row in a pipe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bay.cli.tables import lay_out, width_of

BIN = Path(sys.executable).parent / "bay"
ID = "sandbox-0123456789abcdef01234567"


@pytest.mark.pure
def test_columns_are_aligned_in_every_script() -> None:
    names = ["web", "日本語", "عربى", "кириллица", "é", "e\N{COMBINING ACUTE ACCENT}", "👩‍🚀"]
    lines = list(lay_out([["NAME", "STATE"], *([name, "ready"] for name in names)], None))
    assert len({width_of(line[: line.index("ready")]) for line in lines[1:]}) == 1


@pytest.mark.pure
@pytest.mark.parametrize("room", [60, 72, 80, 100, 133])
def test_a_table_is_no_wider_than_the_terminal_and_loses_nothing(room: int) -> None:
    rows = [
        ["ID", "NAME", "COMMAND"],
        [ID, "web", "python3 -m http.server --directory /srv/a/very/long/path/of/a/user 8000"],
        [ID, "日本語" * 9, "x" * 150],
    ]
    lines = list(lay_out(rows, room))
    assert max(map(width_of, lines)) <= room
    assert sum(line.startswith(ID) for line in lines) == 2
    gapless = "".join("".join(lines).split())
    for cell in (rows[1][2], rows[2][1], rows[2][2]):
        assert all(gapless.count(letter) >= cell.count(letter) for letter in set(cell) - {" "})


@pytest.mark.pure
def test_words_stay_whole_where_there_is_room() -> None:
    rows = [["CHECK", "FIX"], ["runc-cves", "upgrade runc to 1.2.8 or newer"]]
    assert list(lay_out(rows, 25)) == [
        "CHECK      FIX",
        "runc-cves  upgrade runc",
        "           to 1.2.8 or",
        "           newer",
    ]


@pytest.mark.pure
def test_a_table_that_cannot_be_that_narrow_ends() -> None:
    assert list(lay_out([["A", "B"], ["日本", "語"]], 1))
    assert len(list(lay_out([[ID], [ID]], 5))) == 2
    assert list(lay_out([["", ""]], 1)) == [""]


def test_only_a_terminal_has_its_tables_folded(tmp_path: Path) -> None:
    url = "http://" + "long-" * 30 + "host"
    (tmp_path / "bay.toml").write_text(f'[contexts.one]\nurl = "{url}"\n')
    environment = {"BAY_CONFIG": str(tmp_path / "bay.toml"), "PATH": "/usr/bin:/bin", "COLUMNS": "40"}
    command = [str(BIN), "context", "ls"]
    here, there = os.openpty()
    try:
        done = subprocess.run(command, stdout=there, timeout=60, check=False, env=environment)
        os.close(there)
        shown = os.read(here, 65536).decode().split("\r\n")
    finally:
        os.close(here)
    assert (done.returncode, max(map(len, shown))) == (0, 40)
    piped = subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=True, env=environment)
    assert url in piped.stdout.decode()
