"""Dockerfiles: what Docker documents, and what is refused."""

from dataclasses import replace

import pytest

from bay.builds.dockerfile import Dockerfile
from bay.builds.steps import SCRIPT, BuildConfig, BuildPlan, Copy, InlineFile, MakeWorkdir, Run
from bay.errors import InvalidArgument

pytestmark = pytest.mark.pure

BASE = BuildConfig(env={"PATH": "/usr/bin:/bin"}, cmd=("bash",))


def plan(body: str, args: dict[str, str] | None = None, base: BuildConfig = BASE) -> BuildPlan:
    return Dockerfile.read(f"FROM debian:13\n{body}", args).plan(base)


def commands(body: str, args: dict[str, str] | None = None) -> list[str]:
    return [step.argv[-1] for step in plan(body, args).steps if isinstance(step, Run)]


def copies(body: str) -> list[Copy]:
    return [step for step in plan(body).steps if isinstance(step, Copy)]


def refused(text: str, args: dict[str, str] | None = None) -> str:
    with pytest.raises(InvalidArgument) as caught:
        Dockerfile.read(text, args).plan(BASE)
    return caught.value.message


def refused_behind_from(body: str) -> str:
    return refused(f"FROM debian:13\n{body}")


def test_a_whole_file_becomes_steps_and_a_config() -> None:
    found = plan(
        """
# A comment
ARG VERSION=1
ENV APP=/app MODE="two words"
WORKDIR $APP
COPY --chown=app:staff --chmod=0755 bin/ lib/ ./
RUN make \\
    # in between
    install
USER app
EXPOSE 80 53/udp 8000-8010
LABEL a=b "c d"="e f"
STOPSIGNAL SIGINT
HEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 CMD curl localhost
ENTRYPOINT ["serve"]
CMD ["--port", "80"]
"""
    )
    directory, copy, run = found.steps
    assert isinstance(directory, MakeWorkdir)
    assert directory.path == "/app"
    assert isinstance(copy, Copy)
    assert (copy.sources, copy.target, copy.owner, copy.mode) == (("bin", "lib"), "/app/", "app:staff", 0o755)
    assert isinstance(run, Run)
    assert run.argv == ("/bin/sh", "-c", "make     install")
    assert run.working_dir == "/app"
    assert run.user == ""
    assert run.line == 8
    assert run.env == {"PATH": "/usr/bin:/bin", "APP": "/app", "MODE": "two words", "VERSION": "1"}
    config = found.config
    assert config.env == {"PATH": "/usr/bin:/bin", "APP": "/app", "MODE": "two words"}
    assert (config.user, config.working_dir, config.stop_signal) == ("app", "/app", "SIGINT")
    assert (config.entrypoint, config.cmd) == (("serve",), ("--port", "80"))
    assert config.exposed_ports == ("80/tcp", "53/udp", "8000-8010/tcp")
    assert config.labels == {"a": "b", "c d": "e f"}
    assert config.healthcheck == {
        "test": ("CMD-SHELL", "curl localhost"), "interval_s": 90.0, "timeout_s": 0.5, "start_period_s": None,
        "start_interval_s": None, "retries": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "command"),
    [
        ("RUN echo a\\\nb", "echo ab"),
        ("RUN echo a \\  \n  b", "echo a   b"),
        ("RUN echo a \\\n\n\n  b", "echo a   b"),
        ("RUN echo a \\\n# note \\\n  b", "echo a   b"),
        ("RUN echo a\\\\\nRUN echo b", "echo a\\\\"),
        ("run\techo a", "echo a"),
        ("   RUN   echo a   ", "echo a"),
        ("RUN echo '#no comment'", "echo '#no comment'"),
        ("RUN [ -d / ] && echo yes", "[ -d / ] && echo yes"),
        ("RUN ['single', 'quotes']", "['single', 'quotes']"),
        ("RUN echo $HOME ${A:-b}", "echo $HOME ${A:-b}"),
        ("RUN echo $((1 << 3))", "echo $((1 << 3))"),
        ("RUN echo a\r\n", "echo a"),
    ],
)
def test_a_command_for_the_shell_is_as_docker_reads_it(body: str, command: str) -> None:
    assert commands(body)[0] == command


def test_a_command_in_the_exec_form_has_no_shell() -> None:
    step = plan('RUN ["/bin/echo", "a b", "\\u00e9"]').steps[0]
    assert isinstance(step, Run)
    assert step.argv == ("/bin/echo", "a b", "é")


