"""Builds by the TypeScript SDK: it sends the files that the Python SDK knows, and leaves in good order."""

import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from bay.builds.ignored import Ignored
from bay.client._build_body import Recipe
from bay.client._context import context_of, read_ignored
from bay.errors import InvalidArgument

pytestmark = pytest.mark.clients

PROGRAMS = Path(__file__).parent / "programs"
PATHS = (
    "a", "a.txt", "b/a.txt", "b/c/a.txt", "b/c", "c.go", "b/c.go", ".git", ".git/config", "x]y", "a-c", "bäc", "a*b",
    "b\\c", "node_modules/p/index.js", "docs/README.md", "docs/other.md", "[x", "{a}", "a+b", "(a|b)", "$", "b/.env",
)  # fmt: skip
PATTERNS = (
    "", "# a", "a", "/a", "./a/", "a/../b", "*", "*.txt", "*/a.txt", "**/a.txt", "b/**", "**", "b", "?", "b?c", "b/?",
    "[ab]", "[^a]", "[a-c].txt", "[a\\-c]", "x[]]y", "a\\*b", "a\\-c", "b[\\\\]c", "**/*.go", "*\n!b", "docs\n!docs/README.md",
    "*\n!**/*.md", "**\n!docs/**\ndocs/other.md", "[", "\\", "!", "[x", "{a}", "a+b", "(a|b)", "$", ".git", "**/.env",
    "\ufeffa.txt", "  a  ", "!a\na", "a\n!a/b", "b**", "a[b", "[^]", "[z-a]", "node_modules", "**/p/**/index.js",
)  # fmt: skip


def node(program: str, *arguments: str | Path, stdin: str = "") -> Any:
    done = subprocess.run(
        ["node", PROGRAMS / program, *arguments],
        input=stdin, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def python_covers(text: str) -> list[bool] | None:
    try:
        ignored = Ignored.read(text)
    except InvalidArgument:
        return None
    return [ignored.covers(path) for path in PATHS]


def test_a_dockerignore_leaves_out_what_the_python_sdk_leaves_out() -> None:
    found = node("typescript_ignored.mjs", stdin=json.dumps([[text, PATHS] for text in PATTERNS]))
    assert dict(zip(PATTERNS, found, strict=True)) == {text: python_covers(text) for text in PATTERNS}


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """Names and contents of every kind that a tar writes in a way of its own."""
    root = tmp_path / "context"
    (root / "src" / ("deep" * 30)).mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "Dockerfile").write_text("FROM debian:13\nCOPY . /app\n")
    (root / ".dockerignore").write_text("*.log\nsecret\n!src/kept.log\n")
    (root / "src" / "main.py").write_text("print(1)\n")
    (root / "src" / "main.py").chmod(0o755)
    (root / "src" / ("deep" * 30) / "grün.txt").write_text("grün")
    (root / "src" / "kept.log").write_bytes(b"x" * 512)
    (root / "noise.log").write_text("left out")
    (root / "secret").mkdir()
    (root / "secret" / "key").write_text("left out")
    (root / "nothing").write_bytes(b"")
    (root / "large").write_bytes(os.urandom(300_000))
    (root / "link").symlink_to("src/main.py")
    (root / "far").symlink_to("x" * 150)
    os.mkfifo(root / "pipe")
    return root


def test_a_build_sends_the_context_and_follows_the_log_to_the_end(context: Path, tmp_path: Path) -> None:
    done = node("typescript_build.mjs", context, tmp_path / "tar", "succeed")
    wanted = context_of(context, read_ignored(context / ".dockerignore"))
    with tarfile.open(tmp_path / "tar") as archive:
        members = {member.name: member for member in archive.getmembers()}
        assert set(members) == {entry.path for entry in wanted}
        for name, member in members.items():
            path = context / name
            assert member.mode == path.lstat().st_mode & 0o777
            assert (member.issym(), member.isdir()) == (
                path.is_symlink(),
                path.is_dir() and not path.is_symlink(),
            )
            if member.issym():
                assert member.linkname == os.readlink(path)
            elif member.isfile():
                file = archive.extractfile(member)
                assert file is not None
                assert file.read() == path.read_bytes()
                assert member.mtime == int(path.stat().st_mtime)
    body = {
        "name": "app", "tag": "1", "dockerfile": "FROM debian:13\nCOPY . /app\n", "context": True, "step_timeout": 5,
        "args": {"A": "b"}, "secrets": [{"name": "TOKEN"}],
    }  # fmt: skip
    assert done["requests"] == [
        ["POST", "/v1/templates", body, None],
        ["PUT", "/v1/templates/tpl-1/context", None, None],
        ["GET", "/v1/templates/tpl-1/log", None, "0"],
        ["GET", "/v1/templates/tpl-1", None, None],
        ["GET", "/v1/templates/tpl-1/log", None, "18"],
        ["GET", "/v1/templates/tpl-1", None, None],
        ["GET", "/v1/templates/tpl-1", None, None],
    ]
    assert (done["log"], done["ended"]) == ("STEP 1\nSTEP 2: grün\n", {"state": "ready"})


def test_a_caller_who_leaves_cancels_the_build(context: Path, tmp_path: Path) -> None:
    done = node("typescript_build.mjs", context, tmp_path / "tar", "leave")
    assert done["ended"] == {"name": "RangeError", "message": "enough"}
    assert done["requests"][-1][:2] == ["DELETE", "/v1/templates/tpl-1"]


def test_a_log_that_throws_is_told_and_cancels_the_build(context: Path, tmp_path: Path) -> None:
    done = node("typescript_build.mjs", context, tmp_path / "tar", "throw")
    assert (done["ended"]["message"], done["ended"]["code"]) == ("of the log", "connection_failed")
    assert done["log"] == "STEP 1\nSTEP 2: gr"
    assert done["requests"][-1][:2] == ["DELETE", "/v1/templates/tpl-1"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "there is no file"),
        ("file", "there is no file"),
        ("latin", "latin/Dockerfile is no UTF-8 text"),
        ("patterns", "patterns/.dockerignore is no UTF-8 text"),
    ],
)
def test_a_context_that_cannot_be_built_is_the_caller_s(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").write_text("FROM debian:13\n")
    for directory in ("latin", "patterns"):
        (tmp_path / directory).mkdir()
    (tmp_path / "latin" / "Dockerfile").write_bytes("FROM grün\n".encode("latin-1"))
    (tmp_path / "patterns" / "Dockerfile").write_text("FROM debian:13\n")
    (tmp_path / "patterns" / ".dockerignore").write_bytes("grün\n".encode("latin-1"))
    with pytest.raises(InvalidArgument, match=words):
        Recipe.of(tmp_path / name, {})
    done = node("typescript_build.mjs", tmp_path / name, tmp_path / "tar", "succeed")
    assert (done["ended"]["name"], done["requests"]) == ("InvalidArgument", [])
    assert words in done["ended"]["message"]


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_a_context_that_is_no_directory_is_the_caller_s(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("FROM debian:13\n")
    done = node("typescript_build.mjs", tmp_path / name, tmp_path / "tar", "steps")
    assert (done["ended"]["name"], done["requests"]) == ("InvalidArgument", [])
    assert "is no directory" in done["ended"]["message"]


def test_a_build_that_fails_is_told_and_stays(context: Path, tmp_path: Path) -> None:
    done = node("typescript_build.mjs", context, tmp_path / "tar", "fail")
    assert done["ended"] == {
        "name": "BuildFailed", "message": "line 2: false ended with 1", "code": "build_failed",
    }  # fmt: skip
    assert [method for method, *_ in done["requests"] if method == "DELETE"] == []
