"""The SDK against a real Bay with the `fake` driver: real routes, real Ship, no isolation."""

import time
from pathlib import Path

import pytest

import bay


def test_a_sandbox_lives_and_goes(client: bay.Client) -> None:
    with client.sandbox(name="real", labels={"a": "b"}, env={"X": "1"}) as box:
        assert (box.info.status, box.name) == ("ready", "real")
        assert [found.id for found in client.sandboxes.list(label="a:b", status="ready")] == [box.id]
        assert box.run("echo $X").stdout == "1\n"
    with pytest.raises(bay.NotFound):
        client.sandboxes.get("real")


def test_commands_end_as_they_do_anywhere(box: bay.Box) -> None:
    assert box.run("echo out; echo err >&2; exit 3").exit_code == 3
    assert box.run("kill -9 $$").signal == 9
    assert box.run(["no-such-program"]).exit_code == 127
    assert box.run(["od", "-An", "-tx1"], stdin=b"\x00\xff").stdout.split() == ["00", "ff"]
    assert box.run("echo before; sleep 30", timeout_s=0.3).timed_out
    assert box.shell("echo v1").output == "v1\n"


def test_output_is_followed_and_read_again(box: bay.Box) -> None:
    proc = box.spawn("printf abc; sleep 0.1; printf de >&2; exit 5")
    assert [(chunk.offset, chunk.stream, chunk.data) for chunk in proc.output()] == [
        (0, "stdout", b"abc"),
        (3, "stderr", b"de"),
    ]
    assert (proc.info.exit_code, proc.wait().exit_code) == (5, 5)
    assert b"".join(chunk.data for chunk in box.execs.get(proc.id).output(since=1)) == b"bcde"
    assert proc.id in [listed.id for listed in box.execs.list()]


def test_output_that_is_no_longer_kept_shows_as_a_jump(box: bay.Box) -> None:
    proc = box.spawn("head -c 3000000 /dev/zero")
    proc.wait()
    first = next(proc.output())
    assert first.offset > 0
    with pytest.raises(bay.OutputGone):
        next(proc.output(since=0))


def test_being_attached_gives_output_takes_input_and_comes_back(box: bay.Box) -> None:
    proc = box.spawn("echo one; read x; echo $x >&2; read y; exit 6", stdin_open=True)
    with proc.attach() as attached:
        output = iter(attached)
        assert next(output).data == b"one\n"
        attached.write("two\n")
        assert (chunk := next(output)).stream == "stderr"
        assert (chunk.data, attached.offset) == (b"two\n", 8)
    with box.execs.get(proc.id).attach(since=4) as again:
        proc.write("three\n")
        assert b"".join(chunk.data for chunk in again) == b"two\n"
        assert again.exit
        assert again.exit.exit_code == 6
    with proc.attach() as ended:
        assert len(list(ended)) == 2
        with pytest.raises(bay.Conflict):
            ended.write("too late")


def test_a_terminal_is_left_looked_at_and_come_back_to(box: bay.Box) -> None:
    with box.terminal(rows=12, cols=40) as shell:
        shell.write("echo $((40 + 2)) $(stty size)\n")
        text = b""
        for chunk in shell:
            text += chunk.data
            if b"42 12 40" in text:
                break
    proc = box.execs.get(shell.info.id)
    screen = proc.screen()
    assert (screen.rows, screen.cols, "42 12 40" in screen.lines) == (12, 40, True)
    with box.terminal(rows=13, cols=41, exec_id=proc.id) as again:
        assert b"42 12 40" in next(iter(again)).data
        again.write("exit 8\n")
        list(again)
        assert again.exit
        assert again.exit.exit_code == 8


def test_input_is_taken_whole_and_closed(box: bay.Box) -> None:
    proc = box.spawn(["sh", "-c", "wc -c; exit 2"], stdin_open=True)
    proc.write(b"\x00\xff" * 1_000_000)
    proc.write("")
    proc.close_stdin()
    assert (proc.wait(20).stdout.strip(), proc.info.exit_code) == ("2000000", 2)
    with pytest.raises(bay.Conflict):
        proc.write("more")
    with pytest.raises(bay.Conflict):
        proc.signal("TERM")


@pytest.mark.parametrize("signal", ["USR1", "SIGUSR1", 10])
def test_signals_go_by_name_or_number(box: bay.Box, signal: str | int) -> None:
    # Waits in the shell itself: the signal goes to the whole process group.
    proc = box.spawn("trap 'echo got it; exit 4' USR1; echo ready; read x", stdin_open=True)
    output = proc.output()
    assert next(output).data == b"ready\n"
    proc.signal(signal)
    assert b"".join(chunk.data for chunk in output) == b"got it\n"
    assert proc.info.exit_code == 4


