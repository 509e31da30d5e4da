"""Commands through the SDK: their output, their ends, and what becomes of a broken connection."""

import shlex
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import fault_proxy
import pytest
from real_bay import KEY

import bay


def test_run_gives_both_streams_and_the_exit_code(box: bay.Box) -> None:
    result = box.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code, result.ok) == ("out\n", "err\n", 3, False)
    assert result.exec_id.startswith("exec-")
    assert result.duration_s is not None


def test_run_takes_a_list_of_arguments_as_they_are(box: bay.Box) -> None:
    assert box.run(["printf", "%s", "a b; $HOME"]).stdout == "a b; $HOME"


def test_run_passes_environment_directory_and_stdin(box: bay.Box) -> None:
    box.files.write("sub/x", b"")
    result = box.run('echo "$A"; cat; ls', env={"A": "ä"}, cwd="sub", stdin="in\n")
    assert result.stdout == "ä\nin\nx\n"


def test_stdin_may_be_bytes(box: bay.Box) -> None:
    assert box.run(["od", "-An", "-tx1"], stdin=b"\x00\xff").stdout.split() == ["00", "ff"]


def test_empty_output_is_empty_text(box: bay.Box) -> None:
    result = box.run("true")
    assert (result.stdout, result.stderr, result.ok, str(result)) == ("", "", True, "")


def test_output_that_is_no_text_is_replaced_in_run_and_kept_in_spawn(box: bay.Box) -> None:
    command = ["printf", r"a\377b"]
    assert box.run(command).stdout == "a\ufffdb"
    assert b"".join(chunk.data for chunk in box.spawn(command).output()) == b"a\xffb"


def test_a_signal_is_told_from_an_exit_code(box: bay.Box) -> None:
    result = box.run("kill -9 $$")
    assert (result.exit_code, result.signal, result.outcome) == (None, 9, "was killed by signal 9")


def test_a_program_that_is_not_there_is_exit_127(box: bay.Box) -> None:
    assert box.run(["no-such-program"]).exit_code == 127


def test_a_time_limit_ends_the_command_and_keeps_what_it_printed(box: bay.Box) -> None:
    result = box.run("echo before; sleep 30", timeout_s=0.3)
    assert result.timed_out
    assert (result.stdout, result.ok) == ("before\n", False)


def test_another_thread_ends_a_command_by_the_id_that_was_chosen_for_it(box: bay.Box) -> None:
    exec_id = f"exec-{'5' * 24}"
    with ThreadPoolExecutor(1) as other:
        running = other.submit(box.run, ["sleep", "60"], timeout_s=None, exec_id=exec_id)
        while not running.done():
            with suppress(bay.NotFound):  # it is slow to start
                box.execs.end(exec_id)
        assert running.result(60).signal == 15
    box.execs.end(exec_id)
    assert box.execs.get(exec_id).info.state != "running"


def test_the_end_of_a_command_that_does_not_start_is_an_error(box: bay.Box) -> None:
    with pytest.raises(bay.NotFound):
        box.execs.end(f"exec-{'6' * 24}")


def test_check_raises_with_the_result(box: bay.Box) -> None:
    with pytest.raises(bay.CommandFailed, match=r"exited with 2: no such thing") as caught:
        box.run(["sh", "-c", "echo no such thing >&2; exit 2"], check=True)
    assert caught.value.result.exit_code == 2
    assert isinstance(caught.value, bay.BayError)


def test_check_returns_a_good_result(box: bay.Box) -> None:
    assert box.run("echo fine", check=True).stdout == "fine\n"


def test_a_result_prints_as_a_terminal_would_show_it(box: bay.Box) -> None:
    assert str(box.run("echo out; echo err >&2; exit 1")) == "out\nerr\n[exited with 1]"


def test_shell_is_the_v1_call(box: bay.Box) -> None:
    result = box.shell("echo hello")
    assert (result.success, result.output, result.exit_code) == (True, "hello\n", 0)


def test_spawn_returns_before_the_end_and_output_follows(box: bay.Box) -> None:
    proc = box.spawn("echo one; read x < go; echo two; exit 5; ", stdin="")
    assert proc.info.state == "running"
    box.run(["mkfifo", "go"])
    proc.kill()
    proc = box.spawn("echo one; cat go; exit 5")
    output = proc.output()
    assert next(output).data == b"one\n"
    box.run("echo two > go")
    assert b"".join(chunk.data for chunk in output) == b"two\n"
    assert (proc.info.state, proc.info.exit_code) == ("exited", 5)


