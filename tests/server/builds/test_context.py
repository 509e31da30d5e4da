"""The context of a build on the server: what a copy takes of a tar that a caller made."""

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from bay.builds.steps import Copy, DirectoryMount, InlineFile, Run, Step
from bay.errors import InvalidArgument
from bay.server.builds import context as contexts
from bay.server.builds.context import BuildContext, Staging
from bay.server.builds.step_keys import first_key, step_keys

pytestmark = pytest.mark.pure


def copy(
    *sources: str, target: str = "/x/", inline: tuple[InlineFile, ...] = (), is_add: bool = False
) -> Copy:
    return Copy(text="COPY", sources=sources, target=target, inline=inline, refuses_archives=is_add, line=3)


def content(made: BuildContext, staging: Staging) -> dict[str, str | bytes]:
    """The members of the tar: a link's target, a file's bytes, "" for a directory."""
    found: dict[str, str | bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(b"".join(made.tar(staging)))) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            found[member.name] = file.read() if file else member.linkname
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "context"
    (top / "src" / "deep").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "a.txt").write_text("a")
    (top / "src" / "x.py").write_text("x")
    (top / "src" / "deep" / "up").symlink_to("../x.py")
    (top / "src" / "away").symlink_to("/etc/passwd")
    (top / "named").symlink_to("src/x.py")
    (top / "folder").symlink_to("src/deep")
    (top / "through").symlink_to("folder/up")
    (top / "out").symlink_to("../secret")
    (top / "dead").symlink_to("nothing")
    (top / "circle").symlink_to("circle")
    (tmp_path / "secret").write_text("secret")
    return top


def context(root: Path) -> BuildContext:
    """The context whose tar has all below `root`."""
    with tarfile.open(root.parent / "context.tar", "w") as tar:
        tar.add(root, ".")
    return BuildContext.read(root.parent / "context.tar")


