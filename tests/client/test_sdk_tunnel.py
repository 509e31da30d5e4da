"""TCP connections to ports of a sandbox through the SDK: bytes both ways, each direction with its own end,
and what becomes of a break.
"""

import socket
import threading
from collections.abc import Callable, Iterator

import anyio
import pytest
import tunnel_standin
from real_bay import KEY
from tunnel_standin import running

import bay
from bay.client import _socket

pytestmark = pytest.mark.pure

SIZE = 3 << 20


@pytest.fixture(scope="module")
def tunnel_server() -> Iterator[tuple[str, tunnel_standin.World]]:
    with tunnel_standin.standing_in() as served:
        yield served


@pytest.fixture
def world(tunnel_server: tuple[str, tunnel_standin.World]) -> tunnel_standin.World:
    tunnel_server[1].ended.clear()
    return tunnel_server[1]


@pytest.fixture
def box(tunnel_server: tuple[str, tunnel_standin.World]) -> Iterator[bay.Box]:
    with bay.Client(tunnel_server[0], KEY, timeout_s=10, retry_s=3) as client:
        yield client.sandboxes.get("box")


def all_of(tunnel: bay.Tunnel) -> bytes:
    """What comes to its end."""
    return b"".join(iter(tunnel.receive, b""))


def test_bytes_go_both_ways_and_each_direction_ends_by_itself(
    world: tunnel_standin.World, box: bay.Box
) -> None:
    with running(tunnel_standin.echo) as app:
        world.listen(80, app)
        with box.tunnel(80) as tunnel:
            tunnel.send(b"one ")
            assert tunnel.receive() == b"one "
            tunnel.send(bytearray(b"two"))
            tunnel.send(b"")
            tunnel.send_eof()
            assert all_of(tunnel) == b"two"
            assert tunnel.receive() == b""


def test_a_program_that_answers_at_the_end_of_what_it_reads_is_heard(
    world: tunnel_standin.World, box: bay.Box
) -> None:
    with running(tunnel_standin.count) as app:
        world.listen(80, app)
        with box.tunnel(80) as tunnel:
            tunnel.send(bytes(SIZE))
            tunnel.send_eof()
            assert all_of(tunnel) == b"%d bytes\n" % SIZE


def test_more_can_be_sent_after_the_program_has_ended_its_direction(
    world: tunnel_standin.World, box: bay.Box
) -> None:
    with running(tunnel_standin.greet) as app:
        world.listen(80, app)
        with box.tunnel(80) as tunnel:
            assert all_of(tunnel) == b"hello\n"
            tunnel.send(b"thanks")
            tunnel.send_eof()


def test_one_thread_sends_while_another_receives(world: tunnel_standin.World, box: bay.Box) -> None:
    data = bytes(range(256)) * (SIZE // 256)
    with running(tunnel_standin.echo) as app:
        world.listen(80, app)
        with box.tunnel(80) as tunnel:
            sender = threading.Thread(target=lambda: (tunnel.send(data), tunnel.send_eof()), daemon=True)
            sender.start()
            assert all_of(tunnel) == data
            sender.join(10)


def test_a_port_on_which_nothing_listens_is_said_to_be_closed(box: bay.Box) -> None:
    with pytest.raises(bay.PortClosed, match="listens on port 81") as caught, box.tunnel(81):
        pytest.fail("there is nothing to be connected to")
    assert caught.value.request_id == "req-7"


def test_a_sandbox_that_is_not_ready_is_waited_for(world: tunnel_standin.World, box: bay.Box) -> None:
    world.refusals = [(503, "session_not_ready"), (503, "session_not_ready")]
    with running(tunnel_standin.greet) as app:
        world.listen(80, app)
        with box.tunnel(80) as tunnel:
            assert all_of(tunnel) == b"hello\n"


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (1001, "away", bay.ConnectionFailed),
        (1012, "Bay is shutting down", bay.ConnectionFailed),
        (4502, "the sandbox was stopped", bay.ConnectionFailed),
        (4502, "port_closed: it is gone", bay.PortClosed),
        (4403, "the key was revoked", bay.Unauthorized),
        (4404, "the sandbox was deleted", bay.NotFound),
    ],
)
def test_a_tunnel_that_breaks_is_the_error_it_stands_for(
    world: tunnel_standin.World, box: bay.Box, code: int, reason: str, kind: type[bay.BayError]
) -> None:
    with running(tunnel_standin.echo) as app:
        world.listen(80, app)
        with box.tunnel(80) as tunnel:
            world.hang_up(code, reason)
            for act in (tunnel.receive, lambda: tunnel.send(b"x"), tunnel.send_eof):
                with pytest.raises(bay.BayError) as caught:
                    act()
                assert type(caught.value) is kind


