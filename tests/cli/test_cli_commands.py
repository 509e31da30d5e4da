"""The `bay` executable against a real Bay with the `fake` driver: output, exit codes, signals, pipes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fault_proxy
import pytest
import real_bay
from cli_runner import Cli
from real_bay import KEY

import bay as sdk
from bay.server.settings import ProfileSettings


@pytest.fixture(scope="module")
def client(served: tuple[str, str]) -> Iterator[sdk.Client]:
    """The same Bay, without a `bay` process, of which each takes a third of a second."""
    with sdk.Client(*served) as made:
        yield made


def sandboxes(client: sdk.Client) -> set[str]:
    return {box.id for box in client.sandboxes.list()}


def error(done: "subprocess.CompletedProcess[bytes]") -> dict[str, Any]:
    return json.loads(done.stderr)["error"]


# The life of a sandbox


def test_create_prints_the_id_alone(bay: Cli) -> None:
    done = bay("create", "--profile", "python-default", "--ttl", "1m", "--idle-timeout", "9", "--wait", "5s")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"sandbox-")
    assert done.stdout.count(b"\n") == 1


def test_create_passes_labels_and_environment_on(bay: Cli) -> None:
    made = json.loads(bay("create", "-l", "team=red", "-e", "A=b=c", "--json").stdout)
    assert made["labels"] == {"team": "red"}
    assert bay("exec", made["id"], "--", "printenv", "A").stdout == b"b=c\n"


@pytest.fixture
def broken(real: real_bay.RealBay) -> Iterator[None]:
    """While it lasts, no sandbox can start."""
    real.driver.fail_at = "launch"
    yield
    real.driver.fail_at = None


@pytest.mark.usefixtures("broken")
def test_a_sandbox_that_failed_is_exit_1(bay: Cli) -> None:
    assert bay("create", "--wait", "20s").returncode == 1


def test_get_shows_a_sandbox_to_people_and_to_programs(bay: Cli, name: str) -> None:
    shown = bay("get", name).stdout.decode()
    lines = [line.split() for line in shown.splitlines()]
    assert ["name:", name] in lines
    assert ["status:", "ready"] in lines
    assert json.loads(bay("get", name, "--json").stdout)["name"] == name


def test_usage_shows_figures_with_their_limits(bay: Cli, name: str) -> None:
    bay("exec", name, "true")
    shown = bay("usage", name, "--over", "0.05").stdout.decode()
    lines = dict(line.split(":", 1) for line in shown.splitlines())
    assert list(lines) == ["cpus", "cpu time", "memory", "cache", "pids", "disk"]
    assert all(" of " in lines[figure] for figure in ("cpus", "memory", "pids", "disk"))
    told = json.loads(bay("usage", name, "--json").stdout)
    assert told["pids"] >= 1
    assert told["cpus_used"] is not None


def test_ls_has_one_line_for_each_sandbox(bay: Cli, name: str) -> None:
    lines = bay("ls", "--name-prefix", name).stdout.decode().splitlines()
    assert lines[0].split() == ["ID", "NAME", "STATUS", "COMPUTE", "PROFILE", "AGE"]
    assert lines[1].split()[1:5] == [name, "ready", "running", "python-default"]
    assert len(lines) == 2


def test_ls_quiet_feeds_rm(bay: Cli) -> None:
    for _ in range(3):
        bay("create", "--label", "doomed=yes")
    ids = bay("ls", "-q", "--label", "doomed=yes").stdout.decode().split()
    assert len(ids) == 3
    newest = bay("ls", "-q", "--newest", "--label", "doomed=yes").stdout.decode().split()
    assert newest == ids[::-1]
    assert bay("rm", *ids).returncode == 0
    assert bay("ls", "-q", "--label", "doomed=yes").stdout == b""


def test_stop_start_rm(bay: Cli, name: str) -> None:
    assert json.loads(bay("stop", name, "--json").stdout)["status"] == "idle"
    assert bay("start", name).stdout.decode() == f"{name} ready\n"
    assert json.loads(bay("rm", name, "--json").stdout)["deleted"] is True
    assert bay("get", name).returncode == 2


def test_one_that_is_missing_does_not_keep_the_others(bay: Cli, client: sdk.Client, name: str) -> None:
    other = bay("create").stdout.decode().strip()
    for command in ("stop", "start", "pause", "resume", "rm"):
        done = bay(command, "nope", name, other)
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
        assert b"there is no sandbox nope" in done.stderr
    assert not {name, other} & {box.info.name or box.id for box in client.sandboxes.list()}
    assert bay("rm", "nope").returncode == 2
    assert (bay("rm", "-f", "nope").returncode, bay("rm", "-f", "nope").stderr) == (0, b"")


def test_rm_of_all_removes_all(bay: Cli) -> None:
    bay("create")
    assert bay("rm").returncode == 2
    assert bay("rm", "--all", "box").returncode == 2
    assert bay("rm", "--all").returncode == 0
    assert bay("ls", "-q").stdout == b""
    assert bay("rm", "--all").returncode == 0


def test_what_is_gone_meanwhile_is_no_failure_of_rm_all(bay: Cli, client: sdk.Client) -> None:
    for _ in range(30):
        client.sandboxes.create()
    with bay.start("rm", "--all") as one, bay.start("rm", "--all") as other:
        said = [(each.communicate(timeout=60)[1], each.returncode) for each in (one, other)]
    assert said == [(b"", 0)] * 2
    assert not sandboxes(client)


def test_a_name_that_is_nearly_one_is_named(bay: Cli, client: sdk.Client) -> None:
    name = client.sandboxes.create(name=f"webshop-{os.urandom(4).hex()}").name or ""
    for line in (["get", name[:-1]], ["cp", f"{name[:-1]}:x", "-"], ["exec", name[:-1], "true"]):
        assert f"did you mean {name}?" in bay(*line).stderr.decode()


def test_pause_resume_and_ls_by_compute(bay: Cli, name: str) -> None:
    assert json.loads(bay("pause", name, "--json").stdout)["compute"] == "warm"
    assert bay("ls", "-q", "--compute", "warm", "--name-prefix", name).stdout.count(b"sandbox-") == 1
    assert bay("resume", name).stdout.decode() == f"{name} ready\n"
    assert bay("ls", "-q", "--compute", "warm", "--name-prefix", name).stdout == b""
    bay("stop", name)
    assert bay("pause", name).returncode == 2


def test_update_changes_what_is_named_and_nothing_else(bay: Cli, name: str) -> None:
    arguments = ("--label", "a=b", "--idle-timeout", "never", "--warm-timeout", "0", "--json")
    shown = json.loads(bay("update", name, *arguments).stdout)
    assert (shown["name"], shown["labels"], shown["idle_timeout"], shown["warm_timeout"]) == (
        name,
        {"a": "b"},
        None,
        0,
    )
    shown = json.loads(bay("update", name, "--ttl", "1h", "--on-expiry", "pause", "--json").stdout)
    assert (shown["expires_at"] is None, shown["on_expiry"]) == (False, "pause")
    assert json.loads(bay("update", name, "--ttl", "never", "--json").stdout)["expires_at"] is None
    assert bay("update", name, "--name", "", "--no-labels").stdout == b""
    shown = json.loads(bay("get", shown["id"], "--json").stdout)
    assert (shown["name"], shown["labels"], shown["warm_timeout"]) == (None, {}, 0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((), "name a setting to change"), (("--idle-timeout", "soon"), "it takes seconds or a time such as 10m"),
     (("--label", "a=b", "--no-labels"), "not both"), (("--on-expiry", "stop"), "--on-expiry is delete or pause")],
)  # fmt: skip
def test_update_says_what_is_wrong(bay: Cli, name: str, arguments: tuple[str, ...], said: str) -> None:
    done = bay("update", name, *arguments, "--json")
    assert done.returncode == 2
    assert said in error(done)["message"]


def test_admin_pool_shows_how_full_it_is_and_what_is_in_the_way() -> None:
    profile = ProfileSettings.model_validate({"pool_size": 1, "start": "eager"})
    with real_bay.running(profiles={"python-default": profile}) as real, sdk.Client(*real.where) as client:
        until(lambda: client.admin.pool()[0].ready == 1)
        bay = Cli(real.url)
        head, row = bay("admin", "pool").stdout.decode().splitlines()
        assert head.split()[:4] == ["PROFILE", "TEMPLATE", "SIZE", "READY"]
        assert head.split()[4:] == ["STARTING", "HITS", "MISSES", "FAILURES"]
        assert row.split() == ["python-default", "-", "1", "1", "0", "0", "0", "0"]
        real.driver.fail_at = "launch"
        client.sandboxes.create(wait=20)
        until(lambda: client.admin.pool()[0].failures > 0)
        assert b"is not filled up before" in bay("admin", "pool").stderr
        assert json.loads(bay("admin", "pool", "--json").stdout)["hits"] == 1


def until(condition: Callable[[], bool]) -> None:
    """Return once it holds; each look is a request."""
    for _ in range(2000):
        if condition():
            return
    raise AssertionError("it never held")


# exec


def test_exec_keeps_the_streams_apart_and_exits_as_the_command_does(bay: Cli, name: str) -> None:
    done = bay.process("exec", name, "--", "sh", "-c", "echo out; echo err >&2; exit 42")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 42)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_exec_exits_with_128_and_the_signal(bay: Cli, name: str, number: int) -> None:
    assert bay.process("exec", name, "--", "sh", "-c", f"kill -{int(number)} $$").returncode == 128 + number


def test_exec_passes_bytes_through_untouched(bay: Cli, name: str) -> None:
    every = bytes(range(256)) * 1000
    assert bay("exec", name, "-i", "--", "cat", stdin=every).stdout == every


def test_exec_without_output_prints_nothing(bay: Cli, name: str) -> None:
    done = bay("exec", name, "--", "true")
    assert (done.stdout, done.stderr, done.returncode) == (b"", b"", 0)


def test_exec_does_not_eat_stdin_unless_told(bay: Cli, name: str) -> None:
    assert bay("exec", name, "--", "cat", stdin=b"not for it").stdout == b""


def test_exec_takes_directory_and_environment(bay: Cli, name: str) -> None:
    bay("exec", name, "--", "mkdir", "sub")
    done = bay("exec", name, "--cwd", "sub", "-e", "A=1", "--", "sh", "-c", "basename $PWD; echo $A")
    assert done.stdout == b"sub\n1\n"


def test_exec_options_of_the_command_need_no_quoting(bay: Cli, name: str) -> None:
    assert bay("exec", name, "--", "echo", "--json", "-n", "--", "x").stdout == b"--json -n -- x\n"


def test_exec_out_of_time_is_exit_124(bay: Cli, name: str) -> None:
    done = bay.process("exec", name, "--timeout", "0.2", "--", "sleep", "30")
    assert done.returncode == 124
    assert b"ran out of time" in done.stderr


def test_exec_as_json_is_a_line_for_each_chunk_and_one_for_the_end(bay: Cli, name: str) -> None:
    done = bay("exec", name, "--json", "--", "sh", "-c", "echo hi; exit 3")
    *chunks, end = (json.loads(line) for line in done.stdout.splitlines())
    assert [(chunk["stream"], chunk["data"]) for chunk in chunks] == [("stdout", "aGkK")]
    assert (end["exit_code"], end["state"], end["timed_out"], done.returncode) == (3, "exited", False, 3)


def test_exec_goes_on_after_a_broken_connection(bay: Cli, proxy: fault_proxy.Proxy, name: str) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.05; done"
    done = bay("--url", f"{proxy.url}/cut", "exec", name, "--", "sh", "-c", script)
    assert (done.stdout, done.returncode) == (b"1\n2\n3\n", 0)


def test_exec_streams_while_the_command_runs(bay: Cli, name: str) -> None:
    bay("exec", name, "--", "mkfifo", "gate")
    with bay.start("exec", name, "--", "sh", "-c", "echo first; cat gate") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"first\n"
        bay("exec", name, "--", "sh", "-c", "echo second > gate")
        assert process.communicate(timeout=20)[0] == b"second\n"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_exec_takes_the_command_down_when_it_is_told_to_stop(
    bay: Cli, name: str, number: int, code: int
) -> None:
    with bay.start("exec", name, "--", "sh", "-c", "echo $$; exec sleep 60") as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait(20) == code
    # The `fake` driver runs commands on this machine, so their end can be seen here.
    assert not alive(pid)


def test_ctrl_c_lets_a_command_end_in_its_own_way_and_shows_what_it_says(bay: Cli, name: str) -> None:
    script = "trap 'echo tidied; exit 3' INT; echo up; while :; do sleep 0.05; done"
    with bay.start("exec", name, "bash", "-c", script) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, b"tidied\n", b"")


@pytest.mark.parametrize("again", [False, True])
def test_ctrl_c_ends_a_command_that_does_not_listen(bay: Cli, name: str, again: bool) -> None:
    script = "trap 'echo int' INT; trap '' HUP; echo $$; while :; do sleep 0.05; done"
    with bay.start("exec", name, "bash", "-c", script) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"int\n"
        if again:
            process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert not alive(pid)


def test_ctrl_c_leaves_a_command_that_is_only_looked_at(bay: Cli, name: str) -> None:
    exec_id = bay("exec", "-d", name, "sh", "-c", "echo $$; exec sleep 60").stdout.decode().strip()
    with bay.start("logs", "-f", name, exec_id) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert alive(pid)
    bay("kill", name, exec_id, "--signal", "KILL")


def test_exec_takes_the_command_down_when_nobody_reads(bay: Cli, name: str) -> None:
    script = f"{' '.join(['exec', name])} -- sh -c 'echo $$ >pid; yes' | head -1"
    done = shell(bay, f"bay {script}")
    assert (done.stdout, done.stderr) == (b"y\n", b"")
    pid = int(bay("exec", name, "--", "cat", "pid").stdout)
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def shell(bay: Cli, script: str) -> "subprocess.CompletedProcess[bytes]":
    bindir = Path(sys.executable).parent
    environment = bay.environment | {"PATH": f"{bindir}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", script], capture_output=True, timeout=30, check=False, env=environment
    )


@pytest.mark.parametrize("command", ["ls", "--help", "ls --json", "ls -q"])
def test_a_closed_stdout_is_no_noise(bay: Cli, name: str, command: str) -> None:
    done = shell(bay, f"bay {command} | true")
    assert (done.stdout, done.stderr) == (b"", b"")


# run


def test_run_makes_a_sandbox_and_removes_it(bay: Cli, client: sdk.Client) -> None:
    before = sandboxes(client)
    done = bay.process("run", "-e", "A=1", "--", "sh", "-c", "echo $A; exit 5")
    assert (done.stdout, done.stderr, done.returncode) == (b"1\n", b"", 5)
    assert sandboxes(client) == before


def test_run_keeps_the_sandbox_when_asked(bay: Cli) -> None:
    done = bay("run", "--keep", "--", "true")
    kept = done.stderr.decode().removeprefix("bay: kept ").strip()
    assert bay("get", kept).returncode == 0


def test_run_copies_files_and_directories_in_first(bay: Cli, tmp_path: Path) -> None:
    (tmp_path / "dir" / "deep").mkdir(parents=True)
    (tmp_path / "dir" / "deep" / "f").write_text("deep\n")
    (tmp_path / "g").write_text("flat\n")
    done = bay(
        "run", "--cp", f"{tmp_path}/dir:there", "--cp", f"{tmp_path}/g:", "--", "cat", "there/deep/f", "g"
    )
    assert done.stdout == b"deep\nflat\n"


def test_run_of_a_missing_file_makes_no_sandbox(bay: Cli, client: sdk.Client) -> None:
    before = sandboxes(client)
    done = bay("run", "--cp", "/nope:x", "--", "true")
    assert (done.returncode, done.stderr) == (2, b"error: there is no local file '/nope'\n")
    assert sandboxes(client) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_run_removes_its_sandbox_when_it_is_told_to_stop(
    bay: Cli, client: sdk.Client, number: int, code: int
) -> None:
    before = sandboxes(client)
    with bay.start("run", "--", "sh", "-c", "echo up; sleep 60") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (code, b"", b"")
    assert sandboxes(client) == before


@pytest.mark.usefixtures("broken")
def test_run_in_a_sandbox_that_cannot_start_says_why(bay: Cli) -> None:
    done = bay("run", "--", "true")
    assert done.returncode == 1
    assert b"launch" in done.stderr


# cp


def test_cp_both_ways_keeps_every_byte(bay: Cli, name: str, tmp_path: Path) -> None:
    (tmp_path / "中文.bin").write_bytes(bytes(range(256)) * 2000)
    assert bay("cp", str(tmp_path / "中文.bin"), f"{name}:").returncode == 0
    assert bay("cp", f"{name}:中文.bin", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back").read_bytes() == bytes(range(256)) * 2000


def test_cp_into_a_directory_keeps_the_name(bay: Cli, name: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    (tmp_path / "d").mkdir()
    bay("exec", name, "--", "mkdir", "inside")
    bay("cp", str(tmp_path / "f"), f"{name}:inside")
    bay("cp", str(tmp_path / "f"), f"{name}:made/")
    bay("cp", f"{name}:inside/f", str(tmp_path / "d"))
    assert bay("exec", name, "--", "ls", "inside/f", "made/f").returncode == 0
    assert (tmp_path / "d" / "f").read_text() == "x"


def test_cp_of_a_directory_goes_both_ways(bay: Cli, name: str, tmp_path: Path) -> None:
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "f").write_text("x")
    bay("cp", str(tmp_path / "tree"), f"{name}:")
    assert bay("cp", f"{name}:tree", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back" / "deep" / "f").read_text() == "x"


def test_cp_reads_and_writes_pipes(bay: Cli, name: str) -> None:
    assert bay("cp", "-", f"{name}:piped", stdin=b"\x00\xff").returncode == 0
    assert bay("cp", f"{name}:piped", "-").stdout == b"\x00\xff"


def test_cp_as_json_says_how_much(bay: Cli, name: str) -> None:
    done = bay("cp", "-", f"{name}:piped", "--json", stdin=b"12345")
    assert json.loads(done.stdout) == {"source": "-", "target": f"{name}:piped", "bytes": 5}


@pytest.mark.parametrize("sides", [("a", "b"), ("x:a", "y:b"), ("./x:a", "b")])
def test_cp_needs_one_side_in_a_sandbox(bay: Cli, sides: tuple[str, str]) -> None:
    done = bay("cp", *sides)
    assert (done.returncode, b"one of SRC and DST" in done.stderr) == (2, True)


def test_cp_of_what_is_not_there_says_so_and_leaves_nothing(bay: Cli, name: str, tmp_path: Path) -> None:
    done = bay("cp", f"{name}:nope", str(tmp_path / "x"))
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert bay("cp", str(tmp_path / "nope"), f"{name}:x").returncode == 2


def test_cp_to_where_it_may_not_write_is_one_line(bay: Cli, name: str) -> None:
    bay("cp", "-", f"{name}:x", stdin=b"1")
    done = bay("cp", f"{name}:x", "/nope/dir/x")
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert done.stderr == b"error: /nope/dir/x: No such file or directory\n"


# Errors


def test_an_error_is_one_line_with_the_exit_code_of_its_class(bay: Cli) -> None:
    done = bay.process("get", "nobody")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"error: there is no sandbox nobody; `bay ls` lists yours\n"


def test_an_error_as_json_has_the_shape_of_the_api(bay: Cli) -> None:
    done = bay("get", "nobody", "--json")
    assert (done.returncode, done.stdout) == (2, b"")
    assert (error(done)["code"], error(done)["request_id"][:4]) == ("not_found", "req-")


@pytest.mark.parametrize("arguments", [("frob",), ("rm",), ("ls", "--frob"), ("get", "a", "b"), ("cp", "a")])
def test_a_wrong_command_line_is_one_line_and_exit_2(bay: Cli, arguments: tuple[str, ...]) -> None:
    done = bay.process(*arguments)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert done.stderr.startswith(b"error: ")
    assert b"--help" in done.stderr


@pytest.mark.parametrize("option", [("--env", "X"), ("--env", "=x"), ("--label", "team")])
def test_a_pair_that_is_none_is_named(bay: Cli, option: tuple[str, str]) -> None:
    done = bay("create", *option)
    assert (done.returncode, option[0].encode() in done.stderr) == (2, True)


def test_a_wrong_key_says_what_to_do(bay: Cli) -> None:
    done = bay("--api-key", "wrong", "ls")
    assert (done.returncode, b"BAY_API_KEY" in done.stderr) == (2, True)


def test_no_server_says_what_to_do(bay: Cli) -> None:
    done = bay("ls", BAY_URL="http://127.0.0.1:1")
    assert (done.returncode, b"bay serve" in done.stderr) == (1, True)


@pytest.mark.parametrize("fault", ["html", "garbage", "redirect"])
def test_a_server_that_is_not_bay_is_one_line(bay: Cli, proxy: fault_proxy.Proxy, fault: str) -> None:
    done = bay("--url", f"{proxy.url}/{fault}", "ls", BAY_API_KEY=KEY)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)


def test_the_terminal_is_safe_from_what_a_server_says(bay: Cli) -> None:
    done = bay("get", "x\x1b[31m\r")
    assert b"\x1b" not in done.stderr
    assert b"\r" not in done.stderr