def test_processes_are_listed_and_signalled(box: bay.Box) -> None:
    proc = box.spawn(["sleep", "600"])
    [process] = [process for process in box.processes() if process.exec_id == proc.id]
    assert (process.pid, process.command) == (proc.info.pid, "sleep 600")
    box.signal_process(process.pid)
    assert proc.wait(20).signal == 15
    with pytest.raises(bay.NotFound):
        box.signal_process(process.pid)
    with pytest.raises(bay.Forbidden):
        box.signal_process(
            next(process.pid for process in box.processes() if process.exec_id is None), "KILL"
        )


@pytest.mark.prompt
def test_a_command_that_nobody_looks_at_is_ended(box: bay.Box) -> None:
    proc = box.spawn(["sleep", "600"], max_run_after_disconnect_s=0.3)
    with proc.attach() as attached:
        assert attached.info.state == "running"
    while proc.refresh().state == "running":
        time.sleep(0.02)
    assert proc.info.signal == 15


def test_kill_takes_the_whole_tree(box: bay.Box) -> None:
    proc = box.spawn("sleep 600 & echo $!; wait")
    child = int(next(proc.output()).data)
    # The shell may see its child die first and exit by itself, so its own state is either.
    assert proc.kill().state in ("killed", "exited")
    assert box.run(["kill", "-0", str(child)]).exit_code == 1


def test_files_of_any_name_and_size(box: bay.Box, tmp_path: Path) -> None:
    for name in ("中文/ä b.txt", 'qu"ote', "%41&x=1", "./dot"):
        box.files.write(name, b"data")
        assert box.files.read(name) == b"data"
    (tmp_path / "big").write_bytes(b"z" * 5_000_000)
    assert box.files.upload(tmp_path / "big", "big") == 5_000_000
    assert box.files.download("big", tmp_path / "back") == 5_000_000
    assert (tmp_path / "back").read_bytes() == b"z" * 5_000_000
    assert box.files.download_dir("中文", tmp_path / "tree") == 4
    box.files.delete("中文")
    with pytest.raises(bay.FileMissing):
        box.files.read("中文/ä b.txt")


def test_stop_keeps_files_and_the_next_command_wakes(client: bay.Client, box: bay.Box) -> None:
    box.files.write("kept", b"1")
    box.stop()
    assert box.refresh().compute == "cold"
    assert box.run("cat kept").stdout == "1"
    assert box.start(wait=30).status == "ready"
    box.keepalive()
    with client.sandbox(ttl=0) as endless, pytest.raises(bay.SandboxTtlInfinite):
        endless.extend_ttl(60)


def test_errors_are_the_classes_they_were_on_the_server(client: bay.Client, served: tuple[str, str]) -> None:
    with pytest.raises(bay.InvalidArgument):
        client.sandboxes.create(ttl=-1)
    with pytest.raises(bay.BayError, match="nope"):
        client.sandboxes.create(profile="nope")
    with bay.Client(served[0], "wrong") as stranger, pytest.raises(bay.Unauthorized):
        stranger.sandboxes.get("x")
    assert client.health()["status"] == "ok"
    assert "python-default" in [profile.id for profile in client.profiles()]


def test_the_example_of_the_docs_runs(
    served: tuple[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BAY_URL", served[0])
    monkeypatch.setenv("BAY_API_KEY", served[1])
    text = (Path(__file__).parents[2] / "docs" / "sdk.md").read_text(encoding="utf-8")
    examples = [part.partition("```")[0] for part in text.split("```python\n")[1:]]
    whole = next(example for example in examples if example.startswith("import bay"))
    exec(compile(whole, "docs/sdk.md", "exec"), {})  # noqa: S102 — our own documentation
    printed = capsys.readouterr().out
    assert printed.startswith("hello from ")
    assert "[2, 3, 5, 7, 11, 13, 17, 19, 23, 29]" in printed
    assert printed.endswith("\n0\n")


def test_the_history_is_read_and_noted_on(box: bay.Box) -> None:
    with pytest.raises(bay.NotFound):
        box.last_execution()
    ran = box.shell("echo one", description="a try", tags="b,a")
    failed = box.shell("exit 3")
    assert [entry.id for entry in box.history()] == [failed.execution_id, ran.execution_id]
    assert [entry.code for entry in box.history(failed_only=True)] == ["exit 3"]
    assert [entry.code for entry in box.history(success_only=True, tags="a", limit=1)] == ["echo one"]
    assert box.history(offset=2) == box.history(exec_type="python") == box.history(has_notes=True) == []
    assert box.last_execution("shell").id == failed.execution_id
    noted = box.annotate(ran.execution_id, notes="look", tags="")
    assert (noted.description, noted.tags, noted.notes, noted.output) == ("a try", None, "look", "one\n")
    assert box.history_entry(ran.execution_id) == noted
    with pytest.raises(bay.NotFound):
        box.history_entry("exec-0123456789abcdef01234567")