def test_output_tells_the_streams_apart_and_counts_bytes(box: bay.Box) -> None:
    chunks = list(box.spawn("printf abc; sleep 0.1; printf de >&2").output())
    assert [(chunk.offset, chunk.stream, chunk.data) for chunk in chunks] == [
        (0, "stdout", b"abc"),
        (3, "stderr", b"de"),
    ]


def test_output_can_be_read_again_and_from_an_offset(box: bay.Box) -> None:
    proc = box.spawn("printf abcdef")
    proc.wait()
    assert b"".join(chunk.data for chunk in proc.output()) == b"abcdef"
    [chunk] = proc.output(since=4)
    assert (chunk.offset, chunk.data) == (4, b"ef")


def test_output_without_follow_ends_with_what_there_is(box: bay.Box) -> None:
    box.run(["mkfifo", "gate"])
    proc = box.spawn("echo here; cat gate")
    assert next(proc.output()).data == b"here\n"
    assert [chunk.data for chunk in proc.output(follow=False)] == [b"here\n"]
    proc.kill()


def test_a_broken_connection_is_taken_up_where_it_broke(
    proxy: fault_proxy.Proxy, client: bay.Client, box: bay.Box
) -> None:
    proc = client.sandboxes.get(box.id).spawn("for i in 1 2 3; do echo $i; sleep 0.05; done")
    with bay.Client(f"{proxy.url}/cut", KEY) as cut:
        again = cut.sandboxes.get(box.id).execs.get(proc.id)
        assert b"".join(chunk.data for chunk in again.output()) == b"1\n2\n3\n"
    assert again.info.exit_code == 0


def test_wait_gives_the_result(box: bay.Box) -> None:
    assert box.spawn("echo done; exit 4").wait(timeout_s=10).exit_code == 4


def test_wait_that_is_too_short_is_a_timeout_and_leaves_the_command(box: bay.Box) -> None:
    proc = box.spawn("sleep 30")
    with pytest.raises(bay.Timeout, match="still runs"):
        proc.wait(timeout_s=0.1)
    assert proc.refresh().state == "running"
    assert proc.kill().signal == 15


def test_two_waits_at_once_each_have_all_of_the_output_once(box: bay.Box) -> None:
    proc = box.spawn("seq 20000")
    with ThreadPoolExecutor() as threads:
        waiting = [threads.submit(proc.wait, 60) for _ in range(2)]
        one, two = (wait.result(60) for wait in waiting)
    assert one.stdout == "".join(f"{number}\n" for number in range(1, 20001))
    assert (two.stdout, proc.wait(60).stdout) == (one.stdout, one.stdout)
    assert (one.ok, two.ok) == (True, True)


def test_a_wait_beside_another_has_a_time_limit_of_its_own(box: bay.Box) -> None:
    proc = box.spawn("echo begun; sleep 600")
    with ThreadPoolExecutor() as threads:
        longer = threads.submit(proc.wait, 60)
        with pytest.raises(bay.Timeout, match="still runs"):
            proc.wait(0.1)
        proc.kill()
        assert longer.result(60).stdout == "begun\n"


def test_kill_of_an_ended_command_is_no_error(box: bay.Box) -> None:
    proc = box.spawn("true")
    proc.wait()
    assert proc.kill().exit_code == 0


def test_execs_are_listed_and_found(box: bay.Box) -> None:
    proc = box.spawn("true")
    assert proc.id in [listed.id for listed in box.execs.list()]
    assert box.execs.get(proc.id).id == proc.id
    with pytest.raises(bay.NotFound):
        box.execs.get("exec-000000000000000000000000")


@pytest.mark.parametrize("exec_id", ["", ".", ".."])
def test_what_is_no_exec_id_cannot_mean_another_path(box: bay.Box, exec_id: str) -> None:
    with pytest.raises(bay.InvalidArgument):
        box.execs.get(exec_id)


def test_a_megabyte_comes_through_whole(box: bay.Box) -> None:
    script = shlex.join(["head", "-c", "1000000", "/dev/zero"])
    assert sum(len(chunk.data) for chunk in box.spawn(script).output()) == 1_000_000