def test_a_connection_that_is_cut_is_no_end(world: tunnel_standin.World, box: bay.Box) -> None:
    with running(tunnel_standin.echo) as app:
        world.listen(80, app)
        with box.tunnel(80) as tunnel:
            world.break_off()
            with pytest.raises(bay.ConnectionFailed, match="the tunnel to port 80 broke"):
                tunnel.receive()


def test_a_program_that_resets_is_no_end(world: tunnel_standin.World, box: bay.Box) -> None:
    with running(tunnel_standin.drop) as app:
        world.listen(80, app)
        with box.tunnel(80) as tunnel:
            tunnel.send(b"x")
            with pytest.raises(bay.ConnectionFailed, match="reset"):
                tunnel.receive()


def test_a_program_that_has_closed_its_connection_takes_no_more(
    world: tunnel_standin.World, box: bay.Box
) -> None:
    with running(tunnel_standin.echo) as app:
        world.listen(80, app)
        with box.tunnel(80) as tunnel:
            world.hang_up(1000, "")
            assert tunnel.receive() == b""
            tunnel.send_eof()
            with pytest.raises(bay.Conflict, match="nothing more can be sent"):
                tunnel.send(b"x")


def test_leaving_in_mid_stream_resets_the_connection_of_the_program(
    world: tunnel_standin.World, box: bay.Box
) -> None:
    source = tunnel_standin.Source(64 << 20)
    left = threading.Event()

    def serve(client: socket.socket) -> None:
        try:
            source(client)
        finally:
            left.set()

    with running(serve) as app:
        world.listen(80, app)
        with box.tunnel(80) as tunnel:
            assert tunnel.receive()
        assert left.wait(10)
    assert source.sent < source.size


def test_what_a_newer_server_says_is_passed_over_and_garbage_is_an_error(
    world: tunnel_standin.World, box: bay.Box
) -> None:
    with running(tunnel_standin.echo) as app:
        world.listen(80, app)
        with box.tunnel(80) as tunnel:
            world.say('{"type": "weather"}')
            world.say(b"")
            tunnel.send(b"x")
            assert tunnel.receive() == b"x"
            world.say("no json")
            with pytest.raises(bay.BayError, match="no json"):
                tunnel.receive()


def test_a_line_on_which_nothing_comes_any_more_is_given_up(
    world: tunnel_standin.World, box: bay.Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_socket, "SILENCE_S", 0.2)
    with running(tunnel_standin.echo) as app:
        world.listen(80, app)
        with box.tunnel(80) as tunnel, pytest.raises(bay.Timeout, match="stopped answering"):
            tunnel.receive()


@pytest.mark.parametrize("act", [bay.Tunnel.receive, bay.Tunnel.send_eof])
def test_a_tunnel_is_used_with_with(box: bay.Box, act: Callable[[bay.Tunnel], object]) -> None:
    with pytest.raises(bay.BayError, match="context manager"):
        act(box.tunnel(80))


@pytest.mark.anyio
async def test_the_async_client_does_the_same(
    tunnel_server: tuple[str, tunnel_standin.World], world: tunnel_standin.World
) -> None:
    data = bytes(range(256)) * (SIZE // 256)
    with running(tunnel_standin.echo) as app:
        world.listen(80, app)
        async with bay.AsyncClient(tunnel_server[0], KEY, timeout_s=10) as client:
            box = await client.sandboxes.get("box")
            received = bytearray()
            async with box.tunnel(80) as tunnel, anyio.create_task_group() as tasks:
                tasks.start_soon(_send_all, tunnel, data)
                while piece := await tunnel.receive():
                    received += piece
            assert received == data
            with pytest.raises(bay.PortClosed):
                async with box.tunnel(81):
                    pytest.fail("there is nothing to be connected to")


async def _send_all(tunnel: bay.AsyncTunnel, data: bytes) -> None:
    await tunnel.send(data)
    await tunnel.send_eof()


@pytest.mark.anyio
async def test_cancelling_who_receives_hangs_up(
    tunnel_server: tuple[str, tunnel_standin.World], world: tunnel_standin.World
) -> None:
    left = threading.Event()

    def serve(client: socket.socket) -> None:
        try:
            client.recv(1)
        finally:
            left.set()

    with running(serve) as app:
        world.listen(80, app)
        async with bay.AsyncClient(tunnel_server[0], KEY, timeout_s=10) as client:
            box = await client.sandboxes.get("box")
            with anyio.move_on_after(0.1) as scope:
                async with box.tunnel(80) as tunnel:
                    await tunnel.receive()
        assert scope.cancelled_caught
        assert await anyio.to_thread.run_sync(left.wait, 10)