def tar_of(place: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(place, "w") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return place


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, mode
    return made


def test_of_a_directory_the_content_goes_and_a_link_stays_a_link(root: Path) -> None:
    made = context(root)
    staging = made.staging(copy("src", "a.txt"))
    assert content(made, staging) == {
        "0": "",
        "0/x.py": b"x",
        "0/deep": "",
        "0/deep/up": "../x.py",
        "1/a.txt": b"a",
    }
    assert staging.links == [("0/away", "/etc/passwd")]
    assert [(one.name, one.only, one.below) for one in staging.sources] == [
        ("0", None, False),
        ("1", "a.txt", True),
    ]


def test_a_link_that_is_named_is_taken_for_its_target(root: Path) -> None:
    made = context(root)
    staging = made.staging(copy("named", "folder", "through"))
    assert content(made, staging) == {"0/named": b"x", "1": "", "1/up": "../x.py", "2/through": "0/named"}


@pytest.mark.parametrize(
    ("name", "words"),
    [("out", "leads out of the context"), ("dead", "leads to nothing"), ("circle", "in a circle")],
)
def test_a_link_that_is_named_does_not_lead_out(root: Path, name: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=f"Dockerfile line 3: .*{words}"):
        context(root).staging(copy(name))


def test_text_of_the_dockerfile_is_a_file(root: Path) -> None:
    made = BuildContext.read(None)
    staging = made.staging(copy(target="/etc/motd", inline=(InlineFile("EOF", "hi\n"),)))
    assert content(made, staging) == {"0/EOF": b"hi\n"}
    assert (staging.sources[0].only, staging.sources[0].below) == ("EOF", False)


def test_add_refuses_what_docker_would_unpack(root: Path) -> None:
    with tarfile.open(root / "plain.tar", "w") as tar:
        tar.add(root / "a.txt", "a.txt")
    with tarfile.open(root / "packed.tgz", "w:gz") as tar:
        tar.add(root / "a.txt", "a.txt")
    made = context(root)
    for name in ("plain.tar", "packed.tgz"):
        with pytest.raises(InvalidArgument, match="unpack it in a RUN step"):
            made.staging(copy(name, is_add=True))
        assert list(content(made, made.staging(copy(name)))) == [f"0/{name}"]
    assert content(made, made.staging(copy("a.txt", is_add=True))) == {"0/a.txt": b"a"}


def test_hard_links_have_the_content_of_their_first_name(tmp_path: Path) -> None:
    place = tar_of(
        tmp_path / "t",
        (member("a"), b"both"),
        (member("d/b", tarfile.LNKTYPE, "a"), b""),
        (member("c"), b"own"),
    )
    made = BuildContext.read(place)
    assert content(made, made.staging(copy("."))) == {
        "0": "",
        "0/d": "",
        "0/a": b"both",
        "0/d/b": "0/a",
        "0/c": b"own",
    }
    assert content(made, made.staging(copy("d/b"))) == {"0/b": b"both"}


def test_a_file_that_is_copied_twice_is_there_twice(root: Path) -> None:
    made = context(root)
    staging = made.staging(copy("a.txt", "a.txt"))
    assert content(made, staging) == {"0/a.txt": b"a", "1/a.txt": "0/a.txt"}


def test_the_host_is_not_asked_for_what_a_tar_names(root: Path) -> None:
    """All that is read is the tar: a member with the path of a file of the host is refused, or its own."""
    made = context(root)
    assert {one.kind for path, one in made.known.items() if path.startswith("src/away")} == {"link"}
    assert "/etc/passwd" not in made.known


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (((member("/etc/passwd"), b""),), "not below its top"),
        (((member("a/../../b"), b""),), "not below its top"),
        (((member("a"), b"1"), (member("./a"), b"2")), "names a twice"),
        (((member("a"), b"1"), (member("a/b"), b"2")), "below a, which is no directory"),
        (
            ((member("a", tarfile.SYMTYPE, "/etc"), b""), (member("a/passwd"), b"2")),
            "below a, which is no directory",
        ),
        (((member("a", tarfile.LNKTYPE, "/etc/passwd"), b""),), "not below its top"),
        (((member("a", tarfile.LNKTYPE, "b"), b""),), "does not stand before it"),
    ],
)
def test_a_tar_that_lies_is_refused(
    tmp_path: Path, members: tuple[tuple[tarfile.TarInfo, bytes], ...], words: str
) -> None:
    with pytest.raises(InvalidArgument, match=words):
        BuildContext.read(tar_of(tmp_path / "t", *members))


def test_devices_and_pipes_are_left_out(tmp_path: Path) -> None:
    made = BuildContext.read(
        tar_of(
            tmp_path / "t", (member("pipe", tarfile.FIFOTYPE), b""), (member("disk", tarfile.BLKTYPE), b"")
        )
    )
    assert made.known == {}


def test_a_body_that_is_no_whole_tar_is_refused(root: Path) -> None:
    context(root)
    place = root.parent / "context.tar"
    for body in (place.read_bytes()[:700], b"no tar" * 200):
        place.write_bytes(body)
        with pytest.raises(InvalidArgument, match="no whole tar archive"):
            BuildContext.read(place)
    place.write_bytes(b"")
    assert BuildContext.read(place).known == {}


def test_a_context_of_too_many_files_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "MAX_ENTRIES", 5)
    with pytest.raises(InvalidArgument, match="more than 5 files"):
        context(root)


def test_set_id_bits_do_not_come_along(tmp_path: Path) -> None:
    made = BuildContext.read(tar_of(tmp_path / "t", (member("a", mode=0o6755), b"")))
    with tarfile.open(fileobj=io.BytesIO(b"".join(made.tar(made.staging(copy("a")))))) as tar:
        assert [one.mode for one in tar] == [0o755]


def keys_of(image: str, steps: list[Copy], root: Path) -> list[str]:
    return step_keys(first_key([image]), steps, context(root), lambda origin: f"of {origin}")


