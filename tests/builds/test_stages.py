"""Stages of a Dockerfile: what each begins with, what copies name, and which of them are built at all."""

import pytest

from bay.builds.dockerfile import Dockerfile
from bay.builds.steps import BuildConfig, Copy, Run
from bay.errors import InvalidArgument

pytestmark = pytest.mark.pure

THREE = """
ARG V=1
FROM --platform=$BUILDPLATFORM golang:$V AS Build
WORKDIR /src
RUN make
FROM debian AS unused
COPY --from=busybox:1 /bin/sh /sh
FROM build AS test
RUN check
FROM debian:13
COPY --from=build --chown=1:2 /src/out/*.bin ../etc/x /opt/
COPY --from=0 --link /src/a /b
COPY --from=nginx:1 /etc/nginx.conf /
"""


def copies(text: str, stage: int = -1) -> list[Copy]:
    plan = Dockerfile.read(text).plan(BuildConfig(), stage=stage)
    return [step for step in plan.steps if isinstance(step, Copy)]


def refused(text: str) -> str:
    with pytest.raises(InvalidArgument) as caught:
        Dockerfile.read(text).images_copied()
    return caught.value.message


def test_a_stage_begins_with_an_image_or_an_earlier_stage() -> None:
    file = Dockerfile.read(THREE)
    assert [(one.name, one.base) for one in file.stages] == [
        ("build", "golang:1"), ("unused", "debian"), ("test", 0), ("", "debian:13"),
    ]  # fmt: skip


def test_only_stages_that_the_last_one_needs_are_built() -> None:
    file = Dockerfile.read(THREE)
    assert file.needed() == [0, 3]
    assert file.images_copied() == ["nginx:1"]
    assert Dockerfile.read("FROM a AS x\nFROM x AS y\nFROM y").needed() == [0, 1, 2]
    assert Dockerfile.read(
        "FROM a AS x\nFROM b\nCOPY --from=x /a /b\nFROM c\nCOPY --from=1 /a /b"
    ).needed() == [0, 1, 2]
    assert Dockerfile.read("FROM a AS x\nRUN y\nFROM b").needed() == [1]


def test_a_copy_names_a_stage_by_name_or_number_or_an_image() -> None:
    first, second, third = copies(THREE)
    assert (first.origin, first.sources, first.target, first.owner) == (
        0, ("src/out/*.bin", "etc/x"), "/opt/", "1:2",
    )  # fmt: skip
    assert (second.origin, second.sources) == (0, ("src/a",))
    assert (third.origin, third.sources) == ("nginx:1", ("etc/nginx.conf",))


def test_a_stage_on_top_of_another_has_its_config_its_shell_and_its_arguments() -> None:
    file = Dockerfile.read(
        'FROM a AS x\nARG A=1\nENV E=2\nWORKDIR /w\nUSER u\nSHELL ["/bin/bash", "-c"]\n'
        "FROM x\nRUN y\nCOPY a$A /x\nFROM a\nRUN z"
    )
    below = file.plan(BuildConfig(), stage=0)
    run, copied = file.plan(below.config, stage=1, below=below).steps
    assert isinstance(run, Run)
    assert (run.argv, run.working_dir, run.user) == (("/bin/bash", "-c", "y"), "/w", "u")
    assert run.env == {"E": "2", "A": "1"}
    assert isinstance(copied, Copy)
    assert copied.sources == ("a1",)
    other = file.plan(BuildConfig(), stage=2).steps[0]
    assert isinstance(other, Run)
    assert other.env == {}


def test_from_knows_the_platform() -> None:
    text = "FROM --platform=$BUILDPLATFORM base-${TARGETARCH}"
    assert Dockerfile.read(text, platform="linux/arm64").stages[0].base == "base-arm64"
    assert Dockerfile.read("FROM --platform=linux/arm64 b", platform="linux/arm64").stages[0].base == "b"
    with pytest.raises(
        InvalidArgument, match="line 1: FROM --platform=linux/arm64, where this host is linux/amd64"
    ):
        Dockerfile.read("FROM --platform=linux/arm64 b", platform="linux/amd64")
    assert (
        Dockerfile.read("FROM --platform=linux/arm64 b").stages[0].base == "b"
    )  # a client knows no server's


def test_a_copy_takes_a_pattern_or_all_of_a_root() -> None:
    first, second = copies("FROM a AS x\nFROM scratch\nCOPY --from=x /*.txt /y/\nCOPY --from=x / /")
    assert (first.sources, second.sources, second.target) == (("*.txt",), (".",), "/")


def test_an_argument_that_another_stage_asks_for_is_not_told_as_unused() -> None:
    file = Dockerfile.read("FROM a AS x\nARG A\nFROM b\nRUN y", {"A": "1", "B": "2"})
    assert file.plan(BuildConfig()).unused_args == ("B",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FROM a AS x\nFROM b AS X", "line 2: another stage is named x"),
        ("FROM a AS x/y", "line 1: 'x/y' cannot be the name of a stage"),
        ("FROM a AS 1", "line 1: '1' cannot be the name of a stage"),
        ("FROM a AS scratch", "line 1: no stage can be named scratch"),
        ("FROM a\nCOPY --from=${X} /a /b", "line 2: --from=${X} has a variable"),
        ("FROM a\nFROM b\nCOPY --from=0000000000 /a /b", "line 3: --from=0000000000 is no stage"),
        ("FROM a\nCOPY --from=0 /a /b", "line 2: --from=0 is no stage before this one"),
        ("FROM a AS x\nCOPY --from=x /a /b", "line 2: --from=x is no stage before this one"),
        ("FROM a\nCOPY --from=9999999999999999999 /a /b", "is no stage before this one"),
        ("FROM a\nCOPY --from=y /a /b\nFROM b AS y\nFROM 0\nCOPY --from=0 /a /b", "line 2: --from=y"),
        ("FROM a AS x\n" * 1 + "FROM x\n" * 40, "more than 32 stages"),
        ("FROM a\n" + "".join(f"COPY --from=i{at} /a /b\n" for at in range(40)), "more than 32 images"),
        ("FROM a AS x\nFROM b\nRUM x\nFROM c", "line 3: 'RUM' is no instruction"),
    ],
)
def test_a_stage_that_cannot_be_is_refused_with_its_line(text: str, words: str) -> None:
    assert words in refused(text)


def test_a_heredoc_is_of_no_stage() -> None:
    with pytest.raises(InvalidArgument, match="line 3: --from copies files of another place, and a heredoc"):
        copies("FROM a AS x\nFROM b\nCOPY --from=x <<E /y\na\nE")
