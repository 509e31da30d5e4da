"""Our reading of .gitignore files beside git's own."""

import os
import random
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ship.tools.gitignore import GitIgnore, Layer, is_ignored
from ship.tools.globs import BadGlob, compile_glob

pytestmark = pytest.mark.host

_NAMES = ("a", "b", "ab", "foo", "bar", "a.c", "b.c", "build", "#x", "!y", "a b", "x ", "[z]")
_PIECES = (
    *("a", "b", "ab", "foo", "bar", ".c", "build", "*", "**", "?", "/", "/", "[ab]", "[!a]", "[^b]", "[a-c]"),
    *("[[:alpha:]]", "[]a]", "[a", "\\", "\\*", "\\[", "#", "!", " ", "[b-a]", "[a-]", "z"),
)
_SEED = int(os.environ.get("SEED", "5"))


def test_it_says_what_git_says_of_generated_trees(tmp_path: Path) -> None:
    chance = random.Random(_SEED)  # noqa: S311 - the same trees each time
    wrong: list[str] = []
    for number in range(40):
        top = tmp_path / str(number)
        paths = _grow(top, chance)
        subprocess.run(["git", "init", "-q", str(top)], check=True, capture_output=True)
        theirs = _as_git_says(top, paths)
        ours = {path for path in paths if _as_we_say(top, path)}
        wrong += [f"{path} in {_ignore_files(top)}" for path in theirs ^ ours]
    assert wrong == []


@pytest.mark.parametrize(
    ("rules", "ignored", "kept"),
    [
        ("*.log\n!keep.log\n", ["a.log", "d/a.log"], ["keep.log", "a.txt"]),
        ("/only\n", ["only"], ["d/only"]),
        ("d/\n", ["d/"], ["d"]),
        ("a/**/z\n", ["a/z", "a/b/c/z"], ["z", "b/a/z"]),
        ("\\#x\r\n\\!y \n", ["#x", "!y"], ["x"]),
        ("[a\n\\\n[]\n", [], ["a", "[a", "\\"]),
        ("\ufeffx\n", ["x"], []),
    ],
)
def test_each_rule_of_the_manual(rules: str, ignored: list[str], kept: list[str]) -> None:
    read = GitIgnore(rules.encode())
    for path in (*ignored, *kept):
        bare = path.rstrip("/")
        assert bool(read.ignores(bare, os.path.basename(bare), path.endswith("/"))) == (path in ignored), path


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.text(alphabet="ab/*[]!-\\. ", min_size=1, max_size=12))
def test_no_rules_and_no_glob_make_it_fail(content: bytes, path: str) -> None:
    assert GitIgnore(content).ignores(path, os.path.basename(path), False) in (True, False, None)
    assert GitIgnore(path.encode()).ignores("a/b", "b", True) in (True, False, None)
    with suppress(BadGlob):
        assert isinstance(compile_glob(path), re.Pattern)


def _grow(top: Path, chance: random.Random) -> list[str]:
    top.mkdir()
    paths: list[str] = []
    for _ in range(25):
        parts = [chance.choice(_NAMES) for _ in range(chance.randint(1, 4))]
        while any((top / "/".join(parts[:count])).is_file() for count in range(1, len(parts) + 1)):
            parts = [chance.choice(_NAMES) for _ in range(chance.randint(1, 4))]
        target = top.joinpath(*parts)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
        paths += ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    directories = [top, *(path for path in top.rglob("*") if path.is_dir())]
    for directory in [*chance.sample(directories, min(len(directories), 3)), top]:
        lines = (
            "".join(chance.choice(_PIECES) for _ in range(chance.randint(1, 4)))
            for _ in range(chance.randint(1, 5))
        )
        (directory / ".gitignore").write_text("\n".join(lines))
    return sorted(set(paths))


def _as_git_says(top: Path, paths: list[str]) -> set[str]:
    command = ["git", "-C", str(top), "-c", "core.excludesFile=", "check-ignore", "--stdin", "-z"]
    given = "\0".join(paths).encode()
    done = subprocess.run(command, input=given, capture_output=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return {os.fsdecode(path) for path in done.stdout.split(b"\0") if path}


def _as_we_say(top: Path, path: str) -> bool:
    """As a walk from the top finds it: what is in an ignored directory is never looked at."""
    layers: tuple[Layer, ...] = ()
    parts = path.split("/")
    for count in range(len(parts)):
        directory = "/".join(parts[:count])
        rules = top / directory / ".gitignore"
        if rules.is_file():
            layers += (Layer(GitIgnore(rules.read_bytes()), "", len(directory) + 1 if directory else 0),)
        here = "/".join(parts[: count + 1])
        if is_ignored(layers, here, parts[count], (top / here).is_dir()):
            return True
    return False


def _ignore_files(top: Path) -> str:
    return str({str(path.relative_to(top)): path.read_text() for path in top.rglob(".gitignore")})
