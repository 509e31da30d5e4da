"""Being attached through the SDK: output and input over a WebSocket, and what becomes of it
when that breaks.
"""

import json
import threading
from collections.abc import Iterator

import anyio
import attach_standin
import pytest
from attach_standin import EXEC_ID
from real_bay import KEY

import bay
from bay.client import _socket

LINES = "i=0; while [ $i -lt 300 ]; do echo line $i; i=$((i+1)); done; exit 7"
EXPECTED = b"".join(b"line %d\n" % number for number in range(300))


@pytest.fixture(scope="module")
def attach_server() -> Iterator[tuple[str, attach_standin.World]]:
    with attach_standin.standing_in() as served:
        yield served


@pytest.fixture
def world(attach_server: tuple[str, attach_standin.World]) -> Iterator[attach_standin.World]:
    attach_server[1].clear()
    yield attach_server[1]
    attach_server[1].clear()


@pytest.fixture
def box(attach_server: tuple[str, attach_standin.World], world: attach_standin.World) -> Iterator[bay.Box]:
    with bay.Client(attach_server[0], KEY, timeout_s=10, retry_s=3) as client:
        yield client.sandboxes.get("box")


def proc(box: bay.Box) -> bay.Proc:
    return box.execs.get(EXEC_ID)


def refusal(status: int, code: str, **details: object) -> tuple[int, bytes, dict[str, str]]:
    body = {"error": {"code": code, "message": f"a {code}", "details": details, "request_id": "req-7"}}
    return status, json.dumps(body).encode(), {"Content-Type": "application/json"}


def test_output_comes_with_its_streams_and_offsets_until_the_end(
    world: attach_standin.World, box: bay.Box
) -> None:
    world.spawn("sh", "-c", "printf abc; read x; printf de >&2; exit 5")
    with proc(box).attach() as attachment:
        seen: list[tuple[int, str, bytes]] = []
        for chunk in attachment:
            seen.append((chunk.offset, chunk.stream, chunk.data))
            if len(seen) == 1:
                attachment.write("go\n")
        assert seen == [(0, "stdout", b"abc"), (3, "stderr", b"de")]
        assert (attachment.exit and attachment.exit.exit_code, attachment.offset) == (5, 5)


def test_input_its_end_sizes_and_signals_arrive(world: attach_standin.World, box: bay.Box) -> None:
    world.spawn("sh", "-c", "trap 'echo got it' USR1; cat; exit 3")
    with proc(box).attach() as attachment:
        output = iter(attachment)
        attachment.write(b"\x00\xff\n")
        assert next(output).data == b"\x00\xff\n"
        attachment.send_eof()
        assert b"".join(chunk.data for chunk in output) == b""
        assert attachment.exit
        assert attachment.exit.exit_code == 3
        with pytest.raises(bay.Conflict, match="has ended"):
            attachment.write("more")


def test_a_terminal_is_made_in_one_call_and_resized(world: attach_standin.World, box: bay.Box) -> None:
    with box.terminal(rows=11, cols=33) as terminal:
        terminal.write("stty size; echo $(( 40 + 2 ))\n")
        text = b""
        for chunk in terminal:
            assert chunk.stream == "tty"
            text += chunk.data
            if (
                b"42" in text
                and b"11 33" in text
                and {"type": "resize", "rows": 5, "cols": 6} not in world.heard
            ):
                terminal.resize(5, 6)
                terminal.write("stty size; exit 9\n")
        assert b"5 6" in text
        assert terminal.exit
        assert terminal.exit.exit_code == 9


def test_coming_back_to_a_terminal_draws_its_last_screen(world: attach_standin.World, box: bay.Box) -> None:
    world.spawn("cat", tty=True)
    with box.terminal(exec_id=EXEC_ID) as terminal:
        assert next(iter(terminal)).data == attach_standin.SCREEN
    # Without a size: others may be at that terminal, with one that suits them.
    assert world.asked[-1].endswith(f"/terminal?exec={EXEC_ID}")
    with box.terminal(5, 6, EXEC_ID):
        assert world.asked[-1].endswith(f"/terminal?rows=5&cols=6&exec={EXEC_ID}")


