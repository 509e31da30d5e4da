"""Each promise about one sandbox once, with real parts, through the SDK. What each means in full is tested
in the folders of its noun.
"""

import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from lab import Lab
from serving import KEY

from bay import Client
from bay.client import Box
from bay.errors import NotFound
from bay.models import SandboxSecret, ServiceSpec, Volume

SERVER = ("python3", "-m", "http.server", "8000")


@pytest.fixture(scope="module")
def box(bay: Lab) -> Generator[Box]:
    """A sandbox that tests share which change nothing that another one sees."""
    with Client(bay.server.url, KEY) as client, client.sandbox(name="shared") as made:
        yield made


def test_a_create_gives_a_sandbox_that_runs_under_its_name(client: Client) -> None:
    with client.sandbox(name="web") as made:
        assert (made.info.name, made.info.status, made.info.compute) == ("web", "ready", "running")
        assert client.sandboxes.get("web").id == made.id
    with pytest.raises(NotFound):
        client.sandboxes.get("web")


def test_an_exec_has_both_outputs_and_its_exit_code(box: Box) -> None:
    done = box.run("echo out; echo err >&2; exit 3")
    assert (done.stdout, done.stderr, done.exit_code) == ("out\n", "err\n", 3)


def test_an_exec_is_not_root_and_sees_no_process_of_the_host(box: Box) -> None:
    assert box.run("id -u").stdout != "0\n"
    assert sys.executable not in box.run("cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'").stdout


def test_an_exec_that_takes_too_long_is_ended_with_all_it_started(box: Box) -> None:
    done = box.run("sleep 61 & sleep 62", timeout_s=0.2)
    assert done.timed_out
    assert [one.command for one in box.processes() if "sleep" in one.command] == []


def test_an_exec_gets_its_input_to_the_end(box: Box) -> None:
    assert box.run("wc -c", stdin=b"x" * 100_000).stdout == "100000\n"


def test_a_million_bytes_of_output_arrive_each_once(box: Box) -> None:
    text = box.run("seq 1 150000").stdout
    assert text == "".join(f"{number}\n" for number in range(1, 150_001))


def test_an_attachment_that_is_left_is_taken_up_where_it_was(box: Box) -> None:
    proc = box.spawn("echo one; read line; echo two $line", stdin_open=True)
    with proc.attach() as first:
        chunk = first.read(20)
        assert chunk is not None
        assert chunk.data == b"one\n"
        left = first.offset
    proc.write("more\n")
    with proc.attach(since=left) as again:
        assert b"".join(chunk.data for chunk in again) == b"two more\n"
        assert again.exit is not None
        assert again.exit.exit_code == 0


def test_a_signal_reaches_the_program(box: Box) -> None:
    proc = box.spawn("trap 'echo caught; exit 7' USR1; echo up; while :; do sleep 0.01; done")
    next(iter(proc.output()))
    proc.signal("USR1")
    assert proc.wait(20).exit_code == 7


def test_a_terminal_has_the_size_that_it_was_given(box: Box) -> None:
    with box.terminal(rows=33, cols=111) as terminal:
        terminal.write("stty size; exit\n")
        said = b"".join(chunk.data for chunk in terminal)
    assert b"33 111" in said


def test_a_kernel_keeps_its_variables(box: Box) -> None:
    assert box.python.run("x = 6").status == "ok"
    assert box.python.run("x * 7").results[0]["text/plain"] == "42"


def test_files_are_written_read_listed_edited_and_deleted(box: Box) -> None:
    box.files.write("notes/a.txt", "hello")
    assert box.files.edit("notes/a.txt", "hello", "bye") == 1
    assert box.files.read_text("notes/a.txt") == "bye"
    assert [one.name for one in box.files.list("notes")] == ["a.txt"]
    box.files.delete("notes")
    assert not box.files.exists("notes")


