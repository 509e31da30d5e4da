"""Builds of several stages through the executable, and directories and secrets that commands have only while
they run: the oci driver, a registry, and both ways to keep files.
"""

import json
import os
from collections.abc import Generator
from pathlib import Path

import forked_bay
import pytest
import registry
from image_bay import Bay, environment_for, serving
from image_files import ImageFile, Layer, layer_of, layer_of_tree
from image_roots import busybox_root
from registry import Registry

from bay.cargo import backend_detection
from bay.images import fetch_cage
from pools import unmounted_after

pytestmark = [pytest.mark.host, pytest.mark.long]

TOKEN = "token-that-no-layer-may-have"
PROFILES = {"python-default": {"persist": "machine", "memory_mb": 256, "pids": 64}}
_PATIENCE_S = 180.0


class Builder(Bay):
    """Builds templates named `made`, and looks into them."""

    def build(self, context: Path, text: str, *arguments: str, code: int = 0) -> str:
        """What a build of that Dockerfile says."""
        (context / "Dockerfile").write_text(text)
        command = ["build", str(context), "-t", "made", *arguments]
        done = forked_bay.run(command, self.environment, b"", _PATIENCE_S)
        assert done.returncode == code, done.stderr.decode()
        return done.stderr.decode()

    def inside(self, command: str, *busybox: str) -> str:
        """The output of a command of root in a sandbox of the template, by its shell or that of `busybox`."""
        image = json.loads(self("template", "get", "made", "--json"))["image_id"]
        return self("run", "--image", image, "--user", "root", "--", *busybox, "sh", "-c", command)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Generator[Registry]:
    if os.geteuid() != 0 or not fetch_cage.is_installed() or not registry.is_installed():
        pytest.skip("needs root, skopeo, and docker-registry")
    with registry.registry(tmp_path_factory.mktemp("registry")) as made:
        yield made