@pytest.mark.parametrize("cut", [0, 1, 2, 7, 100, 900])
def test_a_connection_that_breaks_anywhere_loses_and_doubles_nothing(
    world: attach_standin.World, box: bay.Box, cut: int
) -> None:
    world.spawn("sh", "-c", LINES)
    world.faults.cuts = [cut, cut + 1, cut + 3]
    with proc(box).attach() as attachment:
        assert b"".join(chunk.data for chunk in attachment) == EXPECTED
        assert attachment.exit
        assert attachment.exit.exit_code == 7
    assert world.faults.cuts == []


@pytest.mark.parametrize("code", [1000, 1011, 1012, 4502])
def test_a_server_that_says_come_back_is_come_back_to(
    world: attach_standin.World, box: bay.Box, code: int
) -> None:
    world.spawn("sh", "-c", "echo here")
    world.faults.closes = [(code, "later"), (code, "later")]
    with proc(box).attach() as attachment:
        assert b"".join(chunk.data for chunk in attachment) == b"here\n"


def test_a_line_on_which_nothing_comes_any_more_is_given_up_for_a_new_one(
    world: attach_standin.World, box: bay.Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_socket, "SILENCE_S", 0.2)
    world.spawn("printf", "abc")
    world.faults.mutes = [0, 0]
    with proc(box).attach() as attachment:
        assert b"".join(chunk.data for chunk in attachment) == b"abc"
    assert world.faults.mutes == []


def test_a_line_on_which_only_pings_come_is_kept(
    world: attach_standin.World, box: bay.Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_socket, "SILENCE_S", 10 * attach_standin.PING_S)
    world.spawn("printf", "abc")
    world.faults.mutes = [15]
    with proc(box).attach() as attachment:
        assert b"".join(chunk.data for chunk in attachment) == b"abc"
    assert len(world.sockets) == 1


def test_a_server_that_takes_no_input_for_long_is_not_hung_up_on(
    world: attach_standin.World, box: bay.Box
) -> None:
    # Bay reads nothing, the client's pings neither, while the command takes nothing.
    world.spawn("cat")
    with proc(box).attach() as attachment:
        assert attachment._line  # pyright: ignore[reportPrivateUsage]
        connection = attachment._line.socket._connection  # pyright: ignore[reportPrivateUsage]
        assert connection.ping_interval is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1009, bay.PayloadTooLarge),
        (4400, bay.InvalidArgument),
        (4403, bay.Unauthorized),
        (4404, bay.NotFound),
        (4409, bay.Conflict),
        (4429, bay.QuotaExceeded),
        (4999, bay.BayError),
    ],
)
def test_any_other_close_is_the_error_it_stands_for(
    world: attach_standin.World, box: bay.Box, code: int, kind: type[bay.BayError]
) -> None:
    world.spawn("cat")
    world.faults.closes = [(code, "the reason")]
    with proc(box).attach() as attachment, pytest.raises(bay.BayError, match="the reason") as caught:
        next(iter(attachment))
    assert type(caught.value) is kind


def test_falling_behind_is_a_jump_or_an_error_where_every_byte_was_wanted(
    world: attach_standin.World, box: bay.Box
) -> None:
    program = world.spawn("sh", "-c", "printf abcdef; exec cat")
    program.after(5)
    world.faults.closes = [(4410, "first_offset=4")]
    with proc(box).attach() as attachment:
        chunk = next(iter(attachment))
        assert (chunk.offset, chunk.data) == (4, b"ef")
    world.faults.closes = [(4410, "first_offset=4")]
    with proc(box).attach(since=0) as attachment, pytest.raises(bay.OutputGone) as caught:
        next(iter(attachment))
    assert caught.value.details["first_offset"] == 4


