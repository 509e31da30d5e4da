"""The context of a build: the local files that its Dockerfile may copy."""

import io
import tarfile
from pathlib import Path

import pytest

from bay.builds.ignored import Ignored
from bay.client._build_body import BuildOptions, Recipe
from bay.client._context import context_of, read_dockerfile
from bay.client._local import Meter
from bay.errors import InvalidArgument

pytestmark = pytest.mark.pure


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "context"
    (top / "src" / "deep").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "a.txt").write_text("a")
    (top / "src" / "x.py").write_text("x")
    (top / "linked").mkdir()
    (top / "linked" / "away").symlink_to("/etc/passwd")
    return top


def paths(root: Path, ignored: str = "") -> list[str]:
    return [entry.path for entry in context_of(root, Ignored.read(ignored))]


def sent(root: Path, dockerfile: str, **options: object) -> dict[str, str | bytes]:
    """The members of the tar that goes to the server."""
    (root / "Dockerfile").write_text(f"FROM debian\n{dockerfile}")
    given: BuildOptions = {**options}  # type: ignore[typeddict-item]
    data = b"".join(Recipe.of(root, given).stream(Meter(None, None)))
    found: dict[str, str | bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            found[member.name] = file.read() if file else member.linkname
    return found


def test_files_that_are_copied_are_sent_and_no_others(root: Path) -> None:
    assert sent(root, "COPY src /srv/") == {"src": "", "src/deep": "", "src/x.py": b"x"}
    assert sent(root, "COPY a.txt /srv/\nRUN true") == {"a.txt": b"a"}
    assert sent(root, "RUN true") == {}


def test_a_link_may_lead_anywhere_so_all_is_sent_and_it_stays_a_link(root: Path) -> None:
    found = sent(root, "COPY linked /srv/")
    assert (found["linked/away"], found["a.txt"]) == ("/etc/passwd", b"a")


@pytest.mark.parametrize("copy", ["COPY $NAME /srv/", "ARG A\nCOPY ${A:?} /srv/"])
def test_the_server_alone_knows_the_variables_of_the_base(root: Path, copy: str) -> None:
    assert sent(root, copy)["src/x.py"] == b"x"


def test_a_variable_of_the_base_is_no_fault_here(root: Path) -> None:
    assert sent(root, "WORKDIR $HOMES\nUSER $WHO\nRUN true\nCOPY a.txt ./")["a.txt"] == b"a"


def test_steps_are_read_as_a_dockerfile_is(root: Path) -> None:
    steps = [{"copy": {"sources": ["a.txt"], "target": "/srv/"}}]
    recipe = Recipe.of(root, {"image": "debian", "steps": steps})
    assert [name for name, _ in recipe.files] == ["a.txt"]
    assert recipe.body("web:1", {"image": "debian"})["steps"] == steps


def test_files_that_are_left_out_are_not_there(root: Path) -> None:
    assert [path for path in paths(root, "src\n!src/deep\n*.txt") if path.startswith(("src", "a"))] == [
        "src/deep"
    ]
    (root / ".dockerignore").write_text("*.txt")
    with pytest.raises(InvalidArgument, match=r"line 2: the context has no file a\.txt"):
        sent(root, "COPY a.txt /")


def test_a_directory_that_is_left_out_is_not_walked(root: Path) -> None:
    (root / "empty").chmod(0)
    assert "empty" not in paths(root, "empty")


def test_a_context_may_be_reached_by_a_link(root: Path) -> None:
    link = root.parent / "link"
    link.symlink_to(root)
    assert "a.txt" in paths(link)


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
