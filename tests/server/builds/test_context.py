"""The context of a build: the files that a copy takes from a local directory."""

import io
import tarfile
from pathlib import Path

import pytest

from bay.builds.ignored import Ignored
from bay.builds.steps import Copy, InlineFile
from bay.client._context import BuildContext, Staging, read_dockerfile
from bay.client._local import Meter
from bay.errors import InvalidArgument

pytestmark = pytest.mark.pure


def copy(
    *sources: str, target: str = "/x/", inline: tuple[InlineFile, ...] = (), is_add: bool = False
) -> Copy:
    return Copy(text="COPY", sources=sources, target=target, inline=inline, refuses_archives=is_add, line=3)


def content(staging: Staging) -> dict[str, str | bytes]:
    """The members of the tar: a link's target, a file's bytes, "" for a directory."""
    data = b"".join(staging.stream(Meter(None, None)))
    found: dict[str, str | bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
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
    (top / "out").symlink_to("../secret")
    (top / "dead").symlink_to("nothing")
    (tmp_path / "secret").write_text("secret")
    return top


def context(root: Path, ignored: str = "") -> BuildContext:
    return BuildContext.of(root, Ignored.read(ignored))


def test_of_a_directory_the_content_goes_and_a_link_stays_a_link(root: Path) -> None:
    staging = context(root).staging(copy("src", "a.txt"))
    assert content(staging) == {
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


def test_a_context_may_be_reached_by_a_link(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    assert content(context(link).staging(copy(".")))["0/a.txt"] == b"a"


def test_a_link_that_is_named_is_taken_for_its_target(root: Path) -> None:
    staging = context(root).staging(copy("named", "folder"))
    assert content(staging) == {"0/named": b"x", "1": "", "1/up": "../x.py"}


@pytest.mark.parametrize(
    ("name", "words"), [("out", "leads out of the context"), ("dead", "leads to nothing")]
)
def test_a_link_that_is_named_does_not_lead_out(root: Path, name: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=f"Dockerfile line 3: .*{words}"):
        context(root).staging(copy(name))


def test_files_that_are_left_out_are_not_there(root: Path) -> None:
    made = context(root, "src\n!src/deep\n*.txt")
    assert [entry.path for entry in made.entries if entry.path.startswith(("src", "a"))] == [
        "src/deep",
        "src/deep/up",
    ]
    assert content(made.staging(copy(".")))["0/src/deep/up"] == "../x.py"
    with pytest.raises(InvalidArgument, match=r"the context has no file a\.txt"):
        made.staging(copy("a.txt"))


def test_a_directory_that_is_left_out_is_not_walked(root: Path) -> None:
    (root / "empty").chmod(0)
    assert "empty" not in {entry.path for entry in context(root, "empty").entries}


def test_text_of_the_dockerfile_is_a_file(root: Path) -> None:
    staging = context(root).staging(copy(target="/etc/motd", inline=(InlineFile("EOF", "hi\n"),)))
    assert content(staging) == {"0/EOF": b"hi\n"}
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
        assert list(content(made.staging(copy(name)))) == [f"0/{name}"]
    assert content(made.staging(copy("a.txt", is_add=True))) == {"0/a.txt": b"a"}


def test_the_dockerfile_has_its_own_patterns_or_those_of_the_context(root: Path) -> None:
    (root / "Dockerfile").write_text("FROM a")
    (root / ".dockerignore").write_text("a.txt")
    assert read_dockerfile(root, None)[1].covers("a.txt")
    other = root / "Other"
    other.write_text("FROM b")
    (root / "Other.dockerignore").write_text("src")
    text, ignored = read_dockerfile(root, other)
    assert text == "FROM b"
    assert (ignored.covers("a.txt"), ignored.covers("src")) == (False, True)


@pytest.mark.parametrize(("data", "words"), [(None, "there is no file"), (b"\xff", "no UTF-8")])
def test_a_dockerfile_that_cannot_be_read_is_told(root: Path, data: bytes | None, words: str) -> None:
    if data is not None:
        (root / "Dockerfile").write_bytes(data)
    with pytest.raises(InvalidArgument, match=words):
        read_dockerfile(root, None)