def test_no_path_of_a_file_leads_to_the_host(box: Box, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    box.run(["ln", "-s", str(secret), "link"], check=True)
    for path in ("link", str(secret), f"../../../../..{secret}"):
        with pytest.raises(NotFound):
            box.files.read(path)


def test_a_directory_goes_up_and_comes_down_as_it_is(box: Box, tmp_path: Path) -> None:
    (tmp_path / "up/deep").mkdir(parents=True)
    (tmp_path / "up/deep/a").write_bytes(bytes(range(256)))
    box.files.upload_dir(tmp_path / "up", "tree")
    box.files.download_dir("tree", tmp_path / "down")
    assert (tmp_path / "down/deep/a").read_bytes() == bytes(range(256))


def test_a_watch_tells_of_a_change(box: Box) -> None:
    with box.files.watch(".") as watch:
        box.run("echo > watched", check=True)
        assert any(str(event.path).endswith("watched") for event in watch)


def test_an_app_in_a_sandbox_is_reached_at_its_port(client: Client) -> None:
    with client.sandbox() as box:
        box.files.write("index.html", "served")
        box.spawn(SERVER)
        assert box.fetch(8000).text == "served"
        with box.tunnel(8000) as tunnel:
            tunnel.send(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while piece := tunnel.receive():
                answer += piece
        assert answer.endswith(b"served")


def test_a_service_is_started_with_each_session(client: Client) -> None:
    with client.sandbox() as box:
        box.files.write("index.html", "served")
        box.services.put(ServiceSpec(name="web", argv=SERVER, http_port=8000), wait=20)
        box.stop()
        assert box.fetch(8000).text == "served"


def test_a_secret_is_a_variable_of_commands_and_no_answer_has_it(bay: Lab, client: Client) -> None:
    client.secrets.set("token", "s3cr3t-value")
    with client.sandbox(secrets=[SandboxSecret(name="token", env="TOKEN")]) as box:
        assert box.run("echo $TOKEN").stdout == "s3cr3t-value\n"
        for path in ("/v1/secrets", f"/v1/sandboxes/{box.id}", "/v1/events"):
            assert "s3cr3t-value" not in bay.call("GET", path).text
    client.secrets.delete("token")
    assert "s3cr3t-value" not in bay.log()


def test_a_stop_keeps_the_files_and_the_next_call_starts_it(client: Client) -> None:
    with client.sandbox() as box:
        box.files.write("kept", "yes")
        box.stop()
        assert box.refresh().compute == "cold"
        assert box.run("cat kept").stdout == "yes"
        assert box.refresh().compute == "running"


def test_a_pause_keeps_what_runs_and_the_next_call_resumes_it(client: Client) -> None:
    with client.sandbox() as box:
        proc = box.spawn("read line; echo got $line", stdin_open=True)
        assert box.pause().compute == "warm"
        proc.write("it\n")
        assert proc.wait(20).stdout == "got it\n"


def test_a_restore_brings_back_the_files_of_a_checkpoint(client: Client) -> None:
    with client.sandbox() as box:
        box.files.write("a", "before")
        made = box.checkpoint("first")
        box.files.write("a", "after")
        assert [one.path for one in box.diff_checkpoint(made)] == ["/workspace/a"]
        box.restore("first")
        assert box.files.read_text("a") == "before"


def test_forks_begin_with_the_files_and_go_their_own_ways(client: Client) -> None:
    with client.sandbox() as box:
        box.files.write("a", "one")
        with box.fork(2, name="try") as forks:
            assert [fork.name for fork in forks] == ["try-1", "try-2"]
            forks[0].files.write("a", "two")
            assert [one.files.read_text("a") for one in (box, *forks)] == ["one", "two", "one"]


def test_a_volume_is_shared_by_those_who_mount_it(client: Client) -> None:
    cargo = client.cargos.create()
    volume = Volume(cargo=cargo.id, path="/data")
    with client.sandbox(volumes=[volume]) as box:
        box.run("echo kept > /data/a", check=True)
    with client.sandbox(volumes=[volume]) as box:
        assert box.run("cat /data/a").stdout == "kept\n"
    client.cargos.delete(cargo.id)


def test_a_size_is_held(client: Client) -> None:
    with client.sandbox(memory_mb=128, pids=32) as box:
        assert not box.run(["python3", "-c", "bytearray(300 << 20)"]).ok
        assert "unavailable" in box.run("for i in $(seq 64); do sleep 0.1 & done; wait").stderr
        assert box.run("echo still here").stdout == "still here\n"


def test_a_program_in_a_sandbox_can_neither_mount_nor_see_a_device(box: Box) -> None:
    for attempt in ("mount -t tmpfs none /mnt", "mknod /tmp/disk b 8 0", "unshare -Ur true", "dmesg"):
        assert not box.run(attempt).ok, attempt
    assert "/dev/sda" not in box.run("ls /dev").stdout


def test_events_tell_what_became_of_a_sandbox(client: Client) -> None:
    with client.sandbox() as box:
        box.stop()
        told = [event.type for event in box.events(follow=False)]
    assert told[0] == "sandbox.created"
    assert "sandbox.stopped" in told


def test_a_key_sees_no_sandbox_of_another_owner(bay: Lab, box: Box, client: Client) -> None:
    made = client.keys.create("other", owner="other")
    with Client(bay.server.url, made.secret) as other:
        assert list(other.sandboxes.list()) == []
        with pytest.raises(NotFound):
            other.sandboxes.get(box.id)
    client.keys.revoke(made.id)
