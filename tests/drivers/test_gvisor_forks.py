"""A whole Bay with gVisor, by its SDK: hibernation, checkpoints with memory and live forks."""

import json
import shutil
from base64 import b64decode
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Semaphore

import httpx
import pytest
import shared_cache
from console_bay import host_with_runc, remove_all
from hibernating_bay import client
from serving import KEY, Server
from test_hibernating_bay import test_variables_of_a_kernel_and_a_listening_port_live_on
from test_live_forks import (
    said_by,
    test_a_checkpoint_with_memory_is_restored_with_it_or_without,
    test_a_kernel_goes_on_in_the_original_and_in_each_fork,
    test_execs_of_the_original_are_in_each_fork_under_their_ids,
)
from websockets.sync.client import connect

import bay
from bay.errors import Conflict

pytestmark = [pytest.mark.host, pytest.mark.long]

# Tests and fixtures are found by their names here.
__all__ = [
    "client",
    "test_a_checkpoint_with_memory_is_restored_with_it_or_without",
    "test_a_kernel_goes_on_in_the_original_and_in_each_fork",
    "test_execs_of_the_original_are_in_each_fork_under_their_ids",
    "test_variables_of_a_kernel_and_a_listening_port_live_on",
]

_PROFILE = {"memory_mb": 512, "hibernate": True, "idle_timeout": 3600, "isolation": "gvisor"}


@pytest.fixture(scope="module")
def server() -> Generator[Server]:
    if shutil.which("runsc") is None:
        pytest.skip("needs runsc; apt-get install runsc")
    profiles = {"python-default": _PROFILE}
    extra = {"BAY_RUNSC": "runsc", "BAY_CRIU": "/no/criu", "BAY_PROFILES": json.dumps(profiles)}
    with host_with_runc(Path(shared_cache.filled()), **extra) as begin, begin(0) as found:
        yield found
        remove_all(found)


def test_those_who_wait_for_a_program_see_nothing_of_a_checkpoint(client: bay.Client) -> None:
    """gVisor saves no connection, so Bay asks again."""
    box = client.sandboxes.create(wait=60)
    wait = "until [ -e /workspace/stop ]; do sleep 0.02; done"
    job = box.spawn(f"echo first; {wait}; echo second")
    output = job.output()
    assert next(output).data == b"first\n"
    begun = "open('/workspace/begun', 'a').write('.')"
    cell = (
        f"import os, time\n{begun}\nwhile not os.path.exists('/workspace/stop'): time.sleep(0.02)\nprint(7)"
    )
    command = f"printf . >> begun; {wait}; echo done"
    with ThreadPoolExecutor(3) as threads:
        waited = threads.submit(job.wait)
        ran = threads.submit(box.run, command)
        answered = threads.submit(box.python.run, cell)
        box.run("until [ $(wc -c < begun) = 2 ]; do sleep 0.02; done", timeout_s=30)
        box.checkpoint(memory=True)
        box.files.write("stop", "")
        assert [chunk.data for chunk in output] == [b"second\n"]
        assert waited.result(30).exit_code == 0
        assert ran.result(30).stdout == "done\n"
        assert answered.result(30).text == "7\n"


def test_an_attachment_goes_on_over_checkpoints_without_a_byte_lost_or_doubled(
    client: bay.Client, server: Server
) -> None:
    """On one WebSocket: the SDK would connect again. Input is on its way at each checkpoint."""
    box = client.sandboxes.create(wait=60)
    job = box.spawn("exec cat", stdin_open=True, max_run_after_disconnect_s=2)
    address = f"{server.url.replace('http', 'ws', 1)}/v1/sandboxes/{box.id}/execs/{job.id}/attach"
    sent, enough, on_the_way = bytearray(), Event(), Semaphore(50)
    with (
        ThreadPoolExecutor(2) as threads,
        connect(address, additional_headers={"Authorization": f"Bearer {KEY}"}) as socket,
    ):

        def write() -> None:
            while not enough.is_set():
                assert on_the_way.acquire(timeout=30)
                line = f"{len(sent)} {'x' * 200}\n".encode()
                socket.send(b"\0" + line)
                sent.extend(line)
            socket.send(b"\4")

        def read() -> tuple[bytes, str]:
            assert isinstance(socket.recv(30), str)
            said = bytearray()
            while isinstance(message := socket.recv(60), bytes):
                said += message[1:]
                for _ in range(message.count(b"\n")):
                    on_the_way.release()
            return bytes(said), message

        reading, writing = threads.submit(read), threads.submit(write)
        try:
            for _ in range(2):
                box.checkpoint(memory=True)
                before = len(sent)
                box.run("true")
                assert len(sent) > before
        finally:
            enough.set()
        writing.result(60)
        said, end = reading.result(60)
    assert said == sent
    assert json.loads(end)["exit_code"] == 0


def test_output_that_is_followed_by_one_call_goes_on_over_a_checkpoint(
    client: bay.Client, server: Server
) -> None:
    box = client.sandboxes.create(wait=60)
    job = box.spawn("echo first; until [ -e stop ]; do sleep 0.02; done; echo second")
    address = f"{server.url}/v1/sandboxes/{box.id}/execs/{job.id}/output?follow=true"
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.stream("GET", address, headers=headers, timeout=30) as answer:
        lines = answer.iter_lines()
        assert b64decode(json.loads(next(lines))["data"]) == b"first\n"
        box.checkpoint(memory=True)
        box.files.write("stop", "")
        second, end = map(json.loads, lines)
    assert b64decode(second["data"]) == b"second\n"
    assert end["exit_code"] == 0


def test_a_terminal_goes_on_over_a_fork_and_is_attached_in_it_too(client: bay.Client) -> None:
    box = client.sandboxes.create(wait=60)
    shell = box.spawn(["bash", "--norc"], tty=True)
    with shell.attach() as terminal:
        terminal.write("value=40\n")
        [fork] = box.fork(memory=True)
        terminal.write("echo said $((value + 1))\n")
        said_by(terminal, "said 41")
        fork.start(wait=60)
        with fork.execs.get(shell.id).attach() as other:
            other.write("echo also $((value + 2))\n")
            said_by(other, "also 42")
    fork.delete()


def test_an_attached_cell_is_not_interrupted_by_a_checkpoint_which_is_refused(client: bay.Client) -> None:
    box = client.sandboxes.create(wait=60)
    wait = "import os, time\nopen('/workspace/begun', 'w')\nwhile not os.path.exists('/workspace/stop'): time.sleep(0.02)"
    with ThreadPoolExecutor(1) as threads:
        answered = threads.submit(box.python.run, f"{wait}\nprint(7)", attached=True)
        box.run("until [ -e begun ]; do sleep 0.02; done", timeout_s=30)
        with pytest.raises(Conflict, match="under way"):
            box.checkpoint(memory=True)
        box.files.write("stop", "")
        assert answered.result(30).text == "7\n"
