"""A whole Bay with runc and CRIU, by its SDK and command line: checkpoints with memory, and live forks."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Cli
from hibernating_bay import client, criu_program, server
from serving import KEY, Server

import bay
from bay.errors import CapabilityNotSupported, Conflict

pytestmark = pytest.mark.host

# Fixtures are found by their names here.
__all__ = ["client", "criu_program", "server"]

ROOT = Path(__file__).parents[2]


def test_a_kernel_goes_on_in_the_original_and_in_each_fork(client: bay.Client) -> None:
    """Programs have all that they had, and a fork's new programs what a new sandbox has."""
    client.secrets.set("TOKEN", "first")
    box = client.sandboxes.create(name="origin", env={"COLOUR": "green"}, secrets=["TOKEN"], wait=60)
    box.python.run(
        "import os, random, uuid\n"
        "random.seed(7)\n"
        "made = uuid.uuid4().hex\n"
        "told = os.environ['TOKEN']\n"
        "ballast = b'x' * (64 << 20)\n"
        "held = open('log', 'w+')\n"
        "_ = held.write('begun\\n'); held.flush()"
    )
    client.secrets.set("TOKEN", "second")
    with box.fork(3, name="copy", memory=True) as forks:
        for number, fork in enumerate((box, *forks)):
            fork.python.run(f"print({number}, file=held, flush=True)")
        looks = "print(made, random.random(), told, os.environ['COLOUR'], os.environ['TOKEN'])"
        said = {fork.python.run(looks).text for fork in (box, *forks)}
        assert len(said) == 1
        assert "first green second" in said.pop()
        for number, fork in enumerate((box, *forks)):
            assert fork.files.read("log") == f"begun\n{number}\n".encode()
            assert (fork.usage().memory_bytes or 0) > 64 << 20
        names = [fork.run("hostname").stdout.strip() for fork in (box, *forks)]
        assert names == ["origin", "copy-1", "copy-2", "copy-3"]
        assert {fork.run("echo $COLOUR $TOKEN").stdout for fork in forks} == {"green second\n"}


def test_a_server_and_files_beside_the_workspace_go_on_in_each_fork(client: bay.Client) -> None:
    box = client.sandboxes.create(wait=60)
    box.python.run(
        "import threading, http.server as h\n"
        "server = h.HTTPServer(('127.0.0.1', 9000), h.SimpleHTTPRequestHandler)\n"
        "threading.Thread(target=server.serve_forever, daemon=True).start()"
    )
    box.run("echo outside > /var/tmp/file", user="root")
    asked = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:9000/; cat /var/tmp/file"
    with box.fork(2, memory=True) as forks:
        for one in (*forks, box):
            assert one.run(asked).stdout == "200outside\n"
            one.run("echo its own > /var/tmp/file", user="root")
    box.delete()


def test_a_command_and_its_caller_see_nothing_of_a_fork(client: bay.Client) -> None:
    box = client.sandboxes.create(wait=60)
    counting = "for i in $(seq 400); do echo $i; sleep 0.01; done"
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(box.run, counting)
        while not list(box.execs.list()):
            pass
        forks = [box.fork(memory=True)[0] for _ in range(3)]
        assert calling.result(60).stdout == "".join(f"{number}\n" for number in range(1, 401))
    for fork in forks:
        fork.start(wait=60)
        [inherited] = (one for one in fork.execs.list() if counting in " ".join(one.info.argv))
        assert inherited.wait(60).exit_code == 0  # its copy counts to the end as well
        fork.delete()
    box.delete()


def test_a_volume_that_both_may_only_read_is_in_the_fork(client: bay.Client) -> None:
    cargo = client.cargos.create()
    volume = bay.Volume(cargo=cargo.id, path="/data", read_only=True)
    box = client.sandboxes.create(volumes=[volume], wait=60)
    reader = box.spawn(
        ["sh", "-c", "exec 3< /data; until [ -e go ]; do sleep 0.02; done; ls /data /proc/self/fd/3"]
    )
    [fork] = box.fork(memory=True)
    fork.start(wait=60)
    assert "sandbox.memory_lost" not in [event.type for event in fork.events(follow=False)]
    fork.files.write("go", "")
    assert fork.execs.get(reader.id).wait(60).exit_code == 0
    assert fork.run("touch /data/file").exit_code != 0
    for one in (fork, box):
        one.delete()


def test_execs_of_the_original_are_in_each_fork_under_their_ids(client: bay.Client) -> None:
    box = client.sandboxes.create(wait=60)
    process = box.spawn("echo begun; until [ -e go ]; do sleep 0.02; done; cat go")
    next(iter(process.output()))
    [fork] = box.fork(memory=True)
    fork.start(wait=60)
    assert [one.id for one in fork.execs.list()] == [one.id for one in box.execs.list()]
    fork.files.write("go", "the fork's\n")
    box.files.write("go", "the original's\n")
    assert fork.execs.get(process.id).wait().stdout == "begun\nthe fork's\n"
    assert process.wait().stdout == "begun\nthe original's\n"
    fork.delete()


