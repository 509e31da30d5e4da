"""What the SDK asks about files, and changes in them."""

import pwd

import pytest

import bay


@pytest.fixture
def tree(box: bay.Box) -> bay.Files:
    for path in ("a/one.py", "a/b/two.py", "a/b/three.txt", "top.py"):
        box.files.write(path, f"# {path}\nfind ME\n")
    return box.files


def test_stat_tells_what_is_there(box: bay.Box) -> None:
    box.files.write("f", b"12345", mode=0o640)
    box.run("ln -s f link; mkdir d")
    found = box.files.stat("f")
    assert (found.type, found.size, found.mode, found.path) == (
        "file",
        5,
        "0640",
        box.files.stat(".").path + "/f",
    )
    assert (found.is_file, found.is_dir, box.files.stat("d").is_dir) == (True, False, True)
    assert box.files.stat("link").type == "file"
    link = box.files.stat("link", follow=False)
    assert (link.type, link.target) == ("symlink", "f")


def test_exists_tells_whether(box: bay.Box) -> None:
    box.files.write("f", b"")
    assert (box.files.exists("f"), box.files.exists("nope")) == (True, False)


def test_list_goes_as_deep_as_it_is_told(tree: bay.Files) -> None:
    home = tree.stat(".").path
    assert [info.name for info in tree.list()] == ["a", "top.py"]
    assert [info.path for info in tree.list("a", depth=2)] == [
        f"{home}/a/b",
        f"{home}/a/b/three.txt",
        f"{home}/a/b/two.py",
        f"{home}/a/one.py",
    ]
    assert [info.name for info in tree.list("a", depth=9, glob="**/*.txt")] == ["three.txt"]
    assert [info.name for info in tree.list(limit=1)] == ["a"]
    assert len(list(tree.walk())) == 6


def test_glob_finds_names(tree: bay.Files) -> None:
    assert [info.name for info in tree.glob("**/*.py")] == ["two.py", "one.py", "top.py"]


def test_search_finds_lines_and_names(tree: bay.Files) -> None:
    home = tree.stat(".").path
    found = tree.search("find ME", "a", glob="*.py")
    assert [(m.path, m.line, m.column, m.text) for m in found.matches] == [
        (f"{home}/a/b/two.py", 2, 1, "find ME"),
        (f"{home}/a/one.py", 2, 1, "find ME"),
    ]
    assert (found.truncated, found.files_searched) == (False, 2)
    assert len(tree.search("FIND .e", regex=True, ignore_case=True).matches) == 4
    assert tree.search("find", limit=1).truncated
    assert [match.line for match in tree.search(glob="*.txt").matches] == [None]


def test_edit_replaces_what_is_there_once(box: bay.Box) -> None:
    box.files.write("f", "a b a")
    assert box.files.edit("f", "b", "c") == 1
    for old, matches in (("x", 0), ("a", 2)):
        with pytest.raises(bay.Conflict) as caught:
            box.files.edit("f", old, "y")
        assert caught.value.details["matches"] == matches
    assert box.files.edit("f", "a", "z", all=True) == 2
    assert box.files.read_text("f") == "z c z"


def test_move_and_copy_keep_what_is_there(tree: bay.Files) -> None:
    home = tree.stat(".").path
    assert tree.move("top.py", "moved.py").path == f"{home}/moved.py"
    assert not tree.exists("top.py")
    assert tree.copy("a", "copied").is_dir
    assert tree.exists("copied/b/two.py")
    with pytest.raises(bay.Conflict):
        tree.copy("a/one.py", "moved.py")
    tree.copy("a/one.py", "moved.py", overwrite=True)
    assert tree.read_text("moved.py").startswith("# a/one.py")


def test_chown_takes_names_and_numbers(box: bay.Box) -> None:
    box.files.write("x", "1")
    found = box.files.stat("x")
    assert box.files.chown("x", found.uid, found.gid).uid == found.uid
    assert box.files.chown("x", user=pwd.getpwuid(found.uid).pw_name, recursive=True).name == "x"
    for user in (4242, "daemon"):
        with pytest.raises(bay.Forbidden):
            box.files.chown("x", user)
    with pytest.raises(bay.InvalidArgument):
        box.files.chown("x")


def test_mkdir_chmod_and_delete(box: bay.Box) -> None:
    assert box.files.mkdir("x/y", mode=0o700).mode == "0700"
    box.files.mkdir("x/y")
    assert box.files.chmod("x/y", "0750").mode == "0750"
    with pytest.raises(bay.Conflict):
        box.files.delete("x", recursive=False)
    box.files.delete("x/y", recursive=False)
    box.files.delete("x")
    assert box.files.list() == []