def test_shell_changes_the_commands_after_it_and_the_cmd() -> None:
    found = plan('RUN a\nSHELL ["/bin/bash", "-o", "pipefail", "-c"]\nRUN b\nCMD c')
    assert [step.argv for step in found.steps if isinstance(step, Run)] == [
        ("/bin/sh", "-c", "a"),
        ("/bin/bash", "-o", "pipefail", "-c", "b"),
    ]
    assert found.config.cmd == ("/bin/bash", "-o", "pipefail", "-c", "c")


@pytest.mark.parametrize(
    ("body", "command"),
    [
        ("RUN <<EOF\na\nb $X\nEOF", "a\nb $X\n"),
        ("RUN <<-EOF\n\ta\n\tb\n\tEOF", "a\nb\n"),
        ("RUN cat <<EOF > /x\na\nEOF\nRUN z", "cat <<EOF > /x\na\nEOF"),
        ("RUN cat <<A <<'B'\n1\nA\n2\nB", "cat <<A <<'B'\n1\nA\n2\nB"),
        ("RUN python3 - <<EOF\nprint(1)\nEOF", "python3 - <<EOF\nprint(1)\nEOF"),
        ("RUN <<EOF\n# no comment\n\nx \\\ny\nEOF", "# no comment\n\nx \\\ny\n"),
        ("RUN [ 1 ] && cat <<EOF\na\nEOF", "[ 1 ] && cat <<EOF\na\nEOF"),
    ],
)
def test_a_heredoc_is_run_as_docker_runs_it(body: str, command: str) -> None:
    assert commands(body)[0] == command


def test_a_heredoc_with_its_own_interpreter_is_a_script() -> None:
    step = plan("RUN <<EOF\n#!/usr/bin/python3\nprint(1)\nEOF").steps[0]
    assert isinstance(step, Run)
    assert step.script == "#!/usr/bin/python3\nprint(1)\n"
    assert step.argv == ("/bin/sh", "-c", SCRIPT)


def test_heredocs_are_files_of_a_copy() -> None:
    found = copies(
        "ENV X=1\nCOPY <<a.txt <<'b.txt' /etc/\n$X \"q\" \\$X\na.txt\n$X\nb.txt\nCOPY <<-EOF /one\n\ttab\nEOF"
    )
    assert found[0].inline == (InlineFile("a.txt", '1 "q" $X\n'), InlineFile("b.txt", "$X\n"))
    assert found[0].sources == ()
    assert found[0].target == "/etc/"
    assert found[1].inline == (InlineFile("EOF", "tab\n"),)
    assert found[1].target == "/one"


@pytest.mark.parametrize(
    ("body", "sources", "target"),
    [
        ("COPY a /x", ("a",), "/x"),
        ("COPY a b /x/", ("a", "b"), "/x/"),
        ("COPY . .", (".",), "/w/"),
        ("COPY ./a/../b x", ("b",), "/w/x"),
        ("COPY /abs ../../../etc/passwd /x/", ("abs", "etc/passwd"), "/x/"),
        ('COPY ["a b", "c d/"]', ("a b",), "/w/c d/"),
        ("COPY $D/*.py /x/", ("src/*.py",), "/x/"),
        ("ADD a /", ("a",), "/"),
    ],
)
def test_a_copy_has_sources_below_the_context_and_an_absolute_target(
    body: str, sources: tuple[str, ...], target: str
) -> None:
    step = copies(f"WORKDIR /w\nENV D=src\n{body}")[0]
    assert (step.sources, step.target) == (sources, target)


def test_directories_are_joined() -> None:
    found = plan("WORKDIR /a\nWORKDIR b\nWORKDIR ../c\nRUN pwd")
    assert [step.path for step in found.steps if isinstance(step, MakeWorkdir)] == ["/a", "/a/b", "/a/c"]
    assert found.config.working_dir == "/a/c"


def test_an_entry_point_drops_the_command_of_the_base_and_not_its_own() -> None:
    assert plan('ENTRYPOINT ["a"]').config.cmd == ()
    assert plan('CMD ["b"]\nENTRYPOINT ["a"]').config.cmd == ("b",)
    assert plan("ENTRYPOINT []", base=replace(BASE, entrypoint=("x",))).config.entrypoint == ()


def test_values_of_one_instruction_are_of_the_time_before_it() -> None:
    found = plan("ENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc")
    assert (found.config.env["def"], found.config.env["ghi"]) == ("hello", "bye")


