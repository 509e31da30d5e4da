"""Every byte of what a command prints, through the SDK and a real Bay: whoever reads it, however late and
however slowly.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import anyio
import pytest

import bay
from bay.models import OutputChunk

MIB = 1 << 20
COUNT = 1_000_000
NUMBERS = b"".join(b"%d\n" % i for i in range(1, COUNT + 1))
"""What `seq COUNT` prints, 6.9 MB."""

SEQ = ["seq", str(COUNT)]


@pytest.fixture(scope="module")
def box(served: tuple[str, str]) -> Iterator[bay.Box]:
    with bay.Client(*served, timeout_s=30) as client, client.sandbox() as made:
        yield made


def same(one: bytes, other: bytes) -> bool:
    """Compared by digest, so that a failure prints no megabytes."""
    return hashlib.sha256(one).digest() == hashlib.sha256(other).digest()


def data_of(chunks: Iterable[OutputChunk]) -> bytes:
    return b"".join(chunk.data for chunk in chunks)


def run_to_the_brim(box: bay.Box, proc: bay.Proc) -> None:
    """Return once it has printed all that is kept for a reader who is not there."""
    while proc.refresh().output_bytes < MIB:
        pass


def test_output_is_whole_for_one_that_comes_after_the_buffer_is_full(box: bay.Box) -> None:
    proc = box.spawn(SEQ)
    run_to_the_brim(box, proc)
    assert same(data_of(proc.output()), NUMBERS)
    assert proc.info.exit_code == 0


def test_an_attachment_is_whole_that_comes_after_the_buffer_is_full(box: bay.Box) -> None:
    proc = box.spawn(SEQ)
    run_to_the_brim(box, proc)
    with proc.attach() as attachment:
        assert same(data_of(attachment), NUMBERS)


def test_waiting_gives_the_output_too(box: bay.Box) -> None:
    proc = box.spawn(SEQ)
    result = proc.wait(60)
    assert result.ok
    assert same(result.stdout_bytes, NUMBERS)
    assert proc.wait().omitted_bytes == 0


def test_one_that_is_started_for_nobody_waits_for_nobody(box: bay.Box) -> None:
    proc = box.spawn(SEQ, wait_for_reader=False)
    result = proc.wait(60)
    assert result.exit_code == 0
    assert result.truncated
    assert not result.ok
    assert next(proc.output()).offset > 0


def test_a_run_has_all_of_the_output_in_its_order(box: bay.Box) -> None:
    result = box.run(
        ["sh", "-c", f"echo first >&2; sleep 0.3; seq {COUNT}; sleep 0.3; echo last >&2"], check=True
    )
    assert same(result.stdout_bytes, NUMBERS)
    assert result.stderr == "first\nlast\n"
    assert same(result.output_bytes, b"first\n" + NUMBERS + b"last\n")
    assert result.returncode == 0


@pytest.mark.parametrize(
    ("keep", "expected"),
    [("head", NUMBERS[:1000]), ("tail", NUMBERS[-1000:]), ("both", NUMBERS[:500] + NUMBERS[-500:])],
)
def test_a_run_that_is_to_keep_less_says_so(box: bay.Box, keep: Any, expected: bytes) -> None:
    result = box.run(SEQ, max_output_bytes=1000, keep=keep)
    assert result.stdout_bytes == expected
    assert (result.exit_code, result.omitted_bytes) == (0, len(NUMBERS) - 1000)
    assert not result.ok
    assert str(result).endswith(f"[{len(NUMBERS) - 1000} bytes of output are missing]")
    with pytest.raises(bay.CommandFailed, match="bytes of its output are missing"):
        result.check()


def test_a_small_output_is_cut_in_the_same_way(box: bay.Box) -> None:
    result = box.run("printf 0123456789", max_output_bytes=4, keep="both")
    assert (result.stdout, result.omitted_bytes) == ("0189", 6)


def test_bytes_that_are_no_text_stay_as_they_are(box: bay.Box) -> None:
    assert box.run(["printf", r"\377\000\376"]).stdout_bytes == b"\xff\0\xfe"


def test_the_end_has_the_number_that_a_shell_gives_it(box: bay.Box) -> None:
    assert box.run("kill -KILL $$").returncode == 128 + 9
    assert box.run("exit 3").returncode == 3
    assert box.run("sleep 60", timeout_s=0.3).returncode == 124


def test_what_was_read_otherwise_is_not_missed(box: bay.Box) -> None:
    proc = box.spawn(SEQ)
    assert same(data_of(proc.output()), NUMBERS)
    result = proc.wait()
    assert result.truncated
    assert result.check().ok


def test_a_reader_waits_no_longer_than_it_says(box: bay.Box) -> None:
    proc = box.spawn("echo one; read x; echo two", stdin_open=True)
    with proc.attach() as attachment:
        first = attachment.read(20)
        assert first is not None
        assert first.data == b"one\n"
        with pytest.raises(bay.Timeout):
            attachment.read(0.2)
        attachment.write("\n")
        second = attachment.read(20)
        assert second is not None
        assert second.data == b"two\n"
        assert attachment.read(20) is None


def test_a_follower_waits_no_longer_than_it_says(box: bay.Box) -> None:
    proc = box.spawn("echo one; read x", stdin_open=True)
    chunks = proc.output(timeout_s=0.3)
    assert next(chunks).data == b"one\n"
    with pytest.raises(bay.Timeout):
        next(chunks)
    with pytest.raises(bay.Timeout):
        proc.wait(0.2)
    proc.close_stdin()
    assert proc.wait(20).exit_code == 1


def test_a_key_that_may_only_read_keeps_nobody_waiting(box: bay.Box, served: tuple[str, str]) -> None:
    proc = box.spawn("echo begun; read go; exec seq 10000000", stdin_open=True, wait_for_reader=False)
    with bay.Client(*served) as admin:
        key = admin.keys.create("looker", scope="read")
    with bay.Client(served[0], key.secret) as looker:
        chunks = looker.sandboxes.get(box.id).execs.get(proc.id).output(wait_for_reader=True)
        assert (
            next(chunks).data == b"begun\n"
        )  # and of the 79 MB behind it no more than lies in buffers on the way
        proc.write("go\n")
        assert proc.wait(30).exit_code == 0
        chunks.close()


def test_a_run_that_is_cancelled_ends_its_command(served: tuple[str, str]) -> None:
    async def cancelled() -> str:
        async with bay.AsyncClient(*served) as client, client.sandbox() as box:
            with anyio.move_on_after(1):
                await box.run("echo $$ > pid; exec sleep 60", timeout_s=None)
            return (await box.run("kill -0 $(cat pid) 2>/dev/null && echo runs")).stdout

    assert anyio.run(cancelled) == ""


def test_a_start_that_is_cancelled_leaves_no_command(served: tuple[str, str]) -> None:
    async def cancelled() -> list[str]:
        async with bay.AsyncClient(*served) as client, client.sandbox() as box:
            await box.stop()
            seen = await client.sandboxes.get(box.id)
            came = list[bay.AsyncProc]()

            async def spawn() -> None:
                came.append(await box.spawn("sleep 60"))

            with anyio.fail_after(60):
                async with anyio.create_task_group() as group:
                    group.start_soon(spawn)
                    while (await seen.refresh()).compute == "cold":
                        pass
                    group.cancel_scope.cancel()
            await box.run("true")  # what was under way has begun by now
            kept = {proc.id for proc in came}
            return [
                proc.id
                async for proc in box.execs.list()
                if proc.info.state == "running" and proc.id not in kept
            ]

    assert anyio.run(cancelled) == []


def test_a_run_takes_more_input_than_a_request_carries(box: bay.Box, served: tuple[str, str]) -> None:
    large = bytes(range(256)) * (80 << 10)
    result = box.run("cat", stdin=large, max_output_bytes=64 * MIB)
    assert result.ok
    assert same(result.stdout_bytes, large)
    assert box.run("head -c 3", stdin=large).stdout_bytes == b"\0\1\2"

    async def fed() -> bytes:
        async with bay.AsyncClient(*served) as client:
            other = await client.sandboxes.get(box.id)
            return (await other.run("sha256sum", stdin=large)).stdout_bytes

    assert anyio.run(fed).split()[0] == hashlib.sha256(large).hexdigest().encode()


def test_input_is_fed_by_one_request(box: bay.Box) -> None:
    proc = box.spawn("sha256sum", stdin_open=True)
    proc.feed(iter([b"one", b"two", b"three"]))
    proc.close_stdin()
    assert proc.wait(30).stdout.split()[0] == hashlib.sha256(b"onetwothree").hexdigest()