@pytest.fixture(scope="module")
def box_layer(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    root = tmp_path_factory.mktemp("busybox")
    busybox_root(root)
    return layer_of_tree(root)


@pytest.fixture(scope="module")
def small(hub: Registry, box_layer: Layer) -> str:
    config = {"config": {"Env": ["PATH=/bin"]}}
    return hub.push(ImageFile(layers=(box_layer,), config=config), "small/box", "1")


@pytest.fixture(scope="module")
def tools(hub: Registry) -> str:
    """An image that has files and no program."""
    return hub.push(
        ImageFile(layers=(layer_of({"tool": b"a tool", "etc/more": b"more"}),)), "small/tools", "1"
    )


@pytest.fixture(scope="module", params=["btrfs", "directory"])
def bay(request: pytest.FixtureRequest, hub: Registry) -> Generator[Builder]:
    if request.param == "btrfs" and backend_detection.look(Path("/tmp")).lacking is not None:
        pytest.skip("needs loop devices and btrfs")
    with environment_for(hub) as own:
        own |= {
            "BAY_CARGO_BACKEND": request.param, "BAY_POOL_MAX_GB": "2", "BAY_PROFILES": json.dumps(PROFILES),
            "BAY_MAX_CONTEXT_MB": "8",
        }  # fmt: skip
        with unmounted_after(Path(own["BAY_DATA_DIR"])), serving(own) as url:
            made = Builder(own | {"BAY_URL": url})
            made("secret", "set", "TOKEN", stdin=TOKEN.encode())
            yield made


@pytest.fixture
def context(tmp_path: Path) -> Path:
    top = tmp_path / "context"
    top.mkdir()
    (top / "main.c").write_text("int main;")
    return top


def test_files_of_a_stage_and_of_an_image_come_into_the_last_one(
    bay: Builder, context: Path, small: str, tools: str
) -> None:
    text = f"""
FROM {small} AS build
WORKDIR /src
COPY main.c .
RUN umask 077; mkdir -p /private/out/deep; echo bin > /private/out/a.bin; echo more > /private/out/deep/b.bin; \
  chmod 4755 /private/out/a.bin; ln -s a.bin /private/out/link; ln -s /private/out /out; ln -s /etc/motd /private/out/away; \
  ln /private/out/a.bin /private/out/same; mkfifo /private/out/pipe; echo no > /private/out/no.txt; \
  echo mine > /private/out/mine; chown 1000:50 /private/out/mine /private/out/deep; echo tmp > /tmp/made
FROM {small} AS unused
RUN exit 9
FROM build AS middle
RUN echo $PWD > /pwd
FROM {small}
COPY --from=build /private/out /got
COPY --from=build /out/link /out/*.bin /some/
COPY --from=middle --chown=7:8 --chmod=600 /pwd /pwd.txt
COPY --from={tools} /tool /etc/more /tools/
COPY --from=build /tmp/made /made
RUN cat /pwd.txt && rm /tools/more
"""
    log = bay.build(context, text)
    assert "[build 2/3] COPY main.c .\n" in log
    assert "[stage 3 6/6] RUN cat /pwd.txt" in log
    assert "/src\nfreezing\n" in log
    assert "unused" not in log
    said = bay.inside(
        "cd /got; ls -A . deep; stat -c '%u:%g %a %h' a.bin deep/b.bin /pwd.txt mine; stat -c %u:%g deep; cat /made; readlink link; readlink away; "
        "cat /some/link /some/a.bin; ls /some; ls /tools; cat /tools/tool; echo; ls -d /src /private/out 2>&1 || true"
    )
    assert said.splitlines() == [
        ".:", "a.bin", "away", "deep", "link", "mine", "no.txt", "same", "", "deep:", "b.bin",
        "0:0 755 2", "0:0 600 1", "7:8 600 1", "1000:50 600 1", "1000:50", "tmp", "a.bin", "/etc/motd", "bin", "bin", "a.bin", "link", "tool", "a tool",
        "ls: /src: No such file or directory", "ls: /private/out: No such file or directory",
    ]  # fmt: skip
    assert bay("ls", "-q") == ""


def test_a_build_whose_stages_are_known_starts_no_sandbox(bay: Builder, context: Path, small: str) -> None:
    if bay.environment["BAY_CARGO_BACKEND"] != "btrfs":
        pytest.skip("other file systems keep no snapshots after steps")
    text = f"""
FROM {small} AS first
RUN echo %s > /one
FROM {small}
RUN echo two > /two
COPY --from=first /one /copied
"""
    bay.build(context, text % "1")
    log = bay.build(context, text % "1")
    assert log.count("cached\n") == 2
    assert "[first" not in log  # nothing of it was needed
    log = bay.build(context, text % "other")
    assert "[first 1/1] RUN echo other > /one\n[stage 1 2/2]" in log
    assert bay.inside("cat /copied /two") == "other\ntwo\n"


def test_a_cache_lasts_to_the_next_command_and_is_not_in_the_template(
    bay: Builder, context: Path, small: str
) -> None:
    text = f"""
FROM {small}
RUN mkdir -p /opt/c /opt/t; echo image > /opt/c/own; echo image > /opt/t/own; chmod 750 /opt/c
RUN --mount=type=cache,target=/opt/c --mount=type=tmpfs,target=/opt/t ls -A /opt/c /opt/t; echo 1 > /opt/c/1; echo 1 > /opt/t/1
RUN --mount=type=cache,target=/var/new/c,id=/opt/c,mode=0700 cat /var/new/c/1; echo 2 > /var/new/c/2
RUN --mount=type=cache,target=/opt/c ls /opt/c; rm -rf /opt/c; ln -s /etc /opt/c
RUN --mount=type=tmpfs,target=/opt/t stat -c %a /opt/t; ls /opt/c; find / -xdev -name '.bay-build' | wc -l
"""
    log = bay.build(context, text)
    assert "\n/opt/c:\n\n/opt/t:\n[3/5]" in log
    assert "\n1\n[4/5]" in log
    assert "\n1\n2\n[5/5]" in log
    assert "\n1777\nown\n1\nfreezing\n" in log
    assert bay.inside(
        "ls -A /opt/c /opt/t; stat -c %a /opt/c; ls -A /var/new; ls -d /.bay-build || echo gone"
    ) == ("/opt/c:\nown\n\n/opt/t:\nown\n750\ngone\n")


def test_a_command_finds_its_secret_where_it_expects_it(bay: Builder, context: Path, small: str) -> None:
    text = f"FROM {small}\nRUN --mount=type=secret,id=TOKEN,required wc -c < /run/secrets/TOKEN\n"
    assert f"\n{len(TOKEN)}\n" in bay.build(context, text, "--secret", "TOKEN=/run/secrets/TOKEN")
    said = bay.build(context, text, code=2)
    assert "line 2: secret TOKEN is required; give it by --secret TOKEN" in said
    said = bay.build(context, text, "--secret", "TOKEN", code=2)
    assert "line 2: secret TOKEN is expected in /run/secrets/TOKEN; give it by --secret TOKEN=/run" in said
    bay.build(context, f"FROM {small}\nRUN --mount=type=secret,id=ABSENT [ ! -e /run/secrets/ABSENT ]\n")


def test_a_secret_at_a_place_of_the_image_is_there_only_while_the_command_runs(
    bay: Builder, context: Path, small: str
) -> None:
    text = f"""FROM {small}
RUN mkdir -p /opt/own; echo own > /opt/own/rc
RUN --mount=type=secret,id=TOKEN,target=/opt/own/rc --mount=type=secret,id=TOKEN,target=/new/rc \\
  wc -c < /opt/own/rc; wc -c < /new/rc; rm /new/rc; mkdir /new/rc; cp /opt/own/rc /new/rc/kept
RUN cat /opt/own/rc; ls -A /new; grep -rl {TOKEN[:10]} /opt /new /.bay-build; true
"""
    log = bay.build(context, text, "--secret", "TOKEN=/run/secrets/T")
    assert f"\n{len(TOKEN)}\n{len(TOKEN)}\n[3/3]" in log
    assert "\nown\nfreezing\n" in log.replace("grep: /.bay-build: No such file or directory\n", "")


def test_a_command_has_files_of_the_context_and_of_a_stage_only_while_it_runs(
    bay: Builder, context: Path, small: str
) -> None:
    text = f"""
FROM {small} AS first
RUN mkdir /made; echo made > /made/file; chown 7:8 /made/file
FROM {small}
RUN mkdir /src; echo own > /src/own
RUN --mount=target=/src --mount=source=main.c,target=/deep/main.c --mount=from=first,source=/made,target=/made \\
  cat /src/main.c /deep/main.c /made/file; ls /src; echo lost > /src/main.c; stat -c %u:%g /made/file
RUN echo last; ls /src /made /deep 2>&1; true
"""
    log = bay.build(context, text)
    assert "\nint main;int main;made\nDockerfile\nmain.c\n7:8\n" in log
    assert "\nlast\nls: /made: No such file or directory\n/deep:\n\n/src:\nown\nfreezing\n" in log
    assert (context / "main.c").read_text() == "int main;"
    (context / "main.c").write_text("int other;")
    log = bay.build(context, text)
    assert "\nint other;int other;made\n" in log
    assert bay.inside("ls -A /src /deep; ls -d /made /.bay-build 2>&1; true").startswith(
        "/deep:\n\n/src:\nown\n"
    )


def test_no_copy_finds_a_secret(bay: Builder, context: Path, small: str) -> None:
    text = f"FROM {small} AS first\nRUN cat /run/secrets/TOKEN > /dev/null\nFROM {small}\nCOPY --from=first /run/secrets/TOKEN /t\n"
    said = bay.build(context, text, "--secret", "TOKEN=/run/secrets/TOKEN", code=1)
    assert "line 4: COPY --from=first /run/secrets/TOKEN /t: there is no file /run/secrets/TOKEN" in said


def test_a_cached_copy_to_tmp_is_there_for_the_next_command(bay: Builder, context: Path, small: str) -> None:
    text = f"FROM {small}\nCOPY main.c /tmp/\nRUN --mount=type=tmpfs,target=/tmp/x cat /tmp/main.c; echo %s\n"
    bay.build(context, text % "1")
    assert "int main;" in bay.build(context, text % "2")
    assert bay.inside("ls -A /tmp") == ""


def test_two_mounts_at_one_place_behind_a_link_lose_nothing(bay: Builder, context: Path, small: str) -> None:
    text = f"""
FROM {small}
RUN mkdir -p /real/x; echo own > /real/x/file; ln -s /real /alias
RUN --mount=type=tmpfs,target=/real/x --mount=type=cache,target=/alias/x true
"""
    bay.build(context, text)
    assert bay.inside("cat /real/x/file") == "own\n"


def test_a_name_that_is_no_text_is_told_and_fails_no_list(bay: Builder, context: Path, small: str) -> None:
    text = f"""FROM {small} AS first
RUN mkdir /d; ln -s /none "/d/$(printf 'l\\377')"
FROM {small}
COPY --from=first /d/l* /x/
"""
    assert "line 4: " in bay.build(context, text, code=1)
    assert bay("template", "ls", "--json") != ""


@pytest.mark.parametrize("bay", ["directory"], indirect=True)  # no copy comes to what differs
@pytest.mark.parametrize(
    ("copy", "words"),
    [
        ("COPY --from=first /none /x", "line 4: COPY --from=first /none /x: there is no file /none"),
        (
            "COPY --from=first /dir/*.none /x",
            "line 4: COPY --from=first /dir/*.none /x: there is no file /dir/*.none",
        ),
        ("COPY --from=first /dir/a /dir/b /x", "several sources need a directory"),
        ("COPY --from=first /big /x", "/big has more than 8 MiB, the limit"),
        ("COPY --from=first /loop /x", "/loop could not be packed: /loop: Too many levels of symbolic links"),
        ("COPY --from=first /dir/l* /x", "there is no file /none; check the path"),
        ("COPY --from=first /pipe /x", "/pipe is no file, directory or link to one"),
        ("COPY --from=first --chown=nobody-here /dir/a /x", "/etc/passwd of the image has no 'nobody-here'"),
        (
            "COPY --from=first /dir /x/a/\nCOPY --from=first /dir/a /x/",
            "line 5: COPY --from=first /dir/a /x/ ended with 1; its last line: /x/a is a directory, so no file",
        ),
        ("COPY --from=first /dir /etc/passwd", "/etc/passwd is there, and is no directory"),
    ],
)
def test_a_copy_that_cannot_be_is_told_with_its_line_and_leaves_no_sandbox(
    bay: Builder, context: Path, small: str, tools: str, copy: str, words: str
) -> None:
    text = f"""FROM {small} AS first
RUN mkdir /dir; touch /dir/a /dir/b; ln -s /none /dir/link; mkfifo /pipe; head -c 9000000 /dev/zero > /big; ln -s loop /loop
FROM {small}
{copy.replace("TOOLS", tools)}
"""
    assert words in bay.build(context, text, code=2 if "several" in words else 1)
    assert bay("ls", "-q") == ""


def test_an_image_of_nothing_but_what_is_copied(bay: Builder, context: Path, small: str, tools: str) -> None:
    text = f"""
FROM {small} AS build
RUN mkdir -p /out/etc /out/deep/er; cp /bin/busybox /out/busybox; echo app:x:1234:56::/:/app > /out/etc/passwd; \
  echo 'staff:x:77:' > /out/etc/group; echo a > /out/deep/er/a.txt; echo b > /out/deep/b.txt; ln -s deep /out/alias; \
  ln -s /out/deep/b.txt /link.txt; truncate -s 1M /out/holes
FROM scratch
COPY --from=build /out /
COPY --from=build /*.txt /out/*/*/*.txt /texts/
COPY --from={tools} / /tools
COPY --chown=app:staff --chmod=640 main.c /src/deep/
COPY main.c /alias/b.txt
USER app
WORKDIR /place
RUN ["/busybox", "touch", "/place/mine"]
ENTRYPOINT ["/busybox", "echo"]
"""
    bay.build(context, text)
    said = bay.inside(
        "cd /; stat -c '%n %u:%g %a' src/deep src/deep/main.c busybox place place/mine; ls texts deep; cat tools/tool tools/etc/more; echo; ls -A tools; cat deep/b.txt; cat texts/link.txt; "
        "stat -c %s holes; ls -d bin usr .bay-build 2>/dev/null; true", "/busybox"
    )  # fmt: skip
    assert said.splitlines() == [
        "src/deep 1234:77 755", "src/deep/main.c 1234:77 640", "busybox 0:0 755", "place 1234:56 755", "place/mine 1234:56 644",
        "deep:", "b.txt", "er", "", "texts:", "a.txt", "link.txt", "a toolmore", "etc", "root", "run", "sys", "tmp", "tool",
        "int main;b", "1048576",
    ]  # fmt: skip


def test_a_root_is_copied_whole_without_what_is_mounted_in_it(
    bay: Builder, context: Path, small: str
) -> None:
    text = f"""
FROM {small} AS build
RUN echo layers > /made; ln -s /bin /links; mkdir /empty; chmod 700 /empty; chown 3:4 /empty
FROM scratch
ENV PATH=/bin
COPY --from=build / /
USER 1000
RUN --mount=type=secret,id=TOKEN cat /made; [ -L /links ] && wc -c < /run/secrets/TOKEN
"""
    log = bay.build(context, text, "--secret", "TOKEN=/run/secrets/TOKEN")
    assert f"\nlayers\n{len(TOKEN)}\n" in log
    assert bay.inside("stat -c '%u:%g %a' /empty; readlink /links; ls -d /.bay-build /.ship/bin; true").splitlines() == [
        "3:4 700", "/bin", "/.ship/bin",
    ]  # fmt: skip


def test_steps_need_no_working_directory_of_the_image(
    bay: Builder, context: Path, hub: Registry, box_layer: Layer
) -> None:
    config = {"config": {"Env": ["PATH=/bin"], "WorkingDir": "/app", "User": "1000"}}
    base = hub.push(ImageFile(layers=(box_layer,), config=config), "small/app", "1")
    text = f"""FROM {base} AS first
USER root
RUN --mount=target=/app cat main.c
WORKDIR /
RUN rm -rf /app; echo made > /made
FROM {base}
USER root
WORKDIR /
RUN rm -rf /app
COPY --from=first /made /x/
RUN cat /x/made
"""
    log = bay.build(context, text)
    assert "\nint main;" in log
    assert "\nmade\n" in log


def test_a_stage_that_fails_ends_the_build_with_its_line(bay: Builder, context: Path, small: str) -> None:
    text = f"FROM {small} AS first\nRUN echo why; exit 3\nFROM {small}\nCOPY --from=first /x /y\n"
    assert "line 2: RUN echo why; exit 3 ended with 3" in bay.build(context, text, code=1)
    assert bay("ls", "-q") == ""
