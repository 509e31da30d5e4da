"""Searching a tree: what is found, what is left out, and what a hostile expression or file cannot do."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ship_harness import PATIENCE_S, Ship, eventually

from ship.tools.query import BadQuery, Query

pytestmark = pytest.mark.host

EVIL = r"(a+)+$"


def search(ship: Ship, **asked: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The matches, and what was looked at."""
    answer = ask(ship, **asked)
    assert answer.status_code == 200, answer.text
    lines = [json.loads(line) for line in answer.text.splitlines()]
    return lines[:-1], lines[-1]


def ask(ship: Ship, **asked: Any) -> httpx.Response:
    return ship.http.get("/fs/search", params={name: _text(value) for name, value in asked.items()})


def names(ship: Ship, **asked: Any) -> list[str]:
    return [os.path.relpath(match["path"], ship.workspace) for match in search(ship, **asked)[0]]


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def write(ship: Ship, **files: str | bytes) -> None:
    for name, content in files.items():
        path = ship.workspace / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def test_a_match_says_where_it_is(ship: Ship) -> None:
    write(ship, d__a="one\ntwo needle and needle\r\n", b="ünï needle", c="no")
    found, counts = search(ship, query="needle")
    assert found == [
        {"path": f"{ship.workspace}/b", "line": 1, "column": 5, "text": "ünï needle"},
        {"path": f"{ship.workspace}/d/a", "line": 2, "column": 5, "text": "two needle and needle"},
    ]
    assert counts == {"files_searched": 3, "files_skipped": 0, "truncated": False}


def test_a_file_can_be_searched_and_invalid_utf8_is_replaced(ship: Ship) -> None:
    write(ship, bad=b"x\n\xff needle\n")
    found, _ = search(ship, path="bad", query="needle")
    assert [(match["path"], match["line"], match["text"]) for match in found] == [
        (f"{ship.workspace}/bad", 2, "\ufffd needle")
    ]


def test_what_git_ignores_is_left_out_unless_asked_for(ship: Ship) -> None:
    write(ship, _dot_git__x="n", _dot_gitignore="*.log\n!keep.log\n/out/\n", a_dot_log="n", keep_dot_log="n")
    write(ship, out__x="n", src__out__x="n", src___dot_gitignore="local\n", src__local="n", local="n")
    assert names(ship, query="n") == ["keep.log", "local", "src/out/x"]
    assert names(ship, path="src", query="n") == ["src/out/x"]
    assert "a.log" in names(ship, query="n", gitignore=False)
    assert ".git/x" in names(ship, query="n", gitignore=False, hidden=True)
    assert ".git/x" not in names(ship, query="n", hidden=True)


def test_the_rules_of_the_repository_around_hold_below_it(ship: Ship) -> None:
    write(ship, _dot_git__x="", _dot_gitignore="/a/b/skip\n", a__b__skip="n", a__b__keep="n")
    assert names(ship, path="a/b", query="n") == ["a/b/keep"]


def test_names_are_found_by_glob(ship: Ship) -> None:
    write(ship, a_dot_py="", d__b_dot_py="", d__c_dot_txt="")
    assert names(ship, glob="*.py") == ["a.py", "d/b.py"]
    assert names(ship, glob="d/*") == ["d/b.py", "d/c.txt"]
    assert search(ship, glob="d/**")[0][0] == {
        "path": f"{ship.workspace}/d/b.py", "line": None, "column": None, "text": None,
    }  # fmt: skip


def test_links_fifos_and_binary_files_are_not_read(ship: Ship) -> None:
    outside = ship.workspace.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_text("needle")
    (ship.workspace / "link").symlink_to(outside)
    (ship.workspace / "file").symlink_to(outside / "secret")
    os.mkfifo(ship.workspace / "fifo")
    write(ship, binary=b"\0needle", plain="needle")
    found, counts = search(ship, query="needle")
    assert [match["path"] for match in found] == [f"{ship.workspace}/plain"]
    assert counts["files_skipped"] == 1
    for path in ("link", "file", "../outside"):
        assert ask(ship, path=path, query="needle").status_code == 403


def test_the_limit_and_a_long_line_are_cut(ship: Ship) -> None:
    write(ship, a="n\n" * 30, b="x" * 9000 + "needle" + "y" * 9000)
    found, counts = search(ship, query="n", limit=10)
    assert len(found) == 10
    assert counts["truncated"] is True
    (match,), _ = search(ship, query="needle")
    assert match["column"] == 9001
    assert "needle" in match["text"]
    assert len(match["text"]) == 1024


def test_a_file_larger_than_memory_may_be_is_searched(ship: Ship) -> None:
    with open(ship.workspace / "large", "wb") as file:
        file.write(b"line\n" * 1_500_000 + b"needle\n" + b"z" * 9_000_000 + b"needle")
    found, _ = search(ship, query="needle")
    assert [(match["line"], match["column"]) for match in found] == [(1_500_001, 1), (1_500_002, 9_000_001)]


def test_an_expression_that_never_comes_back_hangs_nobody(ship: Ship) -> None:
    write(ship, evil="a" * 40 + "b")
    assert not _tools(ship)
    with ship.connect() as raw:
        query = f"GET /fs/search?regex=true&query={EVIL.replace('+', '%2B')} HTTP/1.1\r\n"
        raw.sendall(f"{query}Host: x\r\nAuthorization: Bearer a-token-of-the-tests\r\n\r\n".encode())
        assert eventually(lambda: bool(_tools(ship)))
        started = time.monotonic()
        write(ship, other="x")
        assert names(ship, query="x") == ["other"]
        assert time.monotonic() - started < PATIENCE_S / 2
    assert eventually(lambda: not _tools(ship)), "it goes when its caller does"


@pytest.mark.parametrize(
    ("field", "value"), [("query", "("), ("query", "a\nb"), ("glob", "[a"), ("limit", "0")]
)
def test_what_cannot_be_looked_for_is_refused(ship: Ship, field: str, value: str) -> None:
    asked = {"query": "x", "regex": True} | {field: value}
    answer = ask(ship, **asked)
    assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (400, field)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        ["a", "a.c", "a+b", "[ab]c", "^a", "c$", r"\w+", "a|b", "(ab)+", r"\s", "[^a]b", "b*", "é", "a{2}b"]
    ),
    st.text(alphabet="abc\n\r é", max_size=40),
    st.booleans(),
)
def test_a_block_is_searched_as_its_lines_would_be(expression: str, text: str, ignore_case: bool) -> None:
    query = Query(expression, regex=True, ignore_case=ignore_case)
    block = text.encode()
    whole = text + "\n" if text.endswith("\r") else text
    lines = whole.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
    flags = re.IGNORECASE if ignore_case else 0
    single = [number for number, line in enumerate(lines) if re.search(expression, line, flags)]
    assert [line.number for line in query.lines(block)] == single
    assert query.may_match(block) or not single


def test_an_expression_of_any_kind_is_taken_or_refused() -> None:
    for expression in ("(", "[", "a{1000000000000}", "(?P<x", "\\"):
        with pytest.raises(BadQuery):
            Query(expression, regex=True, ignore_case=False)


def _tools(ship: Ship) -> list[int]:
    """Living processes of search that belong to this Ship."""
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _is_tool(pid, ship.pid)]


def _is_tool(pid: str, parent: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        return (
            "ship.tools.search" in command
            and f"\nPPid:\t{parent}\n" in Path(f"/proc/{pid}/status").read_text()
        )
    except OSError:
        return False