def test_falling_behind_on_a_screen_draws_it_anew(world: attach_standin.World, box: bay.Box) -> None:
    program = world.spawn("sh", "-c", "printf abcdef; exec cat", tty=True)
    program.after(5)
    with proc(box).attach(repaint=True) as attachment:
        output = iter(attachment)
        assert next(output).data == attach_standin.SCREEN
        world.sockets[-1].close(4410, "first_offset=9")
        assert next(output).data == attach_standin.SCREEN
    assert [path.partition("?")[2] for path in world.asked[-2:]] == ["repaint=true", "repaint=true"]


def test_a_screen_is_drawn_only_where_output_is_gone_when_there_is_a_since(
    world: attach_standin.World, box: bay.Box
) -> None:
    program = world.spawn("sh", "-c", "printf abcdef; exec cat", tty=True)
    program.after(5)
    with proc(box).attach(0, repaint=True) as attachment:
        output = iter(attachment)
        assert next(output).data == b"abcdef"
        world.sockets[-1].close(4410, "first_offset=9")
        assert next(output).data == attach_standin.SCREEN


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "unauthorized", bay.Unauthorized),
        (404, "not_found", bay.NotFound),
        (409, "conflict", bay.Conflict),
    ],
)
def test_a_refusal_before_the_upgrade_is_the_error_it_names(
    world: attach_standin.World, box: bay.Box, status: int, code: str, kind: type[bay.BayError]
) -> None:
    world.spawn("cat")
    world.faults.refusals = [refusal(status, code)]
    with pytest.raises(kind, match=f"a {code}") as caught, proc(box).attach():
        pytest.fail("it must not be attached")
    assert caught.value.request_id == "req-7"


def test_output_that_is_gone_before_the_upgrade_is_skipped_or_an_error(
    world: attach_standin.World, box: bay.Box
) -> None:
    world.spawn("printf", "abcdef")
    world.faults.refusals = [refusal(410, "output_gone", first_offset=4)]
    with proc(box).attach() as attachment:
        assert [(chunk.offset, chunk.data) for chunk in attachment] == [(4, b"ef")]
    world.faults.refusals = [refusal(410, "output_gone", first_offset=4)]
    with pytest.raises(bay.OutputGone), proc(box).attach(since=1):
        pytest.fail("it must not be attached")


def test_a_server_that_is_busy_is_asked_again(world: attach_standin.World, box: bay.Box) -> None:
    world.spawn("printf", "abc")
    world.faults.refusals = [refusal(503, "session_not_ready")]
    with proc(box).attach() as attachment:
        assert b"".join(chunk.data for chunk in attachment) == b"abc"


@pytest.mark.parametrize("status", [200, 302, 500])
def test_what_is_not_bay_is_said_to_be_so(world: attach_standin.World, box: bay.Box, status: int) -> None:
    world.spawn("cat")
    world.faults.refusals = [(status, b"<html>", {"Content-Type": "text/html"})]
    with pytest.raises(bay.BayError, match=r"not an answer of Bay|redirect"), proc(box).attach():
        pytest.fail("it must not be attached")


def test_a_redirect_is_not_followed(
    attach_server: tuple[str, attach_standin.World], world: attach_standin.World, box: bay.Box
) -> None:
    world.spawn("cat")
    world.faults.refusals = [(302, b"", {"Location": f"ws{attach_server[0][4:]}/elsewhere"})]
    with pytest.raises(bay.BayError, match="redirect"), proc(box).attach():
        pytest.fail("it must not be attached")
    assert "/elsewhere" not in world.asked


@pytest.mark.parametrize("frame", ["{", "[]", "{}", b"\x01abc", '{"type": "attached", "next_offset": -1}'])
def test_a_first_frame_that_is_none_is_an_error(
    world: attach_standin.World, box: bay.Box, frame: str | bytes
) -> None:
    world.spawn("cat")
    world.faults.first = [frame]
    with pytest.raises(bay.BayError, match="server"), proc(box).attach():
        pytest.fail("it must not be attached")