def test_the_key_of_a_step_follows_what_is_copied_and_not_when_it_was_written(root: Path) -> None:
    steps = [copy("a.txt"), copy("src")]
    keys = keys_of("img-1", steps, root)
    os.utime(root / "a.txt", (1, 1))
    assert keys_of("img-1", steps, root) == keys
    (root / "src" / "x.py").write_text("y")
    changed = keys_of("img-1", steps, root)
    assert (changed[0], changed[1] != keys[1]) == (keys[0], True)
    (root / "a.txt").chmod(0o600)
    assert keys_of("img-1", steps, root)[0] != keys[0]
    assert keys_of("img-2", steps, root)[0] != keys_of("img-1", steps, root)[0]


def test_the_key_of_a_copy_from_another_place_follows_that_place() -> None:
    def keys(place: str) -> list[str]:
        steps = [copy("a"), replace(copy("b"), origin=0)]
        return step_keys("k", [steps[1]], BuildContext.read(None), lambda _: place)

    assert keys("one") == keys("one")
    assert keys("one") != keys("two")


def test_a_last_step_behind_which_caches_are_taken_away_has_a_key_of_its_own() -> None:
    def keys(*steps: Step) -> list[str]:
        return step_keys("k", steps, BuildContext.read(None), str)

    first = Run(text="", argv=("a",), mounts=(DirectoryMount(target="/x", cache="x"),))
    second = Run(text="", argv=("b",))
    assert keys(first) != keys(first, second)[:1]
    assert keys(first, second)[0] == keys(first, second, second)[0]
    assert keys(second) == keys(second, second)[:1]


def test_a_path_of_a_megabyte_is_refused_before_its_parents_are_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="which is longer than 4095"):
        BuildContext.read(tar_of(tmp_path / "t", (member("a/" * 500_000 + "f"), b"")))


@pytest.mark.parametrize("name", ["a/" * 300 + "f", "n" * 256, "ü" * 200])
def test_a_path_that_no_file_system_holds_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match="a name has at most 255 bytes, a path 256 names"):
        BuildContext.read(tar_of(tmp_path / "t", (member(name), b"")))


def test_all_paths_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "_MAX_PATHS", 1000)
    deep = "/".join("n" * 50 for _ in range(10))
    with pytest.raises(InvalidArgument, match="the paths of the context"):
        BuildContext.read(tar_of(tmp_path / "t", (member(deep), b"")))


def test_targets_of_links_count_as_paths_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "_MAX_PATHS", 1000)
    links = [(member(f"l{at}", tarfile.SYMTYPE, "é" * 200), b"") for at in range(3)]
    with pytest.raises(InvalidArgument, match="the paths of the context"):
        BuildContext.read(tar_of(tmp_path / "t", *links))


def owned(name: str, uid: int, gid: int) -> tarfile.TarInfo:
    made = member(name)
    made.uid, made.gid = uid, gid
    return made


def test_owners_are_known_where_they_count(tmp_path: Path) -> None:
    file = tar_of(tmp_path / "t", (owned("d/a", 7, 8), b""), (member("d/b"), b""))
    made = BuildContext.read(file, has_owners=True)
    assert made.owners(made.staging(copy("d"))) == {"7:8": ["0/a"]}
    plain = BuildContext.read(file)
    assert plain.owners(plain.staging(copy("d"))) == {}


def test_copies_that_take_all_files_again_and_again_are_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contexts, "_MAX_LOOKS", 60)
    steps = [copy(".") for _ in range(10)]
    with pytest.raises(InvalidArgument, match="again and again"):
        keys_of("img-1", steps, root)


def test_of_a_directory_only_what_is_below_it_is_taken(tmp_path: Path) -> None:
    names = ("a/1", "a/b/2", "a-b/3", "a.b/4", "ab/5", "a0/6")
    made = BuildContext.read(tar_of(tmp_path / "t", *((member(name), b"x") for name in names)))
    assert sorted(content(made, made.staging(copy("a")))) == ["0", "0/1", "0/b", "0/b/2"]