def test_a_checkpoint_with_memory_is_restored_with_it_or_without(client: bay.Client) -> None:
    box = client.sandboxes.create(wait=60)
    box.files.write("f", "then")
    box.python.run("value = 'then'")
    made = box.checkpoint("kept", memory=True)
    assert made.kind == "memory"
    assert (made.memory_bytes or 0) > 1 << 20
    files = box.checkpoint("files")
    assert (files.kind, files.memory_bytes) == ("files", None)
    for _ in range(2):
        box.files.write("f", "now")
        box.python.run("value = 'now'")
        box.restore("kept")
        assert box.python.run("print(value)").text == "then\n"
        assert box.files.read("f") == b"then"
    box.files.write("f", "now")
    box.restore("kept", memory=False)
    assert box.files.read("f") == b"then"
    assert box.python.run("print('value' in globals())").text == "False\n"
    with pytest.raises(Conflict, match="files alone"):
        box.restore("files", memory=True)
    with pytest.raises(Conflict, match="files alone"):
        box.fork(memory=True, checkpoint="files")
    [fork] = box.fork(memory=True, checkpoint=made)
    assert fork.python.run("print(value)").text == "then\n"
    with client.sandbox(from_checkpoint=made) as other:  # begins with the files alone
        assert other.python.run("print('value' in globals())").text == "False\n"
        assert other.files.read("f") == b"then"
    box.delete_checkpoint("kept")
    assert fork.python.run("print(value)").text == "then\n"
    fork.delete()


def said_by(terminal: bay.Attachment, text: str) -> None:
    """Read its output until it has said that."""
    said = ""
    while text not in said:
        chunk = terminal.read(timeout_s=30)
        assert chunk is not None, said
        said += chunk.data.decode()


def test_a_terminal_stays_attached_while_its_sandbox_is_saved(client: bay.Client) -> None:
    box = client.sandboxes.create(wait=60)
    shell = box.spawn(["bash", "--norc"], tty=True)
    with shell.attach() as terminal:
        for number in range(3):
            box.checkpoint(memory=True)
            terminal.write(f"echo said $(({number} + 40))\n")
            said_by(terminal, f"said {number + 40}")
        [fork] = box.fork(memory=True)
        fork.start(wait=60)
        with fork.execs.get(shell.id).attach() as other:
            other.write("echo also $((40 + 2))\n")
            said_by(other, "also 42")
    fork.delete()


def test_no_memory_leaves_with_an_export(client: bay.Client, tmp_path: Path) -> None:
    box = client.sandboxes.create(wait=60)
    box.python.run("value = 1")
    made = box.checkpoint(memory=True)
    assert box.export_checkpoint(made, tmp_path / "kept") < (made.memory_bytes or 0) / 10
    again = box.import_checkpoint(tmp_path / "kept")
    assert (again.kind, again.memory_bytes) == ("files", None)


def test_the_command_line_has_the_same(server: Server, client: bay.Client) -> None:
    box = client.sandboxes.create(name="by-command", wait=60)
    box.python.run("value = 1")
    cli = Cli(server.url)

    def lines(*arguments: str) -> list[str]:
        done = cli(*arguments)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode().splitlines()

    lines("checkpoint", "create", "by-command", "--name", "kept", "--memory")
    lines("checkpoint", "create", "by-command", "--name", "files")
    heads, kept, files = [line.split() for line in lines("checkpoint", "ls", "by-command")]
    assert heads[6] == "MEMORY"
    assert kept[6].endswith("M")
    assert files[6] == "no"
    box.python.run("value = 2")
    lines("fork", "by-command", "--name", "try", "--count", "2", "--memory")
    assert [client.sandboxes.get(f"try-{n}").python.run("value").text for n in (1, 2)] == ["2", "2"]
    lines("checkpoint", "restore", "by-command", "kept")
    assert box.python.run("value").text == "1"
    lines("checkpoint", "restore", "by-command", "kept", "--no-memory")
    assert box.python.run("value").error is not None
    for name in ("try-1", "try-2"):
        client.sandboxes.get(name).delete()


def test_one_without_a_hibernating_profile_or_without_compute_is_told_the_way_out(client: bay.Client) -> None:
    plain = client.sandboxes.create(profile="plain", wait=60)
    for attempt in (lambda: plain.checkpoint(memory=True), lambda: plain.fork(memory=True)):
        with pytest.raises(CapabilityNotSupported, match="hibernate"):
            attempt()
    cold = client.sandboxes.create(wait=60)
    cold.stop()
    with pytest.raises(Conflict, match="start it"):
        cold.checkpoint(memory=True)


def test_the_example_tries_eight_models_on_data_that_was_made_once(server: Server) -> None:
    given = {**os.environ, "BAY_URL": server.url, "BAY_API_KEY": KEY}
    done = subprocess.run(
        [sys.executable, "-m", "examples.fork_models"],
        cwd=ROOT, env=given, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": error 0.") == 8
    assert re.search(r"go on with the best, of degree 9.*\n +weights( -?\d+\.\d+){10}\n", done.stdout)


def test_the_code_of_the_page_does_what_it_says(client: bay.Client) -> None:
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/memory.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)  # noqa: S102  the tree's own page
    assert names["halves"](client.sandboxes.create(wait=60)) == ["249999500000", "250000000000"]