@pytest.mark.parametrize("frame", ["no json", b"", b"\x63data", b"\x01" + bytes(5 << 20)])
def test_garbage_is_an_error_and_no_hang(
    world: attach_standin.World, box: bay.Box, frame: str | bytes
) -> None:
    world.spawn("cat")
    world.faults.then = [frame]
    with proc(box).attach() as attachment, pytest.raises(bay.BayError):
        next(iter(attachment))


def test_frames_of_a_newer_server_are_passed_over(world: attach_standin.World, box: bay.Box) -> None:
    world.spawn("printf", "abc")
    world.faults.then = ['{"type": "weather"}']
    with proc(box).attach() as attachment:
        assert b"".join(chunk.data for chunk in attachment) == b"abc"


def test_leaving_ends_who_iterates_and_leaves_the_command(world: attach_standin.World, box: bay.Box) -> None:
    program = world.spawn("cat")
    with proc(box).attach() as attachment:
        timer = threading.Timer(0.05, attachment.close)
        timer.start()
        assert list(attachment) == []
        timer.join()
    assert program.running


def test_while_input_is_not_taken_output_comes_and_one_can_leave(
    world: attach_standin.World, box: bay.Box
) -> None:
    world.spawn("sh", "-c", "while :; do echo tick; sleep 0.01; done")
    left: list[BaseException] = []
    attachment = proc(box).attach().__enter__()
    writer = threading.Thread(target=_write_too_much, args=(attachment, left), daemon=True)
    writer.start()
    leaving = threading.Timer(1, attachment.close)
    leaving.start()
    ticks = sum(len(chunk.data) for chunk in attachment) // 5
    leaving.join(10)
    writer.join(10)
    assert [leaving.is_alive(), writer.is_alive()] == [False, False]
    assert ticks > 20
    assert [type(error) for error in left] == [bay.ConnectionFailed]


def _write_too_much(attachment: bay.Attachment, left: list[BaseException]) -> None:
    """More than a pipe and the sockets on the way to it hold."""
    try:
        attachment.write(bytes(64 << 20))
    except bay.BayError as error:
        left.append(error)


def test_a_server_that_stays_away_is_given_up_after_retry_s(
    box: bay.Box, world: attach_standin.World
) -> None:
    world.spawn("cat")
    found = proc(box)
    with (
        bay.Client("http://127.0.0.1:9", KEY, retry_s=0.3) as nobody,
        pytest.raises(bay.ConnectionFailed, match="cannot reach"),
    ):
        bay.Proc(nobody._http, found._sandbox_id, found.info).attach().__enter__()  # pyright: ignore[reportPrivateUsage]


def test_a_server_that_resets_the_upgrade_is_asked_again(world: attach_standin.World, box: bay.Box) -> None:
    world.spawn("printf", "abc")
    world.faults.resets = 2
    with proc(box).attach() as attachment:
        assert b"".join(chunk.data for chunk in attachment) == b"abc"
    assert world.faults.resets == 0


def test_a_reset_at_any_point_of_the_upgrade_is_a_connection_that_broke() -> None:
    with (
        attach_standin.resetting(apart_s=2e-5) as url,
        bay.Client(url, KEY, retry_s=0) as client,
    ):
        for _ in range(80):
            with pytest.raises(bay.ConnectionFailed):
                _socket.Socket.open(client._http.config, "/v1/any", {})  # pyright: ignore[reportPrivateUsage]


def test_a_shell_whose_start_may_have_been_heard_is_not_started_twice(
    world: attach_standin.World, box: bay.Box
) -> None:
    world.faults.first = ["{"]
    world.faults.closes = [(1012, "")]
    with pytest.raises(bay.BayError), box.terminal():
        pytest.fail("it must not be attached")
    assert len([path for path in world.asked if "terminal" in path]) == 1


