"""`.dockerignore` and the sources of copies; the tables are Docker's documentation and its own tests."""

import re

import pytest

from bay.builds import globs
from bay.builds.context import ContextEntry, below, placements
from bay.builds.ignored import Ignored
from bay.builds.steps import Copy
from bay.errors import InvalidArgument

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("patterns", "path", "is_covered"),
    [
        ("*/temp*", "somedir/temporary.txt", True),
        ("*/temp*", "somedir/temp", True),
        ("*/temp*", "temp", False),
        ("*/*/temp*", "somedir/subdir/temporary.txt", True),
        ("*/*/temp*", "somedir/temporary.txt", False),
        ("temp?", "tempa", True),
        ("temp?", "temp", False),
        ("**/*.go", "a.go", True),
        ("**/*.go", "x/y/a.go", True),
        ("**", "x/y", True),
        ("**/", "x", True),
        ("dir/**", "dir/a/b", True),
        ("dir/**", "dir2/a", False),
        ("**/dir2/*", "dir/dir2/file", True),
        ("**/dir2/**", "dir/dir2/dir3/file", True),
        ("abc/**/def", "abc/def", True),
        ("abc/**/def", "abc/x/y/def", True),
        ("abc**def", "abcx/def", True),
        ("abc**def", "abcdef", True),
        ("abc**def", "abcxdef", False),
        ("*[ab]?**/a", "ababa", True),
        ("a**b**c**d", "ax/bcx/d", True),
        ("/foo/bar/", "foo/bar/x", True),
        ("foo", "foo/bar/x", True),
        ("foo", "x/foo", False),
        ("./foo", "foo", True),
        ("a/../foo", "foo", True),
        ("*.md\n!README.md", "README.md", False),
        ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", True),
        ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", False),
        ("*\n!src", "src/a/b", False),
        ("*\n!src", "other", True),
        ("dir\n!dir/keep", "dir/keep", False),
        ("dir\n!dir/keep", "dir/other", True),
        ("!a", "a", False),
        ("# note\n\n  x  ", "x", True),
        ("\\#x", "#x", True),
        ("[a-c]1", "b1", True),
        ("[^a-c]1", "b1", False),
        ("[^a-c]1", "d1", True),
        ("a\\*", "a*", True),
        ("a\\*", "ab", False),
        ("a.(b)+|{c}$^", "a.(b)+|{c}$^", True),
        (".", "x", False),
        ("*", ".git", True),
        ("\ufeffx", "x", True),
    ],
)
def test_patterns_leave_out_what_docker_leaves_out(patterns: str, path: str, is_covered: bool) -> None:
    assert Ignored.read(patterns).covers(path) is is_covered


@pytest.mark.parametrize("text", ["!", "a\n[", "x\\", "[b-a]"])
def test_a_pattern_that_is_none_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"line {text.count(chr(10)) + 1}: "):
        Ignored.read(text)


@pytest.mark.parametrize(
    ("pattern", "path", "does"),
    [
        ("abc", "abc", True),
        ("*", "abc", True),
        ("*c", "abc", True),
        ("a*", "ab/c", False),
        ("a*/b", "abc/b", True),
        ("a*b*c*d*e*/f", "axbxcxdxe/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", False),
        ("a*b?c*x", "abxbbxdbxebxczzx", True),
        ("a*b?c*x", "abxbbxdbxebxczzy", False),
        ("ab[c]", "abc", True),
        ("ab[b-d]", "abc", True),
        ("ab[^c]", "abc", False),
        ("a\\*b", "a*b", True),
        ("a???b", "a☺☺☺b", True),
        ("[a-ж]*", "ö", True),
        ("*[a-ж]", "A", False),
        ("[\\]a]", "]", True),
        ("[\\-x]", "-", True),
        ("*x", "xxx", True),
        ("", "", True),
        ("", "x", False),
    ],
)
def test_a_pattern_matches_as_go_matches_it(pattern: str, path: str, does: bool) -> None:
    assert globs.matches(pattern, path) is does
    forms, names = globs.expressions(pattern), path.split("/")
    assert (len(forms) == len(names) and all(map(re.fullmatch, forms, names))) is does


@pytest.mark.timeout(20)
def test_many_stars_take_no_time_that_explodes() -> None:
    assert not globs.matches("*a" * 60 + "b", "a" * 200)
    assert not re.fullmatch(globs.expressions("*a" * 60 + "b")[0], "a" * 200)


@pytest.mark.parametrize("pattern", ["out/[a/b]*", r"out/a\/b*"])
def test_a_pattern_does_not_join_two_names(pattern: str) -> None:
    with pytest.raises(InvalidArgument, match="is no pattern"):
        globs.check(pattern)


ENTRIES = [
    ContextEntry("a.txt", "file"),
    ContextEntry("b.txt", "file"),
    ContextEntry("src", "directory"),
    ContextEntry("src/x.py", "file"),
    ContextEntry("src/deep", "directory"),
    ContextEntry("src/deep/y.py", "link"),
    ContextEntry("we[ird", "file"),
]


def _placed(target: str, *sources: str) -> list[tuple[str, bool]]:
    step = Copy(text="", sources=sources, target=target)
    return [(one.source.path, one.below) for one in placements(step, {one.path: one for one in ENTRIES})]


def test_sources_and_patterns_name_files_of_the_context() -> None:
    assert _placed("/x", "a.txt") == [("a.txt", False)]
    assert _placed("/x/", "*.txt") == [("a.txt", True), ("b.txt", True)]
    assert _placed("/x/", "src", "b.txt") == [("src", False), ("b.txt", True)]
    assert _placed("/x/", "s*/*.py") == [("src/x.py", True)]
    assert _placed("/x", ".") == [("", False)]
    assert _placed("/x", "we[ird") == [("we[ird", False)]


@pytest.mark.parametrize(("target", "source"), [("/x/", "c.txt"), ("/x/", "*.md"), ("/x", "*.txt")])
def test_a_source_that_is_missing_or_has_no_place_is_refused(target: str, source: str) -> None:
    with pytest.raises(InvalidArgument):
        _placed(target, source)


def test_of_a_directory_its_content_is_meant() -> None:
    assert [one.path for one in below(ENTRIES[2], ENTRIES)] == ["src/x.py", "src/deep", "src/deep/y.py"]
    assert below(ContextEntry("", "directory"), ENTRIES) == ENTRIES
