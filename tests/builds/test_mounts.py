"""`RUN --mount`: the directories and secrets that a command has while it runs."""

import pytest

from bay.builds.dockerfile import Dockerfile
from bay.builds.mounts import check_secrets
from bay.builds.steps import BuildConfig, DirectoryMount, FilesMount, Run, SecretMount, Step, copies_of
from bay.errors import InvalidArgument

pytestmark = pytest.mark.pure


def steps(body: str) -> tuple[Step, ...]:
    return Dockerfile.read(f"FROM a\n{body}").plan(BuildConfig()).steps


def run(body: str) -> Run:
    step = steps(body)[-1]
    assert isinstance(step, Run)
    return step


def test_a_cache_has_its_target_as_its_name_unless_it_says_one() -> None:
    found = run(
        "ENV H=/srv/a\nRUN --mount=type=cache,target=$H/.cache --mount=type=cache,id=apt,dst=/var/cache/apt,sharing=locked,uid=7,gid=8,mode=0700 apt update"
    )
    assert found.argv == ("/bin/sh", "-c", "apt update")
    assert found.text.startswith("RUN --mount=type=cache")
    assert found.mounts == (
        DirectoryMount(target="/srv/a/.cache", cache="/srv/a/.cache"),
        DirectoryMount(target="/var/cache/apt", cache="apt", owner="7:8", mode=0o700),
    )


def test_a_relative_target_is_below_the_working_directory() -> None:
    assert run("WORKDIR /w\nRUN --mount=type=tmpfs,target=t/../u true").mounts == (
        DirectoryMount(target="/w/u", mode=0o1777),
    )


@pytest.mark.parametrize(
    ("value", "mount"),
    [
        ("id=npm", SecretMount(name="npm", target="/run/secrets/npm")),
        ("id=npm,required", SecretMount(name="npm", target="/run/secrets/npm", is_required=True)),
        ("id=npm,target=/app/.npmrc", SecretMount(name="npm", target="/app/.npmrc")),
        ("id=npm,required=FALSE,target=/run/secrets/rc", SecretMount(name="npm", target="/run/secrets/rc")),
        (
            "target=/run/secrets/K,required=1",
            SecretMount(name="K", target="/run/secrets/K", is_required=True),
        ),
        ("id=k,env=KEY", SecretMount(name="k", env="KEY")),
    ],
)
def test_a_secret_is_a_file_or_a_variable(value: str, mount: SecretMount) -> None:
    assert run(f"RUN --mount=type=secret,{value} true").secrets == (mount,)


def test_files_are_of_the_context_a_stage_or_an_image() -> None:
    found = run(
        "WORKDIR /w\nRUN --mount=target=. --mount=type=bind,source=../a/b,target=/b,ro --mount=from=nginx,src=/etc/x,dst=/x true"
    )
    assert found.files == (
        FilesMount(target="/w"),
        FilesMount(target="/b", source="a/b"),
        FilesMount(target="/x", source="etc/x", origin="nginx"),
    )
    assert [(one.sources, one.target, one.origin) for one in copies_of(found)] == [
        ((".",), "/w", None), (("a/b",), "/b", None), (("etc/x",), "/x", "nginx"),
    ]  # fmt: skip


def test_a_stage_that_a_mount_names_is_needed() -> None:
    file = Dockerfile.read(
        "FROM a AS x\nFROM b AS y\nFROM c\nRUN --mount=from=x,source=/f,target=/f --mount=from=nginx,source=/g,target=/g true"
    )
    assert file.needed() == [0, 2]
    assert file.images_copied() == ["nginx"]


def test_mounts_stand_before_every_form_of_run() -> None:
    flag = "--mount=type=tmpfs,target=/t"
    assert run(f'RUN {flag} ["a", "b"]').argv == ("a", "b")
    assert run(f"RUN {flag} <<E\nx\nE").argv[-1] == "x\n"
    assert run(f"RUN {flag} <<E\n#!/bin/x\nE").script == "#!/bin/x\n"
    assert run(f"RUN {flag} cat <<E\nx\nE").argv[-1] == "cat <<E\nx\nE"
    for body in (f'{flag} ["a"]', f"{flag} <<E\nx\nE", f"{flag} <<E\n#!/bin/x\nE", f"{flag} cat <<E\nx\nE"):
        assert [one.target for one in run(f"RUN {body}").mounts] == ["/t"]


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ("source=a", "write target=PATH"),
        ("from=0,source=a,target=/x", "--from=0 is no stage before this one"),
        ("source=*.txt,target=/x", "no pattern"),
        ("source=a,target=/x --mount=type=cache,target=/x/y", "two mounts meet"),
        ("type=ssh", "RUN --mount=type=ssh is not supported; give the key as a secret"),
        ("type=disk,target=/x", "the type 'disk'"),
        ("type=cache", "write target=PATH"),
        ("type=cache,target=/", "write target=PATH"),
        ("type=cache,target=..", "write target=PATH"),
        ("type=cache,target=/x,id=", "an id that cannot be"),
        ("type=cache,target=/x,target=/y", "target twice"),
        ("type=cache,target=/x,uid=me", "as numbers"),
        ("type=cache,target=/x,mode=9", "octal"),
        ("type=cache,target=/x,sharing=some", "sharing=shared"),
        ("type=tmpfs,target=/x,from=a", "type=tmpfs,from is not supported"),
        ("type=secret", "names no secret"),
        ("type=tmpfs,target=/run", "target /run, where sandboxes have secrets"),
        ("type=secret,id=a,target=/run/secrets", "target /run/secrets, where sandboxes have secrets"),
        ("type=secret,id=a,required=yes", "write required=true or false"),
        ("type=secret,id=a,mode=0444", "type=secret,mode is not supported"),
        ("type=cache,target=/.bay-build/x", "write target=PATH"),
        ("type=cache,id=c,target=/x --mount=type=cache,id=c,target=/y", "the same cache"),
        ("type=cache,target=/x/y --mount=type=tmpfs,target=/x", "two mounts meet"),
        (" --mount=".join(f"type=tmpfs,target=/{at}" for at in range(21)), "more than 20 mounts"),
    ],
)
def test_a_mount_that_cannot_be_is_refused_with_its_line(mount: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match="line 2") as caught:
        steps(f"RUN --mount={mount} true")
    assert words in caught.value.message


def test_a_secret_must_be_where_the_command_expects_it() -> None:
    found = steps("RUN --mount=type=secret,id=k true\nRUN --mount=type=secret,id=v,env=V true")
    check_secrets(found, {"k": (None, "/run/secrets/k"), "v": ("V", None)})
    check_secrets(found, {})  # neither is required
    elsewhere = steps("RUN --mount=type=secret,id=k,target=/app/.npmrc true")
    check_secrets(elsewhere, {"k": (None, "/run/secrets/any")})
    with pytest.raises(InvalidArgument, match=r"in /app/\.npmrc; give it by --secret k=/run/secrets/k$"):
        check_secrets(elsewhere, {"k": ("k", None)})
    with pytest.raises(
        InvalidArgument, match="line 2: secret k is expected in /run/secrets/k; give it by --secret k="
    ):
        check_secrets(found, {"k": ("k", None)})
    with pytest.raises(InvalidArgument, match="line 3: secret v is expected in the variable V"):
        check_secrets(found, {"v": ("v", None)})
    with pytest.raises(InvalidArgument, match="line 2: secret k is required; give it by --secret k"):
        check_secrets(steps("RUN --mount=type=secret,id=k,required true"), {})