def test_the_old_form_of_env_takes_the_rest_of_the_line() -> None:
    assert plan("ENV A  some  words = x").config.env["A"] == "some  words = x"


def test_a_variable_of_the_base_counts() -> None:
    assert plan("ENV PATH=/opt/bin:$PATH").config.env["PATH"] == "/opt/bin:/usr/bin:/bin"


# Arguments ------------------------------------------------------------------------------------------------


def test_an_argument_has_its_default_its_given_value_or_none() -> None:
    body = "ARG A=one\nARG B\nARG C=${A}x\nRUN x"
    step = plan(body).steps[0]
    assert isinstance(step, Run)
    assert step.env == {**BASE.env, "A": "one", "C": "onex"}
    step = plan(body, {"A": "1", "B": "2"}).steps[0]
    assert isinstance(step, Run)
    assert step.env == {**BASE.env, "A": "1", "B": "2", "C": "1x"}


def test_an_argument_counts_from_its_line_on_and_env_wins() -> None:
    found = plan("USER ${U:-some}\nARG U\nUSER $U\nENV U=envs\nUSER $U", {"U": "given"})
    assert found.config.user == "envs"
    assert plan("USER ${U:-some}\nARG U", {"U": "given"}).config.user == "some"


def test_no_argument_stays_in_the_image() -> None:
    assert "TOKEN" not in plan("ARG TOKEN\nRUN x", {"TOKEN": "t"}).config.env


def test_an_argument_before_from_is_for_from_and_for_those_who_ask() -> None:
    text = "ARG V=13\nARG N=debian:$V\nFROM ${N} AS base\nRUN a\nARG V\nRUN b"
    file = Dockerfile.read(text)
    first, second = file.plan(BASE).steps
    assert file.stages[0].base == "debian:13"
    assert isinstance(first, Run)
    assert "V" not in first.env
    assert isinstance(second, Run)
    assert second.env["V"] == "13"
    assert Dockerfile.read(text, {"V": "12"}).stages[0].base == "debian:12"


def test_the_platform_and_the_proxies_are_known() -> None:
    file = Dockerfile.read("FROM a\nARG TARGETARCH\nRUN x", {"http_proxy": "http://p"})
    step = file.plan(BASE, "linux/arm64/v8").steps[0]
    assert isinstance(step, Run)
    assert step.env["TARGETARCH"] == "arm64"
    assert step.env["http_proxy"] == "http://p"


def test_an_argument_that_nothing_asks_for_is_told() -> None:
    found = plan("ARG A\nRUN x", {"A": "1", "B": "2", "HTTP_PROXY": "p"})
    assert found.unused_args == ("B",)


# The escape character -------------------------------------------------------------------------------------


def test_another_escape_character_leaves_backslashes_alone() -> None:
    text = "# syntax=docker/dockerfile:1\n# escape=`\n\nFROM a\nWORKDIR /x\\y\nRUN a `\n b\nENV A=`$B"
    found = Dockerfile.read(text).plan(BuildConfig())
    assert found.config.working_dir == "/x\\y"
    assert found.config.env["A"] == "$B"
    assert [step.argv[-1] for step in found.steps if isinstance(step, Run)] == ["a  b"]


def test_a_directive_below_a_comment_is_a_comment() -> None:
    found = Dockerfile.read("# note\n# escape=`\nFROM a\nRUN a \\\n b").plan(BuildConfig())
    assert isinstance(found.steps[0], Run)
    assert found.steps[0].argv[-1] == "a  b"


# Refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "subject"),
    [
        ("RUN --mount=type=cache,target=/x,from=b y", "type=cache,from"),
        ("RUN --network=none y", "RUN --network"),
        ("COPY --parents x /y", "COPY --parents"),
        ("ONBUILD RUN x", "ONBUILD"),
    ],
)
def test_what_is_outside_of_the_subset_is_refused_with_its_line_and_the_way_out(
    body: str, subject: str
) -> None:
    message = refused_behind_from(f"\n\n{body}")
    assert message.startswith("Dockerfile line 4: ")
    assert subject in message
    assert "`bay image import`" in message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("VOLUME /x", "leave it out"),
        ("MAINTAINER me", "LABEL"),
        ("ADD https://example.com/x /y", "RUN"),
        ("ADD git@example.com:x.git /y", "RUN"),
        ("RUM x", "'RUM' is no instruction"),
        ("RUN", "nothing behind it"),
        ("RUN []", "names no command"),
        ("COPY a", "a target"),
        ("COPY a b /x", "write /x/"),
        ("COPY --chmod=u+x a /x", "octal"),
        ("COPY --chmod=9 a /x", "octal"),
        ("COPY --chown=a:b:c a /x", "USER:GROUP"),
        ("COPY <<EOF /x\nno end", "heredoc EOF has no end"),
        ("COPY <<a/b /x/\na/b", "name of a file"),
        ("COPY [a /x", "no pattern"),
        ("ENV A", "has no value"),
        ("ENV A=1 B", "is not NAME=VALUE"),
        ("ENV =1", "name of a variable"),
        ("ENV A='x", "no second one"),
        ("ENV A=${B", "} is missing"),
        ("ENV A=${B#x}", "patterns"),
        ('ENV A="${B:?set it}"', "B: set it"),
        ("ENV A=${}", "names no variable"),
        ("ARG =x", "no name"),
        ("USER a b", "USER:GROUP"),
        ("USER $NONE", "USER:GROUP"),
        ("WORKDIR $NONE", "empty"),
        ("EXPOSE 0", "no port"),
        ("EXPOSE 9-8", "no port"),
        ("STOPSIGNAL kill it", "no signal"),
        ("SHELL bash -c", "JSON"),
        ("SHELL []", "JSON"),
        ("HEALTHCHECK x", "CMD COMMAND"),
        ("HEALTHCHECK NONE x", "CMD COMMAND"),
        ("HEALTHCHECK --interval=5 CMD x", "no duration"),
        ("HEALTHCHECK --retries=-1 CMD x", "number"),
        ("HEALTHCHECK --nope=1 CMD x", "HEALTHCHECK --nope"),
        ("RUN a\0b", "NUL"),
    ],
)
def test_a_fault_is_refused_with_its_line(body: str, words: str) -> None:
    message = refused_behind_from(f"RUN x\n{body}")
    assert message.startswith("Dockerfile line 3: ")
    assert words in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no instructions"),
        ("# only a comment", "no instructions"),
        ("RUN x", "line 1: RUN stands before FROM"),
        ("ARG A", "no FROM"),
        ("FROM $NONE", "names no image"),
        ("FROM a b", "IMAGE AS NAME"),
        ("# escape=x\nFROM a", "line 1: the escape character"),
        ("# escape=`\n# escape=`\nFROM a", "line 2: the parser directive escape"),
        ("FROM a\n" + "RUN x\n" * 1000, "the limit is 1000"),
        ("FROM a\n#" + "x" * (1 << 20), "MiB"),
    ],
)
def test_a_file_that_is_none_is_refused(text: str, words: str) -> None:
    assert words in refused(text)


@pytest.mark.parametrize(
    "body",
    [
        "COPY " + "--link " * 140_000 + "x /y",
        "RUN " + "--mount=type=tmpfs,target=/t " * 30_000 + "x",
        "COPY --chown=1 --chown=2 x /y",
    ],
    ids=["one again and again", "mounts", "twice"],
)
def test_many_flags_are_refused_at_once(body: str) -> None:
    assert "line 2: " in refused_behind_from(body)


@pytest.mark.parametrize(
    "body",
    [
        "RUN --mount=type=tmpfs,target=/x," + ",".join(f"a{at}=$A$A" for at in range(1000)) + " x",
        "COPY " + "$A$A " * 990 + "/x/",
        "COPY " + "$A$A " * 5000 + "/x/",
        "COPY "
        + " ".join(f"<<a{at}" for at in range(900))
        + " /x/\n"
        + "".join(f"$A$A\na{at}\n" for at in range(900)),
    ],
    ids=["options", "sources", "many sources", "heredocs"],
)
def test_variables_that_make_much_text_are_refused_soon(body: str) -> None:
    assert "line 3: " in refused_behind_from(f"ARG A={'x' * 60_000}\n{body}")


def test_variables_that_double_end_at_a_bound() -> None:
    body = "ENV A=0123456789\n" + "ENV A=$A$A\n" * 30
    assert "the limit" in refused_behind_from(body)


def test_many_variables_in_each_other_are_refused() -> None:
    assert "lie in each other" in refused_behind_from("ENV A=" + "${B:-" * 5000 + "}" * 5000)


def test_a_command_that_no_kernel_takes_is_refused() -> None:
    assert "copy it in as a script" in refused_behind_from("RUN <<EOF\n" + f"{'x' * 50_000}\n" * 3 + "EOF")