def test_a_write_goes_through_the_connection_that_was_made_anew(
    world: attach_standin.World, box: bay.Box
) -> None:
    world.spawn("cat")
    with proc(box).attach() as attachment:
        world.sockets[-1].close(1012, "back soon")
        attachment.write("still here\n")
        assert next(iter(attachment)).data == b"still here\n"


@pytest.mark.anyio
async def test_the_async_client_does_the_same(
    attach_server: tuple[str, attach_standin.World], world: attach_standin.World
) -> None:
    world.spawn("sh", "-c", LINES)
    world.faults.cuts = [5, 700]
    async with bay.AsyncClient(attach_server[0], KEY, timeout_s=10, retry_s=3) as client:
        found = await (await client.sandboxes.get("box")).execs.get(EXEC_ID)
        async with found.attach(since=0) as attachment:
            assert b"".join([chunk.data async for chunk in attachment]) == EXPECTED
            assert attachment.exit
            assert attachment.exit.exit_code == 7


@pytest.mark.anyio
async def test_the_async_client_gives_up_a_silent_line_and_sends_no_pings(
    attach_server: tuple[str, attach_standin.World],
    world: attach_standin.World,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_socket, "SILENCE_S", 10 * attach_standin.PING_S)
    world.spawn("printf", "abc")
    world.faults.mutes = [0, 15]
    async with bay.AsyncClient(attach_server[0], KEY, timeout_s=10, retry_s=3) as client:
        found = await (await client.sandboxes.get("box")).execs.get(EXEC_ID)
        async with found.attach() as attachment:
            assert b"".join([chunk.data async for chunk in attachment]) == b"abc"
            assert attachment._line  # pyright: ignore[reportPrivateUsage]
            assert attachment._line.socket._connection.ping_interval is None  # pyright: ignore[reportPrivateUsage]
    assert len(world.sockets) == 2


@pytest.mark.anyio
async def test_the_async_client_writes_and_raises_what_a_close_stands_for(
    attach_server: tuple[str, attach_standin.World], world: attach_standin.World
) -> None:
    world.spawn("cat")
    async with bay.AsyncClient(attach_server[0], KEY, timeout_s=10, retry_s=3) as client:
        found = await (await client.sandboxes.get("box")).execs.get(EXEC_ID)
        async with found.attach() as attachment:
            output = aiter(attachment)
            await attachment.write("hello\n")
            assert (await anext(output)).data == b"hello\n"
            world.sockets[-1].close(4404, "it is gone")
            with pytest.raises(bay.NotFound, match="it is gone"):
                await anext(output)


@pytest.mark.anyio
async def test_the_async_client_follows_no_redirect(
    attach_server: tuple[str, attach_standin.World], world: attach_standin.World
) -> None:
    world.spawn("cat")
    async with bay.AsyncClient(attach_server[0], KEY, timeout_s=10, retry_s=3) as client:
        found = await (await client.sandboxes.get("box")).execs.get(EXEC_ID)
        world.faults.refusals = [(302, b"", {"Location": f"ws{attach_server[0][4:]}/elsewhere"})]
        with pytest.raises(bay.BayError, match="redirect"):
            async with found.attach():
                pytest.fail("it must not be attached")
    assert "/elsewhere" not in world.asked


@pytest.mark.anyio
async def test_cancelling_who_iterates_hangs_up_and_leaves_the_command(
    attach_server: tuple[str, attach_standin.World], world: attach_standin.World
) -> None:
    program = world.spawn("cat")
    async with bay.AsyncClient(attach_server[0], KEY, timeout_s=10, retry_s=3) as client:
        found = await (await client.sandboxes.get("box")).execs.get(EXEC_ID)
        with anyio.move_on_after(0.1) as scope:
            async with found.attach() as attachment:
                async for _ in attachment:
                    pytest.fail("it prints nothing")
        assert scope.cancelled_caught
    assert program.running
